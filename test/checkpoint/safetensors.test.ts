import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { CaMemAllocator, CamemError, type LoadSafetensorsOptions, loadSafetensors } from "camem";
import { badFiles, entry, fileOf, smallFile, smallHeader } from "./safetensors-files.ts";

const sha256 = (bytes: Uint8Array | undefined) =>
  createHash("sha256")
    .update(bytes ?? "")
    .digest("hex");

describe("loadSafetensors", () => {
  const tag = "safetensors_test";
  let allocator: CaMemAllocator;
  let directory: string;
  let path: string;

  beforeAll(async () => {
    allocator = CaMemAllocator.getInstance();
    directory = await mkdtemp(join(tmpdir(), "camem-safetensors-"));
    path = join(directory, "small.safetensors");
    await writeFile(path, smallFile);
  });

  afterAll(async () => {
    await allocator.close();
    await rm(directory, { recursive: true });
  });

  async function write(name: string, file: Uint8Array): Promise<string> {
    const filePath = join(directory, name);
    await writeFile(filePath, file);
    return filePath;
  }

  async function rejectedLoad(load: Promise<unknown>): Promise<CamemError> {
    const error: unknown = await load.then(
      () => new Error("the load succeeded"),
      (reason: unknown) => reason,
    );
    if (error instanceof CamemError) return error;
    throw error;
  }

  test("loadSafetensors() copies every tensor to device memory under the tag", async () => {
    const tensors = await loadSafetensors(path, { allocator, tag });
    expect([...tensors.keys()]).toEqual(["first", "second", "scalar"]);
    const second = tensors.get("second");
    expect(second).toMatchObject({ name: "second", dtype: "F32", shape: [3], sizeBytes: 12 });
    expect(second?.buffer.tag).toBe(tag);
    expect(second?.buffer.read(0, 12)).toEqual(Uint8Array.from({ length: 12 }, (_, index) => index + 8));
    expect(tensors.get("scalar")?.buffer.read(0, 1)).toEqual(Uint8Array.of(20));
    expect(allocator.getCurrentUsage(tag)).toBeGreaterThanOrEqual(21);
    for (const { buffer } of tensors.values()) buffer.free();
  });

  const options: [string, () => readonly [unknown, unknown], string][] = [
    ["no options", () => [path, undefined], "must be an object"],
    ["an allocator as the options", () => [path, allocator], "allocator is missing"],
    ["no allocator", () => [path, { tag }], "it must be a CaMemAllocator"],
    [
      "a misspelt option",
      () => [path, { allocator, devise: 0 }],
      'has no option "devise"; did you mean "device"?',
    ],
    ["a misspelt backing", () => [path, { allocator, backing: "disk" }], '"host" or "file"'],
    ["tags as an array", () => [path, { allocator, tags: ["a"] }], "an object from name patterns to tags"],
    [
      "tags with a number",
      () => [path, { allocator, tags: { "*": 5 } }],
      "an object from name patterns to tags",
    ],
    ["only as a text", () => [path, { allocator, only: "first" }], "only is"],
    ["onlyTags without into", () => [path, { allocator, onlyTags: [tag] }], "give into"],
    [
      "a pattern of tags that matches nothing",
      () => [path, { allocator, tags: { frist: "a" } }],
      'the pattern "frist" of tags matches no tensor of',
    ],
    ["a misspelt pattern of only", () => [path, { allocator, only: ["scaler"] }], 'did you mean "scalar"?'],
    ["into as an object", () => [path, { allocator, into: {} }], "into is an object"],
    [
      "into with a value that is no tensor",
      () => [path, { allocator, into: new Map([["first", 5]]) }],
      "into is",
    ],
    [
      "into with a tensor without a buffer",
      () => [path, { allocator, into: new Map([["first", {}]]) }],
      "into is",
    ],
    ["an invalid signal", () => [path, { allocator, signal: 5 }], "signal is 5"],
    ["a path that is a number", () => [5, { allocator }], "the path is 5"],
    ["an empty path", () => ["", { allocator }], 'the path is ""'],
    ["a URL that is not a file URL", () => [new URL("https://host/a"), { allocator }], '"https://host/a"'],
  ];
  test.each(options)("loadSafetensors() allocates nothing and throws for %s", async (_name, given, part) => {
    const [where, how] = given();
    const error = await rejectedLoad(loadSafetensors(where as string, how as LoadSafetensorsOptions));
    expect(error.code).toBe("INVALID_ARGUMENT");
    expect(error.message).toContain(part);
    expect(allocator.usage()).toEqual({});
  });

  test("loadSafetensors() accepts a file URL", async () => {
    const tensors = await loadSafetensors(pathToFileURL(path), { allocator, tag });
    expect(tensors.size).toBe(3);
    for (const { buffer } of tensors.values()) buffer.free();
  });

  test("loadSafetensors() allocates a buffer for a tensor without elements", async () => {
    const header = JSON.stringify({ empty: entry("F32", [0], [0, 0]) });
    const tensors = await loadSafetensors(await write("empty.safetensors", fileOf(header, 0)), {
      allocator,
      tag,
    });
    expect(tensors.get("empty")).toMatchObject({ shape: [0], sizeBytes: 0 });
    expect(tensors.get("empty")?.buffer.state).toBe("mapped");
    tensors.get("empty")?.buffer.free();
  });

  test("loadSafetensors() copies several chunks and lets the event loop run between them", async () => {
    const oddBytes = 20 * 1024 * 1024 + 1;
    const header = JSON.stringify({
      odd: entry("U8", [oddBytes], [0, oddBytes]),
      rest: entry("U8", [oddBytes], [oddBytes, 2 * oddBytes]),
    });
    const file = fileOf(header, 2 * oddBytes);
    const largePath = await write("large.safetensors", file);
    let turns = 0;
    // Not a timer: a chunk may take less than the millisecond until a timer is due.
    const count = () => {
      turns++;
      turn = setImmediate(count);
    };
    let turn = setImmediate(count);
    const tensors = await loadSafetensors(largePath, { allocator, tag });
    clearImmediate(turn);
    expect(turns).toBeGreaterThan(0);
    const dataOffsetBytes = 8 + header.length;
    const odd = tensors.get("odd")?.buffer.read(0, oddBytes);
    const rest = tensors.get("rest")?.buffer.read(0, oddBytes);
    expect(sha256(odd)).toBe(sha256(file.subarray(dataOffsetBytes, dataOffsetBytes + oddBytes)));
    expect(sha256(rest)).toBe(sha256(file.subarray(dataOffsetBytes + oddBytes)));
    for (const { buffer } of tensors.values()) buffer.free();
  });

  test.each(badFiles)("loadSafetensors() allocates nothing for: %s", async (_name, file) => {
    const before = allocator.getCurrentUsage();
    const error = await rejectedLoad(
      loadSafetensors(await write("bad.safetensors", file), { allocator, tag }),
    );
    expect(error.code).toBe("SAFETENSORS_INVALID");
    expect(error.message).toContain("bad.safetensors");
    expect(allocator.getCurrentUsage()).toBe(before);
  });

  test("loadSafetensors() allocates nothing when the file is truncated anywhere", async () => {
    const before = allocator.getCurrentUsage();
    const cutPath = await write("cut.safetensors", smallFile);
    for (let sizeBytes = smallFile.length - 1; sizeBytes >= 0; sizeBytes--) {
      await truncate(cutPath, sizeBytes);
      const error = await rejectedLoad(loadSafetensors(cutPath, { allocator, tag }));
      expect(error.code).toBe("SAFETENSORS_INVALID");
    }
    expect(allocator.getCurrentUsage()).toBe(before);
  });

  test.each([
    ["a missing file", "missing.safetensors", "ENOENT"],
    ["a directory", ".", "regular file"],
  ])("loadSafetensors() throws an error that names %s", async (_name, relativePath, named) => {
    const error = await rejectedLoad(loadSafetensors(join(directory, relativePath), { allocator, tag }));
    expect(error.code).toBe("SAFETENSORS_INVALID");
    expect(error.message).toContain(named);
  });

  test("loadSafetensors() refuses a FIFO without waiting for a writer", async () => {
    const fifo = join(directory, "fifo.safetensors");
    expect(spawnSync("mkfifo", [fifo]).status).toBe(0);
    const error = await rejectedLoad(loadSafetensors(fifo, { allocator, tag }));
    expect(error.code).toBe("SAFETENSORS_INVALID");
    expect(error.message).toContain("regular file");
  });

  test("loadSafetensors() frees what it allocated when device memory runs out", async () => {
    const before = allocator.getCurrentUsage();
    // A sparse file: it has the size that the header states, but takes no disk space.
    const totalBytes = allocator.memGetInfo().totalBytes;
    const header = JSON.stringify({
      small: entry("U8", [16], [0, 16]),
      large: entry("U8", [totalBytes], [16, 16 + totalBytes]),
    });
    const hugePath = await write("huge.safetensors", fileOf(header, 16));
    await truncate(hugePath, 8 + header.length + 16 + totalBytes);
    const error = await rejectedLoad(loadSafetensors(hugePath, { allocator, tag }));
    expect(error.code).toBe("OUT_OF_DEVICE_MEMORY");
    expect(allocator.getCurrentUsage()).toBe(before);
  });

  test("loadSafetensors() allocates nothing when its signal is already aborted", async () => {
    const before = allocator.getCurrentUsage();
    const error = await rejectedLoad(loadSafetensors(path, { allocator, tag, signal: AbortSignal.abort() }));
    expect(error.code).toBe("ABORTED");
    expect(allocator.getCurrentUsage()).toBe(before);
  });

  test("loadSafetensors() frees what it allocated when its signal aborts during the load", async () => {
    const before = allocator.getCurrentUsage();
    const sizeBytes = 64 * 1024 * 1024;
    const header = JSON.stringify({ x: entry("U8", [sizeBytes], [0, sizeBytes]) });
    const longPath = await write("long.safetensors", fileOf(header, 0));
    await truncate(longPath, 8 + header.length + sizeBytes);
    const controller = new AbortController();
    const load = loadSafetensors(longPath, { allocator, tag, signal: controller.signal });
    const timer = setInterval(() => {
      if (allocator.getCurrentUsage() > before) controller.abort();
    }, 0);
    const error = await rejectedLoad(load);
    clearInterval(timer);
    expect(error.code).toBe("ABORTED");
    expect(allocator.getCurrentUsage()).toBe(before);
  });

  describe("into", () => {
    test("loadSafetensors({ into }) writes in place and returns the same map", async () => {
      const tensors = await loadSafetensors(path, { allocator, tag });
      const usage = allocator.getCurrentUsage();
      for (const { buffer, sizeBytes } of tensors.values()) buffer.fill(0xee, 0, sizeBytes);
      const again = await loadSafetensors(path, { allocator, tag, into: tensors });
      expect(again).toBe(tensors);
      expect(tensors.get("first")?.buffer.read(0, 8)).toEqual(Uint8Array.of(0, 1, 2, 3, 4, 5, 6, 7));
      expect(allocator.getCurrentUsage()).toBe(usage);
      for (const { buffer } of tensors.values()) buffer.free();
    });

    const others: [string, Record<string, unknown>, number, string][] = [
      [
        "a tensor missing",
        { first: entry("BF16", [2, 2], [0, 8]), second: entry("F32", [3], [8, 20]) },
        20,
        "scalar",
      ],
      ["a tensor too many", { ...JSON.parse(smallHeader), more: entry("U8", [1], [21, 22]) }, 22, "more"],
      ["another dtype", { ...JSON.parse(smallHeader), first: entry("F16", [2, 2], [0, 8]) }, 21, "first"],
      ["another shape", { ...JSON.parse(smallHeader), first: entry("BF16", [4], [0, 8]) }, 21, "first"],
      ["another rank", { ...JSON.parse(smallHeader), scalar: entry("U8", [1], [20, 21]) }, 21, "scalar"],
    ];
    test.each(others)(
      "loadSafetensors({ into }) writes nothing from a file with %s",
      async (_name, header, dataSizeBytes, named) => {
        const tensors = await loadSafetensors(path, { allocator, tag });
        for (const { buffer, sizeBytes } of tensors.values()) buffer.fill(0xee, 0, sizeBytes);
        const otherPath = await write("other.safetensors", fileOf(JSON.stringify(header), dataSizeBytes));
        const error = await rejectedLoad(loadSafetensors(otherPath, { allocator, into: tensors }));
        expect(error.code).toBe("SAFETENSORS_INVALID");
        expect(error.message).toContain(named);
        for (const { buffer, sizeBytes } of tensors.values()) {
          expect(buffer.read(0, sizeBytes)).toEqual(new Uint8Array(sizeBytes).fill(0xee));
          buffer.free();
        }
      },
    );

    test("loadSafetensors({ into }) refuses freed tensors", async () => {
      const tensors = await loadSafetensors(path, { allocator, tag });
      for (const { buffer } of tensors.values()) buffer.free();
      const error = await rejectedLoad(loadSafetensors(path, { allocator, into: tensors }));
      expect(error.code).toBe("BUFFER_FREED");
    });

    test("loadSafetensors({ into }) refuses tensors that are asleep until wakeUp()", async () => {
      const tensors = await loadSafetensors(path, { allocator, tag });
      await allocator.sleep({ level: 2 });
      const error = await rejectedLoad(loadSafetensors(path, { allocator, into: tensors }));
      expect(error.code).toBe("BUFFER_ASLEEP");
      expect(error.message).toContain(tag);
      await allocator.wakeUp();
      await loadSafetensors(path, { allocator, into: tensors });
      expect(tensors.get("scalar")?.buffer.read(0, 1)).toEqual(Uint8Array.of(20));
      for (const { buffer } of tensors.values()) buffer.free();
    });
  });
});
