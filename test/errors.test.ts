import { expect, test } from "bun:test";
import { inspect } from "node:util";
import { CamemError } from "camem";

test("CamemError has no absent properties when printed", () => {
  const plain = new CamemError("INVALID_SIZE", "the size is 0");
  const detailed = new CamemError("ACL_CALL_FAILED", "it failed", { call: "aclInit", aclCode: 5, cause: 1 });
  expect(Object.keys(plain).toSorted()).toEqual(["code", "name", "transitionComplete"]);
  expect(detailed).toMatchObject({ call: "aclInit", aclCode: 5, cause: 1 });
  expect(detailed.address).toBeUndefined();
  for (const error of [plain, detailed]) expect(inspect(error)).not.toContain("undefined");
});

test("CamemError has the AscendCL call of its cause when it wraps another error", () => {
  const failed = new CamemError("ACL_CALL_FAILED", "it failed", { call: "aclrtFreeHost", aclCode: 507899 });
  const alone = new CamemError("ABORTED", "without a call");
  for (const cause of [failed, new AggregateError([alone, failed])]) {
    const outer = new CamemError("HOOK_FAILED", "it was wrapped", { cause });
    expect(outer).toMatchObject({ call: "aclrtFreeHost", aclCode: 507899 });
    expect(new CamemError("ENGINE_UNAVAILABLE", "twice", { cause: outer }).call).toBe("aclrtFreeHost");
  }
  const own = new CamemError("ACL_CALL_FAILED", "its own", { call: "aclInit", aclCode: 5, cause: failed });
  expect(own).toMatchObject({ call: "aclInit", aclCode: 5 });
  const trap = new Proxy(
    {},
    {
      getPrototypeOf: () => {
        throw new RangeError("trap");
      },
    },
  );
  for (const cause of [undefined, alone, new Error("foreign"), Object.create(null), trap])
    expect(Object.keys(new CamemError("ABORTED", "none", { cause }))).not.toContain("call");
});
