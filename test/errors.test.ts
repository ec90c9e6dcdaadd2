import { expect, test } from "bun:test";
import { CamemError } from "camem";

test("CamemError has no absent properties when printed", () => {
  const plain = new CamemError("INVALID_SIZE", "the size is 0");
  const detailed = new CamemError("ACL_CALL_FAILED", "it failed", { call: "aclInit", aclCode: 5, cause: 1 });
  expect(Object.keys(plain).toSorted()).toEqual(["code", "name", "transitionComplete"]);
  expect(detailed).toMatchObject({ call: "aclInit", aclCode: 5, cause: 1 });
  expect(detailed.address).toBeUndefined();
  for (const error of [plain, detailed]) expect(Bun.inspect(error)).not.toContain("undefined");
});
