/** A loaded model on two devices, with the content that it must have, for the tests of faults. */

import { expect } from "bun:test";
import { CaMemAllocator, type DeviceBuffer } from "camem";
import { localNative } from "../../src/ffi/index.ts";
import { accounting, MiB, pattern, setFaults } from "../support/device.ts";

export const outOfMemory = 207001;
export const invalidHandle = 107017;
export const internalError = 507899;
export const heartbeatLost = 507010;

export interface Item {
  readonly buffer: DeviceBuffer;
  readonly content: Uint8Array;
  /** A sleep at level 1 keeps its content. */
  readonly preserved: boolean;
}

/** The buffers of the model: several tags on two devices, some in a pool. */
export const recipe = [
  { tag: "weights", device: 0, sizeBytes: 2 * MiB + 1, pooled: false, preserved: true },
  { tag: "weights", device: 1, sizeBytes: 5000, pooled: false, preserved: true },
  { tag: "buffers", device: 0, sizeBytes: 5000, pooled: true, preserved: true },
  { tag: "buffers", device: 0, sizeBytes: 70_000, pooled: true, preserved: true },
  { tag: "kv_cache", device: 0, sizeBytes: 9000, pooled: false, preserved: false },
  { tag: "kv_cache", device: 1, sizeBytes: 9000, pooled: false, preserved: false },
  { tag: "sleep_persistent", device: 1, sizeBytes: 100, pooled: false, preserved: true },
] as const;

/** Three times the staging memory of a stream, so that copies to and from files use each again; small, for speed. */
export const poolSegment = "12MiB";

export class LoadedModel {
  allocator = CaMemAllocator.getInstance({ poolSegment });
  items: Item[] = [];

  /** Allocates and writes `parts`; frees them again when a call fails. */
  load(parts: readonly (typeof recipe)[number][] = recipe): void {
    const loaded: Item[] = [];
    try {
      for (const [index, { tag, device, sizeBytes, pooled, preserved }] of parts.entries()) {
        const pool = this.allocator.memoryPool(tag, { device });
        const buffer = pooled ? pool.malloc(sizeBytes) : this.allocator.malloc(sizeBytes, { tag, device });
        loaded.push({ buffer, content: pattern(sizeBytes, index + 1), preserved });
        buffer.write(pattern(sizeBytes, index + 1));
      }
      this.items = loaded;
    } catch (error) {
      setFaults("");
      for (const { buffer } of loaded) buffer.free();
      throw error;
    }
  }

  freeAll(): void {
    while (this.items.length > 0) {
      this.items[0]?.buffer.free();
      this.items.shift();
    }
  }

  /** Compares all content, or only the content that a sleep at level 1 keeps. */
  expectContents({ all }: { all: boolean }): void {
    for (const { buffer, content, preserved } of this.items) {
      if (all || preserved) expect(Buffer.compare(buffer.read(), content)).toBe(0);
    }
  }
}

/** Asserts that the devices and the host hold exactly the memory in the shim's table. */
export function expectExactAccounting(): void {
  const held = accounting();
  const table = held.initReferences === 0 ? [] : localNative.snapshot();
  const sum = (bytes: (segment: (typeof table)[number]) => number) =>
    table.reduce((total, segment) => total + bytes(segment), 0);
  expect(held.physicalBytes).toBe(sum((segment) => segment.committedBytes));
  const nothing = { heldBytes: 0, freeBytes: 0, keptStagingBytes: 0, pageableBytes: 0 };
  const host = held.initReferences === 0 ? nothing : localNative.hostInfo();
  expect(held.hostAllocationBytes).toBe(host.heldBytes);
  const backupBytes = host.heldBytes - host.freeBytes - host.keptStagingBytes;
  expect(backupBytes).toBe(sum((segment) => segment.hostBytes));
  expect(host.pageableBytes).toBe(sum((segment) => segment.pageableBytes));
  expect(held.reservedBytes).toBe(sum((segment) => segment.sizeBytes));
  expect(held.queuedTasks).toBe(0);
}
