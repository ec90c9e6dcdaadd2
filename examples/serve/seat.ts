import type { OrderedMemory } from "camem";
import type { CheckpointResult, Lease } from "camem/server";
import type { Slots } from "./slots.ts";

/** A lease together with a slot of the key-value cache. */
export class Seat implements Lease {
  readonly slot: number;
  readonly #lease: Lease;
  readonly #slots: Slots;
  #released = false;

  constructor(lease: Lease, slots: Slots, slot: number) {
    this.#lease = lease;
    this.#slots = slots;
    this.slot = slot;
  }

  get signal(): AbortSignal {
    return this.#lease.signal;
  }

  checkpoint(): Promise<CheckpointResult> {
    return this.#lease.checkpoint();
  }

  ready(memory: OrderedMemory): Promise<void> {
    return this.#lease.ready(memory);
  }

  streamWait(stream: bigint | number, memory: OrderedMemory): Promise<void> {
    return this.#lease.streamWait(stream, memory);
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#slots.give(this.slot);
    this.#lease.release();
  }

  [Symbol.dispose](): void {
    this.release();
  }
}
