/** With `backing: "file"` the checkpoint is the backup: it must stay unchanged, and is never written. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type AllocatorOptions, CaMemAllocator, loadSafetensors, type Tensor } from "camem";
import { checkpointOf } from "../support/checkpoint.ts";
import {
  accounting,
  callCount,
  codeOf,
  failureOf,
  granulesBetween,
  MiB,
  nothingHeld,
  onEmulator,
  pattern,
  setFaults,
} from "../support/device.ts";

/** Odd sizes, one larger than the staging memory, and one without elements. */
const contents = {
  small: pattern(1000, 1),
  large: pattern(50 * MiB + 3, 2),
  empty: new Uint8Array(0),
  last: pattern(3 * MiB, 3),
};
const names = Object.keys(contents) as (keyof typeof contents)[];

let allocator: CaMemAllocator;
let tensors: ReadonlyMap<string, Tensor>;
let folder: string;
let path: string;

async function open(options: AllocatorOptions = {}): Promise<void> {
  allocator = CaMemAllocator.getInstance(options);
  tensors = await loadSafetensors(path, { allocator, backing: "file" });
}

async function reopen(options: AllocatorOptions): Promise<void> {
  await allocator.close();
  await open(options);
}

function bufferOf(name: string) {
  const tensor = tensors.get(name);
  if (tensor === undefined) throw new Error(`there is no tensor ${name}`);
  return tensor.buffer;
}

function expectContents(): void {
  for (const name of names) {
    const found = bufferOf(name).read(0, contents[name].length);
    expect(Buffer.compare(found, contents[name])).toBe(0);
  }
}

/** Waits until the clock of file times advances, so that a write changes the time. */
function waitForFileClock(): void {
  const probe = join(folder, "probe");
  const modified = () => {
    writeFileSync(probe, "");
    return statSync(probe, { bigint: true }).mtimeNs;
  };
  const before = modified();
  while (modified() === before);
}

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "camem-file-backing-"));
  path = join(folder, "model.safetensors");
  writeFileSync(path, checkpointOf(contents));
  waitForFileClock();
  await open();
});

afterEach(async () => {
  if (onEmulator) setFaults("");
  await allocator.close();
  if (onEmulator) expect(accounting()).toEqual(nothingHeld);
  const links = readdirSync("/proc/self/fd").map((name) => {
    try {
      return readlinkSync(`/proc/self/fd/${name}`);
    } catch {
      return ""; // that of the listing itself
    }
  });
  expect(links.filter((link) => link.startsWith(folder))).toEqual([]);
  rmSync(folder, { recursive: true });
});

describe.each([
  ["without", false],
  ["with", true],
])("%s verify", (_, verify) => {
  test("sleep() needs no host memory and wakeUp() restores every byte when a checkpoint is the backup", async () => {
    await reopen({ hostBudget: 0, verify });
    for (let cycle = 0; cycle < 3; cycle++) {
      if (onEmulator) setFaults("");
      expect(await allocator.sleep()).toMatchObject({ copiedBytes: 0, offloadedBytes: 54 * MiB });
      if (onEmulator) {
        expect(callCount("aclrtMemcpyAsync")).toBe(0);
        if (!verify) expect(callCount("aclrtMallocHost")).toBe(0);
        expect(accounting()).toMatchObject({ physicalBytes: 0, hostAllocationBytes: 0 });
      }
      expect(await allocator.wakeUp()).toMatchObject({ restoredBytes: 54 * MiB });
      expectContents();
      expect(allocator.hostUsage().pageLockedBytes).toBe(0);
    }
  });
});

test("usage() reports bytes that a checkpoint backs, asleep and awake", async () => {
  const checkpointBytes = 1000 + 50 * MiB + 3 + 3 * MiB;
  expect(allocator.usage()["weights"]).toMatchObject({ checkpointBytes, hostBytes: 0, state: "awake" });
  await allocator.sleep();
  expect(allocator.usage()["weights"]).toMatchObject({ checkpointBytes, hostBytes: 0, state: "asleep" });
});

test("write() throws until markDirty(), after which sleep() makes a backup in host memory", async () => {
  const buffer = bufferOf("last");
  expect(await codeOf(() => buffer.write(new Uint8Array(1)))).toBe("BUFFER_IMMUTABLE");
  expect(await codeOf(() => buffer.fill(1))).toBe("BUFFER_IMMUTABLE");
  expect(await codeOf(() => loadSafetensors(path, { allocator, into: tensors }))).toBe("BUFFER_IMMUTABLE");
  allocator.markDirty("weights");
  const before = readFileSync(path);
  buffer.write(new Uint8Array([9, 9, 9]));
  expect(await allocator.sleep()).toMatchObject({ copiedBytes: 54 * MiB });
  expect(allocator.usage()["weights"]).toMatchObject({ checkpointBytes: 0, hostBytes: 54 * MiB });
  await allocator.wakeUp();
  expect(buffer.read(0, 4)).toEqual(new Uint8Array([9, 9, 9, contents.last[3] ?? 0]));
  expect(Buffer.compare(readFileSync(path), before)).toBe(0);
});

