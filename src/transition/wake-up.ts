import { CamemError, formatValue } from "../errors.ts";
import type { WakeReport } from "./reports.ts";
import type { OrderedMemory, WakeOrder } from "./wake-order.ts";

/**
 * The address of a stream.
 *
 * @throws CamemError `INVALID_ARGUMENT`
 */
export function addressOf(stream: bigint | number): number {
  const address = typeof stream === "bigint" ? Number(stream) : stream;
  if (Number.isSafeInteger(address) && address > 0) return address;
  throw new CamemError(
    "INVALID_ARGUMENT",
    `the stream is ${formatValue(stream)}; it must be the address of an aclrtStream`,
  );
}

/**
 * A wake-up in progress: a promise of its report. With the option `order`, memory can be used before all of it is back; it is
 * all or nothing all the same. When the wake-up fails, whoever used a part of it discards what was computed from it.
 */
export class WakeUp extends Promise<WakeReport> {
  readonly #order: WakeOrder;

  /** @internal */
  constructor(run: ConstructorParameters<typeof Promise<WakeReport>>[0], order: WakeOrder) {
    super(run);
    this.#order = order;
  }

  /** What is chained to it is a plain promise. */
  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  /** @internal */
  static of(report: Promise<WakeReport>, order: WakeOrder): WakeUp {
    const settled = report.then(
      (value) => {
        order.end("done");
        return value;
      },
      (error: unknown) => {
        const isAwake = error instanceof CamemError && error.transitionComplete;
        order.end(isAwake ? "done" : { error });
        throw error;
      },
    );
    return new WakeUp((resolve, reject) => {
      settled.then(resolve, reject);
    }, order);
  }

  /**
   * Resolves when memory is mapped and has its content: a buffer, all memory under a tag, or several of these. Memory that the
   * order does not name is last; without an order all of it is. From then on buffers can be read, and written unless they are
   * immutable, although their state is `moving` until the wake-up ends.
   *
   * @throws CamemError what the wake-up fails with; `INVALID_ARGUMENT`, also for memory that the wake-up leaves asleep;
   * `UNKNOWN_TAG`, `INVALID_TAG` or `BUFFER_FREED`
   */
  async ready(memory: OrderedMemory): Promise<void> {
    this.#leaveFailureToWaits();
    return this.#order.ready(memory);
  }

  /**
   * Makes a stream of the engine (an `aclrtStream`) wait on the device until memory has its content (aclrtStreamWaitEvent).
   * Resolves when the stream waits, or has nothing to wait for: what is given to it afterwards runs behind the copies. Call it
   * where the stream's device is current.
   *
   * @throws CamemError as {@link ready}, or `ACL_CALL_FAILED`
   */
  async streamWait(stream: bigint | number, memory: OrderedMemory): Promise<void> {
    this.#leaveFailureToWaits();
    return this.#order.streamWait(addressOf(stream), memory);
  }

  /** @internal True while it undoes what it has done, and after a failure. */
  get isFailing(): boolean {
    return this.#order.isFailing;
  }

  /** @internal Calls `listener` when it has failed, before those who wait hear of it. */
  onFailure(listener: (error: unknown) => void): void {
    this.#order.onFailure(listener);
  }

  /** Whoever waits for a part hears of a failure there, and need not await the whole. */
  #leaveFailureToWaits(): void {
    this.catch(() => undefined);
  }
}
