import { expect, test } from "bun:test";
import { nearestName } from "../../src/options/nearest-name.ts";

const known = ["hostBudget", "retain", "level", "tag", "1", "2"];

test.each([
  ["hostBuget", "hostBudget"],
  ["hostBudegt", "hostBudget"],
  ["retian", "retain"],
  ["lvl", "level"],
  ["tga", "tag"],
])("nearestName() finds the name when %s is at most 2 edits away", (misspelt, meant) => {
  expect(nearestName(misspelt, known)).toBe(meant);
});

test.each(["budget", "3", "", "hstBgt"])(
  "nearestName() finds none when %j is too far from all",
  (misspelt) => {
    expect(nearestName(misspelt, known)).toBeUndefined();
  },
);
