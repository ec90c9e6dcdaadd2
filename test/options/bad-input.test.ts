/** Invalid input throws a typed error that names the value and the remedy, and changes nothing. */

import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { CaMemAllocator, type CamemErrorCode, type DeviceBuffer, errorCodes } from "camem";
import { failureOf, MiB, onEmulator, setFaults } from "../support/device.ts";

let allocator: CaMemAllocator;
let buffer: DeviceBuffer;
let before: unknown;

const state = () => ({ usage: allocator.usage(), memory: allocator.memGetInfo(), bytes: buffer.read() });

beforeAll(() => {
  allocator = CaMemAllocator.getInstance();
  buffer = allocator.malloc(100, { tag: "weights" });
  buffer.fill(3);
  before = state();
});

afterEach(() => expect(state()).toEqual(before as never));
afterAll(() => allocator.close());

const long = "x".repeat(65);

const reservationCase: [string, () => unknown, CamemErrorCode, string] = [
  "malloc beyond the address space",
  () => {
    setFaults("aclrtReserveMemAddress:1=207001");
    try {
      return allocator.malloc(2 ** 20);
    } finally {
      setFaults("");
    }
  },
  "OUT_OF_DEVICE_MEMORY",
  "the device cannot reserve that much address space at once",
];

const cases: readonly [string, () => unknown, CamemErrorCode, string][] = [
  ...[0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, "4096", null, undefined, 5n].flatMap(
    (size): [string, () => unknown, CamemErrorCode, string][] => [
      [`malloc(${size})`, () => allocator.malloc(size as never), "INVALID_SIZE", "positive whole number"],
      [
        `pool.malloc(${size})`,
        () => allocator.memoryPool("weights").malloc(size as never),
        "INVALID_SIZE",
        "positive",
      ],
    ],
  ),
  ["malloc(5n)", () => allocator.malloc(5n as never), "INVALID_SIZE", "the size is 5n (a bigint)"],
  [
    "malloc on device 0n",
    () => allocator.malloc(1, { device: 0n as never }),
    "UNKNOWN_DEVICE",
    "0n (a bigint)",
  ],
  ["fill with a bigint", () => buffer.fill(5n as never), "INVALID_ARGUMENT", "5n (a bigint)"],
  ["sleep at level 1n", () => allocator.sleep({ level: 1n as never }), "UNKNOWN_LEVEL", "1n (a bigint)"],
  ["read at offset 1n", () => buffer.read(1n as never, 1), "OUT_OF_BOUNDS", "offset 1n (a bigint)"],
  [
    "read of 2 ** 60 bytes",
    () => buffer.read(0, 2 ** 60),
    "OUT_OF_BOUNDS",
    "(too large: beyond 2^53 - 1) bytes",
  ],
  ["malloc of 2 ** 53 bytes", () => allocator.malloc(2 ** 53), "INVALID_SIZE", "no device has 8192 TiB"],
  [
    "pool.malloc of 2 ** 53 bytes",
    () => allocator.memoryPool("weights").malloc(2 ** 53),
    "INVALID_SIZE",
    "no device has 8192 TiB",
  ],
  [
    "malloc of a size as text",
    () => allocator.malloc("512MiB" as never),
    "INVALID_SIZE",
    'a positive whole number of bytes, such as parseSize("512MiB")',
  ],
  ["mallocAll(5)", () => allocator.memoryPool("x").mallocAll(5 as never), "INVALID_ARGUMENT", "5"],
  ["mallocAll([1, -1])", () => allocator.memoryPool("x").mallocAll([1, -1]), "INVALID_SIZE", "-1"],
  ["malloc of 1 PiB", () => allocator.malloc(2 ** 50), "OUT_OF_DEVICE_MEMORY", "1024 TiB"],
  ...(onEmulator ? [reservationCase] : []),
  ["malloc of 65 GiB", () => allocator.malloc(65 * 2 ** 30), "OUT_OF_DEVICE_MEMORY", "65 GiB"],
  ["malloc on device 1e300", () => allocator.malloc(1, { device: 1e300 }), "UNKNOWN_DEVICE", "(too large"],
  ["malloc beyond the device", () => allocator.malloc(2 ** 41), "OUT_OF_DEVICE_MEMORY", "can never fit"],
  [
    "pool malloc beyond the device",
    () => allocator.memoryPool("x").malloc(2 ** 41),
    "OUT_OF_DEVICE_MEMORY",
    "can never fit",
  ],
  ["malloc on device 99", () => allocator.malloc(1, { device: 99 }), "UNKNOWN_DEVICE", "99"],
  ["malloc on device -1", () => allocator.malloc(1, { device: -1 }), "UNKNOWN_DEVICE", "-1"],
  ["malloc on device 0.5", () => allocator.malloc(1, { device: 0.5 }), "UNKNOWN_DEVICE", "0.5"],
  [
    "malloc with a misspelt option",
    () => allocator.malloc(1, { tga: "x" } as never),
    "INVALID_ARGUMENT",
    'malloc has no option "tga"; did you mean "tag"? Its options are "tag", "device"',
  ],
  ["malloc with null", () => allocator.malloc(1, null as never), "INVALID_ARGUMENT", "null"],
  ["memoryPool with null", () => allocator.memoryPool("x", null as never), "INVALID_ARGUMENT", "null"],
  [
    "useMemoryPool without a body",
    () => allocator.useMemoryPool("x", 1 as never),
    "INVALID_ARGUMENT",
    "function",
  ],
  ["onTransition(null)", () => allocator.onTransition(null as never), "INVALID_ARGUMENT", "null"],
  [
    "a misspelt hook",
    () => allocator.onTransition({ beforesleep: () => 0 } as never),
    "INVALID_ARGUMENT",
    'onTransition has no hook "beforesleep"; did you mean "beforeSleep"? Its hooks are',
  ],
  ["memGetInfo(7)", () => allocator.memGetInfo(7), "UNKNOWN_DEVICE", "7"],
  ["an empty tag", () => allocator.malloc(1, { tag: "" }), "INVALID_TAG", '""'],
  ["a tag of 65 bytes", () => allocator.malloc(1, { tag: long }), "INVALID_TAG", "1 to 64 bytes"],
  [
    "a tag of 33 two-byte letters",
    () => allocator.malloc(1, { tag: "ä".repeat(33) }),
    "INVALID_TAG",
    "64 bytes",
  ],
  ["a tag with a line break", () => allocator.malloc(1, { tag: "a\nb" }), "INVALID_TAG", "a\\nb"],
  ["a lone surrogate", () => allocator.malloc(1, { tag: "\ud800" }), "INVALID_TAG", "tag is"],
  ["a tag that is a number", () => allocator.malloc(1, { tag: 5 as never }), "INVALID_TAG", "5"],
  ["useMemoryPool without a tag", () => allocator.useMemoryPool("", () => 0), "INVALID_TAG", '""'],
  ["getCurrentUsage of no tag", () => allocator.getCurrentUsage(""), "INVALID_TAG", '""'],
  ["sleep at level 3", () => allocator.sleep({ level: 3 as never }), "UNKNOWN_LEVEL", "3"],
  ["sleep at level '1'", () => allocator.sleep({ level: "1" as never }), "UNKNOWN_LEVEL", '"1"'],
  ["sleep of no such tag", () => allocator.sleep({ tags: ["wieghts"] }), "UNKNOWN_TAG", "wieghts"],
  ["offload of no such tag", () => allocator.sleep({ offloadTags: ["wieghts"] }), "UNKNOWN_TAG", "wieghts"],
  ["tags as a text", () => allocator.sleep({ tags: "weights" as never }), "INVALID_TAG", "weights"],
  ["an empty tag to sleep", () => allocator.sleep({ tags: [""] }), "INVALID_TAG", '""'],
  [
    "level and offloadTags",
    () => allocator.sleep({ level: 1, offloadTags: [] }),
    "INVALID_ARGUMENT",
    "not both",
  ],
  ["a misspelt option", () => allocator.sleep({ levl: 1 } as never), "INVALID_ARGUMENT", "levl"],
  ["sleep(1)", () => allocator.sleep(1 as never), "INVALID_ARGUMENT", "1"],
  [
    "a signal that is none",
    () => allocator.sleep({ signal: {} as never }),
    "INVALID_ARGUMENT",
    "AbortSignal",
  ],
  [
    "onProgress that is none",
    () => allocator.sleep({ onProgress: 1 as never }),
    "INVALID_ARGUMENT",
    "function",
  ],
  ["wake of no such tag", () => allocator.wakeUp({ tags: ["kv_cash"] }), "UNKNOWN_TAG", "kv_cash"],
  ["wake of an array", () => allocator.wakeUp(["weights"] as never), "INVALID_ARGUMENT", "not an array"],
  ["wake with a level", () => allocator.wakeUp({ level: 1 } as never), "INVALID_ARGUMENT", "level"],
  ["a write beyond the end", () => buffer.write(new Uint8Array(2), 99), "OUT_OF_BOUNDS", "99"],
  ["a write before the start", () => buffer.write(new Uint8Array(2), -1), "OUT_OF_BOUNDS", "-1"],
  ["a write of a text", () => buffer.write("text" as never), "INVALID_ARGUMENT", "text"],
  ["a read beyond the end", () => buffer.read(0, 101), "OUT_OF_BOUNDS", "101"],
  [
    "a read of 1 byte beyond the end",
    () => buffer.read(100, 1),
    "OUT_OF_BOUNDS",
    "1 byte at offset 100 is not",
  ],
  [
    "a read of 2 bytes beyond the end",
    () => buffer.read(99, 2),
    "OUT_OF_BOUNDS",
    "2 bytes at offset 99 are not",
  ],
  ["a read of -1 bytes", () => buffer.read(0, -1), "OUT_OF_BOUNDS", "-1"],
  ["a read from beyond the end", () => buffer.read(101), "OUT_OF_BOUNDS", "offset 101 is not within"],
  ["a read from 0.5", () => buffer.read(0.5), "OUT_OF_BOUNDS", "0.5"],
  [
    "a read from far away",
    () => buffer.read(Number.MAX_SAFE_INTEGER, 1),
    "OUT_OF_BOUNDS",
    "9007199254740991",
  ],
  ["a fill beyond the end", () => buffer.fill(1, 50, 51), "OUT_OF_BOUNDS", "51"],
  ["a fill with 256", () => buffer.fill(256), "INVALID_ARGUMENT", "256"],
  ["a fill with 'a'", () => buffer.fill("a" as never), "INVALID_ARGUMENT", '"a"'],
  [
    "defineTag with a wrong action",
    () => allocator.defineTag("x", { 1: "drop" as never }),
    "INVALID_ARGUMENT",
    'the action of level 1 is "drop"; it must be "keep", "offload" or "discard"',
  ],
  ["defineTag with level 3", () => allocator.defineTag("x", { 3: "keep" } as never), "INVALID_ARGUMENT", "3"],
  [
    "defineTag of sleep_persistent",
    () => allocator.defineTag("sleep_persistent", {}),
    "INVALID_TAG",
    "always kept",
  ],
  [
    "a hook that is none",
    () => allocator.onTransition({ beforeSleep: 1 as never }),
    "INVALID_ARGUMENT",
    "function",
  ],
  [
    "other options",
    () => CaMemAllocator.getInstance({ hostBudget: "3GiB" }),
    "CONFIG_CONFLICT",
    "hostBudget is derived from free memory in the allocator of this process, but 3 GiB in these options; close() that",
  ],
  [
    "prepare with a misspelt option",
    () => allocator.prepare({ lvl: 1 } as never),
    "INVALID_ARGUMENT",
    "prepare",
  ],
  [
    "a second allocator",
    () => new (CaMemAllocator as unknown as new () => unknown)(),
    "INVALID_ARGUMENT",
    "getInstance()",
  ],
  [
    "a wrong option",
    () => CaMemAllocator.getInstance({ backend: "cuda" as never }),
    "INVALID_CONFIG",
    "cuda",
  ],
];

test.each(cases)("%s", async (_name, run, code, part) => {
  const error = await failureOf(run);
  expect(error.code).toBe(code);
  expect(error.message).toContain(part);
  expect(errorCodes).toContain(error.code);
});

test("getInstance() returns the same allocator for the same options", () => {
  expect(CaMemAllocator.getInstance()).toBe(allocator);
  expect(CaMemAllocator.getInstance({ poolSegment: 32 * MiB })).toBe(allocator);
});
