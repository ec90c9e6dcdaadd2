import { expect, test } from "bun:test";
import { soak } from "./soak.ts";

test("memory and open files do not grow over fifty cycles", async () => {
  const result = await soak(50, 2 ** 24, () => undefined);
  expect(result).toMatchObject({ accountingIdentical: true, freeBytesEqual: true });
  expect(result.openFilesAfter).toBe(result.openFilesBefore);
}, 60_000);