test("backup() reads the checkpoint, with zeros between its tensors", async () => {
  await allocator.sleep();
  const [backup] = allocator.backup("weights");
  const offset = bufferOf("last").ptr - (backup?.ptr ?? 0);
  expect(backup?.read(offset, 100)).toEqual(contents.last.slice(0, 100));
  expect(backup?.read(990, 22)).toEqual(new Uint8Array([...contents.small.slice(990), ...Array(12).fill(0)]));
});

test("loadSafetensors() restores the file backing when it reloads after level 2", async () => {
  await allocator.sleep({ level: 2 });
  expect(allocator.usage()["weights"]?.checkpointBytes).toBe(0);
  await allocator.wakeUp();
  await loadSafetensors(path, { allocator, into: tensors, backing: "file" });
  expect(await allocator.sleep()).toMatchObject({ copiedBytes: 0 });
  await allocator.wakeUp();
  expectContents();
});

/** Sleeps and wakes, with other content on the device in between. */
async function cycleThroughOther(): Promise<void> {
  await allocator.sleep();
  const other = allocator.malloc(80 * MiB, { tag: "sleep_persistent" });
  other.fill(0xee);
  other.free();
  await allocator.wakeUp();
}

describe("separate segments", () => {
  test("malloc() during a load takes a segment that the checkpoint does not back", async () => {
    allocator.markDirty("weights");
    const loading = loadSafetensors(path, { allocator, backing: "file" });
    const pool = allocator.memoryPool("weights");
    const own = [];
    let ended = false;
    loading.finally(() => {
      ended = true;
    });
    while (!ended) {
      const buffer = pool.malloc(512);
      buffer.fill(own.length % 251);
      own.push(buffer);
      await sleep(1);
    }
    await loading;
    await cycleThroughOther();
    for (const [index, buffer] of own.entries())
      expect(buffer.read()).toEqual(new Uint8Array(512).fill(index % 251));
  });

  test("malloc() before a reload takes a segment that the checkpoint does not back", async () => {
    allocator.markDirty("weights");
    const own = allocator.memoryPool("weights").malloc(512);
    own.fill(7);
    await loadSafetensors(path, { allocator, into: tensors, backing: "file" });
    await cycleThroughOther();
    expect(own.read()).toEqual(new Uint8Array(512).fill(7));
    expectContents();
  });

  test("loadSafetensors() refuses tensors that no load allocated", async () => {
    const buffer = allocator.malloc(1000, { tag: "weights" });
    const into = new Map([...tensors].map(([name, tensor]) => [name, { ...tensor, buffer }]));
    const error = await failureOf(() => loadSafetensors(path, { allocator, into, backing: "file" }));
    expect(error.code).toBe("INVALID_ARGUMENT");
  });
});

/** Changes of the file, and the word of the error for each. */
const changes: Record<string, [change: () => void, word: RegExp]> = {
  truncated: [() => truncateSync(path, statSync(path).size - 1), /the size of the checkpoint/],
  "appended to": [() => appendFileSync(path, "x"), /the size of the checkpoint/],
  "rewritten in place": [() => writeFileSync(path, checkpointOf(contents)), /was modified/],
  touched: [() => utimesSync(path, new Date(), new Date()), /was modified/],
};

describe.each(Object.entries(changes))("a checkpoint that was %s", (_, [change, word]) => {
  test("is detected by sleep() before it unmaps memory, and markDirty() lets sleep() make a backup", async () => {
    change();
    const error = await failureOf(() => allocator.sleep());
    expect(error.code).toBe("FILE_CHANGED");
    expect(error.message).toMatch(word);
    expect(error.message).toContain("nothing has changed; call markDirty(tag)");
    expect(allocator.isSleeping).toBe(false);
    expectContents();
    allocator.markDirty("weights");
    await allocator.sleep();
    await allocator.wakeUp();
    expectContents();
  });

  test("is detected by wakeUp() before it maps memory, and the tag can be loaded again", async () => {
    const cache = allocator.malloc(MiB, { tag: "kv_cache" });
    await allocator.sleep();
    const { freeBytes } = allocator.memGetInfo();
    change();
    const error = await failureOf(() => allocator.wakeUp());
    expect(error.code).toBe("FILE_CHANGED");
    expect(error.message).toMatch(word);
    expect(error.message).toContain("drop this backup with sleep({ level: 2, tags: [...] })");
    expect(bufferOf("large").state).toBe("offloaded");
    expect(granulesBetween(allocator.memGetInfo().freeBytes, freeBytes)).toBe(0);
    await allocator.wakeUp({ tags: ["kv_cache"] });
    expect(cache.state).toBe("mapped");
    await allocator.sleep({ level: 2, tags: ["weights"] });
    await allocator.wakeUp({ tags: ["weights"] });
    writeFileSync(path, checkpointOf(contents));
    await loadSafetensors(path, { allocator, into: tensors });
    expectContents();
  });
});

