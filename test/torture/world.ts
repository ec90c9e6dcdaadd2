/** What the process under torture holds, and what must be true of it whenever no fault is armed. */

import {
  CaMemAllocator,
  CamemError,
  type CamemErrorCode,
  type DeviceBuffer,
  errorCodes,
  type Tensor,
} from "camem";
import { localNative, type SegmentSnapshot, SegmentState } from "../../src/ffi/index.ts";
import { EngineCopies } from "../fuzz/harness.ts";
import type { Random } from "../fuzz/random.ts";
import { accounting, nothingHeld } from "../support/device.ts";
import { openPluggable } from "../support/pluggable.ts";
import { disarm, type Faults, nativeThreads, noFaults } from "./faults.ts";
import type { WorkerHandle } from "./worker-handle.ts";

/** Something that camem promises is not true. */
export class Finding extends Error {
  override readonly name = "Finding";
}

function expectThat(truth: boolean, what: string): asserts truth {
  if (!truth) throw new Finding(what);
}

export type Outcome<T> =
  | { readonly value: T; readonly error?: undefined }
  | { readonly error: CamemError; readonly value?: undefined };

/** Memory that the process holds: a buffer, or native memory. */
export interface Live {
  readonly address: number;
  readonly sizeBytes: number;
  readonly tag: string;
  readonly device: number;
  /** Undefined for memory of `my_malloc`. */
  readonly buffer: DeviceBuffer | undefined;
  /** Undefined where the content is not known. */
  content: Uint8Array | undefined;
}

/** What an earlier load returned, to be loaded into again. */
export interface Checkpoint {
  readonly path: string;
  readonly contents: ReadonlyMap<string, Uint8Array>;
  readonly tensors: ReadonlyMap<string, Tensor>;
}

const settledWithinMs = 5000;

/** Until `isDone`, or for as long as settling may take. */
async function settled(isDone: () => boolean): Promise<boolean> {
  const deadlineMs = performance.now() + settledWithinMs;
  while (!isDone()) {
    if (performance.now() > deadlineMs) return false;
    await Bun.sleep(1);
  }
  return true;
}

export class World {
  allocator: CaMemAllocator | undefined;
  lives: Live[] = [];
  checkpoints: Checkpoint[] = [];
  /** What `defineTag` said since the allocator was opened. */
  readonly policies = new Map<string, { readonly 1: string; readonly 2: string }>();
  readonly pluggable = openPluggable();
  readonly copies = new EngineCopies();
  readonly folder: string;
  /** What explains the failures of what runs now. */
  faults: Faults = noFaults;
  threadsRun = false;
  worker: WorkerHandle | undefined;
  /** How often each outcome came. */
  readonly outcomes = new Map<string, number>();

  constructor(folder: string) {
    this.folder = folder;
  }

  get opened(): CaMemAllocator {
    if (this.allocator === undefined) throw new TypeError("no allocator is open");
    return this.allocator;
  }

  arm(faults: Faults): void {
    this.faults = faults;
    faults.arm();
  }

  /** From here on no call fails. Without more ado the faults still explain what others that run now have met. */
  disarm(): void {
    disarm();
  }

  /** Nothing runs any more. */
  endFaults(): void {
    disarm();
    this.faults = noFaults;
  }

  note(outcome: string): void {
    this.outcomes.set(outcome, (this.outcomes.get(outcome) ?? 0) + 1);
  }

  /** Runs a call. Its failure must be typed, and be one of `natural` or one that the armed faults explain. */
  async attempt<T>(
    what: string,
    natural: readonly CamemErrorCode[],
    run: () => T | Promise<T>,
    faults = this.faults,
  ): Promise<Outcome<T>> {
    try {
      const value = await run();
      this.note(`${what}: done`);
      return { value };
    } catch (error) {
      return { error: this.expectTyped(what, natural, error, faults) };
    }
  }

  expectTyped(what: string, natural: readonly CamemErrorCode[], error: unknown, faults: Faults): CamemError {
    if (!(error instanceof CamemError)) {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
      throw new Finding(`${what} throws something else than a CamemError: ${text}`);
    }
    const { code, message, call, aclCode } = error;
    expectThat(errorCodes.includes(code), `${what}: the code ${code} is unknown`);
    this.note(`${what}: ${code}`);
    const isExplained = natural.includes(code) || faults.explain(error);
    expectThat(
      isExplained,
      `${what} fails with ${code}, call ${call}, code ${aclCode}: ${message} (${faults})`,
    );
    return error;
  }

  forget(live: Live): void {
    this.lives = this.lives.filter((other) => other !== live);
    if (live.buffer === undefined) return;
    const holds = ({ tensors }: Checkpoint) =>
      [...tensors.values()].some(({ buffer }) => buffer === live.buffer);
    this.checkpoints = this.checkpoints.filter((checkpoint) => !holds(checkpoint));
  }

  forgetAll(): void {
    this.lives = [];
    this.checkpoints = [];
    this.policies.clear();
  }

  stopThreads(): void {
    if (this.threadsRun) nativeThreads.stop();
    this.threadsRun = false;
  }

  /** Frees for good: without faults nothing may refuse. */
  async free(live: Live): Promise<void> {
    this.forget(live);
    if (live.buffer === undefined) return void this.pluggable.free(live.address, live.sizeBytes, live.device);
    const { buffer } = live;
    const { error } = await this.attempt("free", ["BUFFER_FREED"], () => buffer.free());
    if (error === undefined || error.code === "BUFFER_FREED") return;
    this.disarm();
    await this.attempt("free again", ["BUFFER_FREED"], () => buffer.free(), noFaults);
  }

