/** Runs the transitions of one engine one after the other, each between its `started` and its `ended` event. */

import { AsyncLocalStorage } from "node:async_hooks";
import type { Clock } from "../../async/clock.ts";
import { SerialQueue } from "../../async/serial-queue.ts";
import { CamemError } from "../../errors.ts";
import type { TransitionControl } from "../../transition/progress.ts";
import type { SleepReport, WakeReport } from "../../transition/reports.ts";
import { type EngineEvent, EngineListeners, summaryOf, type TransitionIdentity } from "./events.ts";

/** An event without the properties that every event has. */
type EventContent<Event = EngineEvent> = Event extends EngineEvent ? Omit<Event, "engine" | "atMs"> : never;

interface TransitionOutcome<Result> {
  readonly result: Result;
  readonly noOp: boolean;
}

interface TransitionSteps<Result> {
  readonly run: (identity: TransitionIdentity) => Promise<TransitionOutcome<Result>>;
  /** Called when `run` has returned or thrown, before the `ended` event. */
  readonly settle: (outcome: { readonly result: Result } | { readonly error: unknown }) => void;
}

export class TransitionRunner {
  readonly listeners = new EngineListeners();
  readonly #engine: string;
  readonly #clock: Clock;
  readonly #queue = new SerialQueue();
  /** Set inside a transition: code that awaits another transition there would deadlock. */
  readonly #caller = new AsyncLocalStorage<{ running: boolean } | undefined>();
  #count = 0;

  constructor(engine: string, clock: Clock) {
    this.#engine = engine;
    this.#clock = clock;
  }

  /** @throws CamemError `CALLED_FROM_HOOK` */
  assertOutside(): void {
    if (this.#caller.getStore()?.running)
      throw new CamemError(
        "CALLED_FROM_HOOK",
        "a hook or reload function cannot start a transition; start it after the call that runs the hook",
      );
  }

  /** Runs `run` after everything that was enqueued before, as {@link SerialQueue.run}. */
  enqueue<T>(signal: AbortSignal | undefined, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#queue.run(signal, run);
  }

  /** As {@link enqueue}, for work that no code within it may wait for. */
  enqueueGuarded<T>(signal: AbortSignal | undefined, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.enqueue(signal, async (own) => {
      const caller = { running: true };
      try {
        return await this.#caller.run(caller, () => run(own));
      } finally {
        caller.running = false;
      }
    });
  }

  /** Cancels everything in the queue, and waits for the transition in progress. */
  end(reason: CamemError): Promise<void> {
    return this.#queue.end(reason);
  }

  /** Runs one transition. Call it from within {@link enqueue}. */
  async run<Result extends { readonly report: SleepReport | WakeReport | null }>(
    requested: Omit<TransitionIdentity, "id">,
    { run, settle }: TransitionSteps<Result>,
  ): Promise<Result> {
    const identity = { id: ++this.#count, ...requested };
    const startedMs = this.#clock.nowMs();
    const ended = () => ({
      type: "transition-ended" as const,
      ...identity,
      durationMs: this.#clock.nowMs() - startedMs,
    });
    const caller = { running: true };
    this.emit({ type: "transition-started", ...identity });
    try {
      const { result, noOp } = await this.#caller.run(caller, () => run(identity));
      settle({ result });
      const outcome = noOp ? "no-op" : "done";
      this.emit({ ...ended(), outcome, report: result.report, failure: null });
      return result;
    } catch (error) {
      settle({ error });
      this.emit({ ...ended(), outcome: "failed", report: null, failure: summaryOf(error) });
      throw error;
    } finally {
      caller.running = false;
    }
  }

  /** The signal and the progress callback to pass to the allocator. */
  controlOf(identity: TransitionIdentity, signal: AbortSignal): TransitionControl {
    return {
      signal,
      onProgress: (progress) => this.emit({ type: "transition-progress", ...identity, progress }),
    };
  }

  /** Listeners run outside of the transition: they may start one, without awaiting it. */
  emit(content: EventContent): void {
    const base = { type: content.type, engine: this.#engine, atMs: Date.now() };
    const event = { ...base, ...content } as EngineEvent;
    this.#caller.run(undefined, () => this.listeners.emit(event));
  }
}