test.each([
  ["deleted", () => unlinkSync(path)],
  [
    "replaced by another of its name",
    () => {
      writeFileSync(`${path}.new`, checkpointOf({ ...contents, last: pattern(3 * MiB, 99) }));
      renameSync(`${path}.new`, path);
    },
  ],
])("wakeUp() still reads a checkpoint that was %s", async (_, change) => {
  change();
  await allocator.sleep();
  await allocator.wakeUp();
  expectContents();
});

test("loadSafetensors() frees what it loaded when the checkpoint changes during the load", async () => {
  const { mappedBytes } = allocator.usage()["weights"] ?? {};
  const loading = failureOf(() => loadSafetensors(path, { allocator, backing: "file" }));
  let ended = false;
  loading.finally(() => {
    ended = true;
  });
  for (let second = 1; !ended; second++) {
    utimesSync(path, second, second);
    await sleep(1);
  }
  expect((await loading).code).toBe("FILE_CHANGED");
  expect(allocator.usage()["weights"]?.mappedBytes).toBe(mappedBytes);
});

test("Backup.read() refuses a checkpoint that was changed", async () => {
  await allocator.sleep();
  const [backup] = allocator.backup("weights");
  expect(backup?.read(0, 1000)).toEqual(contents.small);
  utimesSync(path, 1, 1);
  expect(await codeOf(() => backup?.read(0, 1))).toBe("FILE_CHANGED");
});

test("wakeUp() leaves nothing mapped when the checkpoint changes during the copy", async () => {
  const outcomes: string[] = [];
  // A change after the last byte was read goes undetected, so try again.
  while (!outcomes.includes("FILE_CHANGED") && outcomes.length < 20) {
    await reopen({});
    await allocator.sleep();
    let touched = false;
    const onProgress = ({ phase, bytesDone }: { phase: string; bytesDone: number }) => {
      if (touched || phase !== "copying" || bytesDone === 0) return;
      touched = true;
      utimesSync(path, outcomes.length, outcomes.length);
    };
    const outcome = allocator.wakeUp({ onProgress }).then(
      () => "awake",
      (error) => error.code,
    );
    outcomes.push(await outcome);
  }
  expect(outcomes.at(-1)).toBe("FILE_CHANGED");
  expect(bufferOf("large").state).toBe("offloaded");
});

describe("a checkpoint whose content changed, but not its size or time,", () => {
  function changeContent(): void {
    const { atime, mtime } = statSync(path);
    const bytes = readFileSync(path);
    const at = bytes.length - MiB;
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    writeFileSync(path, bytes);
    utimesSync(path, atime, mtime);
  }

  beforeEach(async () => {
    utimesSync(path, 1000, 1000);
    await reopen({ verify: true });
  });

  test("is detected by the first sleep() with verify, which compares it with device memory", async () => {
    changeContent();
    const error = await failureOf(() => allocator.sleep());
    expect(error.code).toBe("FILE_CHANGED");
    expect(error.message).toContain("not what is in device memory");
    expectContents();
    allocator.markDirty("weights");
    await allocator.sleep();
    await allocator.wakeUp();
    expectContents();
  });

  test("is detected by a later sleep() and by wakeUp() with verify", async () => {
    await allocator.sleep();
    await allocator.wakeUp();
    changeContent();
    expect(await codeOf(() => allocator.sleep())).toBe("FILE_CHANGED");
    expectContents();
    changeContent(); // and back
    await allocator.sleep();
    changeContent();
    expect(await codeOf(() => allocator.wakeUp())).toBe("FILE_CHANGED");
    expect(bufferOf("last").state).toBe("offloaded");
    changeContent();
    await allocator.wakeUp();
    expectContents();
  });
});

test("loadSafetensors() refuses an unknown backing", async () => {
  const backing = "disk" as "file";
  expect(await codeOf(() => loadSafetensors(path, { allocator, backing }))).toBe("INVALID_ARGUMENT");
});
