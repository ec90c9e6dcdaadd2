import { expect, test } from "bun:test";
import { checkRules } from "../../src/process/rules.ts";
import { failureOf } from "../support/device.ts";

test.each([
  "size>=256MiB and written=memset: discard",
  "written=host: immutable",
  " written = host+device and device=1 and size < 3 KiB : keep ",
  "written=none: offload",
])("checkRules accepts %p", (rule) => {
  checkRules([rule]);
});

// The same texts as in shim/preload/rules.zig.
test.each([
  ["", "conditions, a colon and an action"],
  ["discard", "conditions, a colon and an action"],
  ["size>=256MiB", "conditions, a colon and an action"],
  [": discard", "conditions, a colon and an action"],
  ["size: discard", '"size" must be a comparison'],
  ["size>=MiB: discard", '"size>=MiB" must be a comparison'],
  ["size>=99999999999999999999GiB: discard", "must be a comparison"],
  ["written>host: discard", "must be written=none, or host, device and memset"],
  ["written=kernel: discard", "must be written=none, or host, device and memset"],
  ["colour=red: discard", "must begin with size, written or device"],
  ["devise=0: discard", "did you mean device?"],
  ["size>=1 or size<2: discard", "write a rule for each of its sides"],
  ["size>=1: lose", 'the action "lose" must be one of'],
  ["size>=1\n: discard", "conditions, a colon and an action"],
])("checkRules refuses %p", async (rule, message) => {
  const { code, message: text } = await failureOf(() => checkRules(["written=host: keep", rule]));
  expect(code).toBe("INVALID_CONFIG");
  expect(text).toContain(message);
});

test("checkRules refuses more rules than the library reads", async () => {
  expect((await failureOf(() => checkRules(Array(65).fill("written=host: keep")))).message).toContain(
    "at most 64",
  );
});
