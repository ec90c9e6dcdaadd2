/**
 * The open allocator of a thread. `bun --hot` evaluates modules again, and `bun test` runs one file after the other, in one
 * process: a new evaluation or another file gets an allocator of its own, and the one left open is ended.
 */

import { currentRuntime } from "./ffi/index.ts";

interface Endable {
  /** Ends at once, without awaiting anything. */
  abandon(): void;
}

interface Entry<T> {
  readonly value: T;
  readonly evaluation: object;
  readonly program: string;
}

const key = Symbol.for("camem.instances");

/** Every evaluation of this module makes another one. */
const evaluation = {};

/** What is open in this thread, by the address of the module that opened it: there may be copies of the package. */
function entries<T>(): Map<string, Entry<T>> {
  const owner = globalThis as { [key]?: Map<string, Entry<T>> };
  owner[key] ??= new Map();
  return owner[key];
}

/** The one open instance of a class. */
export class InstanceSlot<T extends Endable> {
  /** The instance of this evaluation and this program. Ends one that another left open. */
  get(): T | undefined {
    const entry = entries<T>().get(import.meta.url);
    if (entry === undefined) return undefined;
    if (entry.evaluation === evaluation && entry.program === currentRuntime().program()) return entry.value;
    entry.value.abandon();
    this.clear(entry.value);
    return undefined;
  }

  set(value: T): void {
    entries<T>().set(import.meta.url, { value, evaluation, program: currentRuntime().program() });
  }

  clear(value: T): void {
    if (entries<T>().get(import.meta.url)?.value === value) entries<T>().delete(import.meta.url);
  }

  /** True while no copy of the package has an instance in this thread. */
  get isFirst(): boolean {
    return entries<T>().size === 0;
  }
}
