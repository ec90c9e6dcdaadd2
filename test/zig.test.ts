import { expect, test } from "bun:test";
import { zigBuild } from "../scripts/native.ts";

test("the Zig tests pass, among them that the generated bindings are current", async () => {
  expect(await zigBuild("test")).toBeUndefined();
}, 300_000);
