import { expect, test } from "bun:test";
import { NamePatterns } from "../../src/checkpoint/name-patterns.ts";
import { failureOf } from "../support/device.ts";

const cases: [string, string, boolean][] = [
  ["lm_head.weight", "lm_head.weight", true],
  ["lm_head.weight", "lm_head.weights", false],
  ["lm_head.*", "lm_head.weight", true],
  ["lm_head.*", "lm_head", false],
  ["*.weight", "model.norm.weight", true],
  ["*.weight", "model.norm.bias", false],
  ["model.layers.*.mlp.*", "model.layers.7.mlp.up_proj.weight", true],
  ["model.layers.*.mlp.*", "model.layers.7.self_attn.q_proj", false],
  ["*", "", true],
  ["a*a", "a", false],
  ["a*a", "aa", true],
  ["a*b*a", "aba", true],
  ["a*b*a", "ab", false],
  ["a*ab", "aab", true],
  ["**", "anything", true],
  ["a.b", "aXb", false],
  ["", "a", false],
];

test.each(cases)("NamePatterns.match() of %p with %p is %p", (pattern, name, expected) => {
  const patterns = new NamePatterns([pattern], "tags");
  expect(patterns.match(name)).toBe(expected ? pattern : undefined);
});

test("NamePatterns.match() returns the first pattern that matches", () => {
  const patterns = new NamePatterns(["vision.*", "*.bias", "*"], "tags");
  expect(patterns.match("vision.bias")).toBe("vision.*");
  expect(patterns.match("text.bias")).toBe("*.bias");
  expect(patterns.match("text.weight")).toBe("*");
});

const names = ["vision.layers.0.weight", "vision.layers.1.weight", "lm_head.weight"];

test.each([
  [["vison.*"], 'the pattern "vison.*" of tags matches no tensor of model; did you mean "vision.*"?'],
  [["vision.layer.*.weight"], 'did you mean "vision.layers.*.weight"?'],
  [["lm_head.wieght"], 'did you mean "lm_head.weight"?'],
  [["nothing.like.it.*"], "matches no tensor of model; Correct it, or set allowUnmatched"],
  [
    ["*", "lm_head.*"],
    'the pattern "lm_head.*" of tags matches only tensors that an earlier pattern matches',
  ],
])("NamePatterns.assertAllUsed() names the pattern when %p are given", async (texts, part) => {
  const patterns = new NamePatterns(texts, "tags");
  for (const name of names) patterns.match(name);
  const failure = await failureOf(() => patterns.assertAllUsed(names, "model"));
  expect(failure).toMatchObject({ code: "INVALID_ARGUMENT", property: "tags" });
  expect(failure.message).toContain(part);
});

test("NamePatterns.assertAllUsed() suggests nothing when it had to compare thousands of names", async () => {
  const many = Array.from({ length: 5000 }, (_, index) => `tensor.${index + 10_000}`);
  const patterns = new NamePatterns(["tensor.1000x"], "only");
  const failure = await failureOf(() => patterns.assertAllUsed(many, "model"));
  expect(failure.message).not.toContain("did you mean");
});