  /** Everything that must be true once no fault is armed and nothing runs. */
  async check(random: Random, all: boolean): Promise<void> {
    if (!this.threadsRun) await this.#expectExactAccounting();
    expectThat(
      await settled(() => localNative.snapshot().every(({ moving, doomed }) => moving === 0 || doomed === 1)),
      "memory is still moving after everything has ended",
    );
    const segments = localNative.snapshot();
    const picked = all ? this.lives : this.lives.filter(() => random.oneIn(3));
    for (const live of picked) this.#checkContent(live, segments);
    for (const live of picked)
      if (live.content === undefined && random.oneIn(2)) this.#refill(live, random, segments);
  }

  #segmentOf({ address }: Live, segments: readonly SegmentSnapshot[]): SegmentSnapshot | undefined {
    return segments.find((each) => each.address <= address && address < each.address + each.sizeBytes);
  }

  #checkContent(live: Live, segments: readonly SegmentSnapshot[]): void {
    const segment = this.#segmentOf(live, segments);
    const name = `${live.sizeBytes} bytes at ${live.address} (${live.tag})`;
    expectThat(segment !== undefined && segment.doomed === 0, `${name} are gone`);
    if (live.content === undefined) return;
    if (segment.state === SegmentState.mapped) this.#expectBytes(name, live, this.#read(name, live));
    else if (segment.state === SegmentState.discarded)
      throw new Finding(`the content of ${name} was discarded`);
    else if (segment.hostBytes + segment.spilledBytes + segment.checkpointBytes > 0)
      this.#checkBackup(name, live, segment);
  }

  #checkBackup(name: string, live: Live, segment: SegmentSnapshot): void {
    const backup = this.opened.backup(live.tag).find(({ ptr }) => ptr === segment.address);
    expectThat(backup !== undefined, `${name} have no backup`);
    this.#expectBytes(
      `the backup of ${name}`,
      live,
      backup.read(live.address - segment.address, live.sizeBytes),
    );
  }

  #read(name: string, live: Live): Uint8Array {
    if (live.buffer !== undefined) return live.buffer.read();
    const bytes = new Uint8Array(live.sizeBytes);
    expectThat(this.copies.read(live.device, live.address, bytes), `${name} cannot be read`);
    return bytes;
  }

  #expectBytes(name: string, { content }: Live, found: Uint8Array): void {
    if (content === undefined || Buffer.compare(found, content) === 0) return;
    const at = found.findIndex((byte, index) => byte !== content[index]);
    throw new Finding(`${name}: byte ${at} is ${found[at]}, not ${content[at]}`);
  }

  /** Gives memory whose content is not known a new one, where that is possible. */
  #refill(live: Live, random: Random, segments: readonly SegmentSnapshot[]): void {
    const segment = this.#segmentOf(live, segments);
    if (segment?.state !== SegmentState.mapped || segment.immutable === 1) return;
    const content = random.bytes(live.sizeBytes);
    if (live.buffer !== undefined) live.buffer.write(content);
    else expectThat(this.copies.write(live.device, live.address, content), "native memory cannot be written");
    live.content = content;
  }

  /** The bytes that the table counts are the bytes that the devices and the host hold. */
  async #expectExactAccounting(): Promise<void> {
    const compare = () => {
      const held = accounting();
      const table = localNative.snapshot();
      const sum = (bytes: (segment: SegmentSnapshot) => number) =>
        table.reduce((total, segment) => total + bytes(segment), 0);
      const host = localNative.hostInfo();
      return {
        "device memory": [held.physicalBytes, sum((segment) => segment.committedBytes)],
        "address space": [held.reservedBytes, sum((segment) => segment.sizeBytes)],
        "host memory": [held.hostAllocationBytes, host.heldBytes],
        backups: [
          sum((segment) => segment.hostBytes),
          host.heldBytes - host.freeBytes - host.keptStagingBytes,
        ],
      };
    };
    const isExact = () =>
      Object.entries(compare()).every(([name, [left = 0, right = 0]]) =>
        name === "backups" ? left <= right : left === right,
      );
    expectThat(
      await settled(isExact),
      `what is held and what is counted differ: ${JSON.stringify(compare())}`,
    );
  }

  /** Wakes everything, freeing what stands in the way where devices are full. */
  async wakeEverything(): Promise<void> {
    while (true) {
      const { error } = await this.attempt("wake everything", ["OUT_OF_DEVICE_MEMORY"], () =>
        this.opened.wakeUp(),
      );
      if (error === undefined) return;
      expectThat(!this.opened.plan("wake").fits, `a wake-up that fits is refused: ${error.message}`);
      const least = this.lives.find(({ content }) => content === undefined) ?? this.lives.at(-1);
      expectThat(least !== undefined, `nothing is held, and a wake-up is refused: ${error.message}`);
      await this.free(least);
    }
  }

  /** Closes; without faults nothing may refuse, and nothing may be held afterwards. */
  async closeForGood(): Promise<void> {
    this.endFaults();
    await this.attempt("close for good", [], () => this.opened.close());
    this.stopThreads();
    // A terminated Worker counts until its thread has ended: whoever comes then closes what it left.
    const isNothingHeld = () => Bun.deepEquals(accounting(), nothingHeld);
    if (!isNothingHeld() && !(await settled(isNothingHeld))) {
      await CaMemAllocator.getInstance({}).close();
      expectThat(isNothingHeld(), `held after close(): ${JSON.stringify(accounting())}`);
    }
    this.allocator = undefined;
    this.forgetAll();
  }
}
