import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { visibleProcess } from "../../src/remote/process.ts";

test("visibleProcess() knows a process by its number and its start time", () => {
  const fields = readFileSync("/proc/self/stat", "utf8").split(") ")[1]?.split(" ") ?? [];
  const startTime = Number(fields[19]);
  expect(startTime).toBeGreaterThan(0);
  expect(visibleProcess({ pid: process.pid, startTime })).toBe(process.pid);
  expect(visibleProcess({ pid: process.pid, startTime: startTime - 1 })).toBeUndefined();
  expect(visibleProcess({ pid: 2 ** 30, startTime })).toBeUndefined();
});
