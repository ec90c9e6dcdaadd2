import { aborted } from "../async/abortable.ts";

import { CamemError } from "../errors.ts";
import * as native from "../ffi/native.ts";

/** What a running sleep or wake-up reports. */
export interface TransitionProgress {
  /** What is being done: waiting for the device, preparing host memory, mapping, copying, verifying, releasing, undoing, or done. */
  readonly phase: keyof typeof native.Phase;
  /** Bytes copied so far. */
  readonly bytesDone: number;
  /** Bytes to copy in all; 0 when nothing is copied. */
  readonly bytesTotal: number;
}

/** Milliseconds that the parts of a sleep or wake-up took. */
export interface TransitionDurations {
  /** From the submission of the plan to its end. */
  readonly totalMs: number;
  /** Waiting for the device to finish earlier work. */
  readonly waitingMs: number;
  /** Page-locking host memory. */
  readonly preparingMs: number;
  /** Allocating and mapping device memory. */
  readonly mappingMs: number;
  readonly copyingMs: number;
  /** Taking or comparing checksums, with `verify`. */
  readonly verifyingMs: number;
  /** Giving back device memory (sleep) or host memory (wake-up). */
  readonly releasingMs: number;
}

export interface TransitionControl {
  /** Aborting makes the call reject with `ABORTED` and leaves everything as it was, unless memory is already being released. */
  readonly signal?: AbortSignal | undefined;
  /** Called on the event loop whenever there is something new. */
  readonly onProgress?: ((progress: TransitionProgress) => void) | undefined;
}

/**
 * For how long to follow a plan without a timer, which may be a millisecond late: short plans end within this. The event loop
 * turns every `sliceUs`; to look without pause would take the processor from the plan, and slow down its unmapping threefold.
 */
const eagerMs = 5;
const sliceUs = 500;
const pollMs = 1;

const phaseNames = Object.keys(native.Phase) as (keyof typeof native.Phase)[];

const milliseconds = (nanoseconds: number) => nanoseconds / 1e6;

function durationsOf(progress: native.PlanProgress): TransitionDurations {
  return {
    totalMs: milliseconds(progress.totalNs),
    waitingMs: milliseconds(progress.waitingNs),
    preparingMs: milliseconds(progress.preparingNs),
    mappingMs: milliseconds(progress.mappingNs),
    copyingMs: milliseconds(progress.copyingNs),
    verifyingMs: milliseconds(progress.verifyingNs),
    releasingMs: milliseconds(progress.releasingNs),
  };
}

/** What a plan came to. */
interface Outcome {
  readonly progress: native.PlanProgress;
  readonly failure: native.Failure;
  /** What `onProgress` threw, at most once: it is not called again, and the plan is cancelled. */
  readonly reportFailure: { readonly cause: unknown } | undefined;
}

/** Polls without blocking until the plan is done. */
async function poll(ticket: number, onProgress: TransitionControl["onProgress"]): Promise<Outcome> {
  const startedMs = performance.now();
  let reportFailure: Outcome["reportFailure"];
  const giveUp = (cause: unknown) => {
    reportFailure ??= { cause };
    native.cancelPlan(ticket);
  };
  const report = reporter(onProgress, giveUp);
  while (true) {
    const progress = native.pollPlan(ticket);
    if (progress === undefined)
      throw new CamemError(
        "ABORTED",
        "this Worker was blocked while others did hundreds of transitions; its own has ended, see usage() for how",
      );
    // Before anything else is called, which would overwrite it.
    const failure = progress.phase === native.Phase.done ? native.planFailure() : undefined;
    if (reportFailure === undefined) report(progress);
    if (failure) {
      // What the last report rejects with, it does after this turn.
      if (onProgress) await new Promise(setImmediate);
      return { progress, failure, reportFailure };
    }
    if (performance.now() - startedMs < eagerMs) {
      native.awaitPlan(ticket, sliceUs);
      await new Promise(setImmediate);
    } else await Bun.sleep(pollMs);
  }
}

/** Reports each state once. `fail` hears of what `onProgress` throws, or rejects with. */
function reporter(onProgress: TransitionControl["onProgress"], fail: (cause: unknown) => void) {
  let last = "";
  return (progress: native.PlanProgress) => {
    const phase = phaseNames[progress.phase];
    const seen = `${phase} ${progress.copiedBytes}`;
    if (onProgress === undefined || phase === undefined || seen === last) return;
    last = seen;
    try {
      const returned: unknown = onProgress({
        phase,
        bytesDone: progress.copiedBytes,
        bytesTotal: progress.copyBytesTotal,
      });
      Promise.resolve(returned).catch(fail);
    } catch (cause) {
      fail(cause);
    }
  };
}

export type Operation = "sleep" | "wake-up" | "preparation";

function describeOutcome(operation: Operation, progress: native.PlanProgress): string {
  if (progress.complete === 1) return `the ${operation} itself has taken place`;
  return progress.undoFailed === 1
    ? "undoing it failed too, so some memory is asleep with its content safe; wakeUp() maps it again"
    : "nothing has changed, and it can be tried again";
}

/** The error of a plan that is done, or undefined when it succeeded. */
function errorOf(
  operation: Operation,
  progress: native.PlanProgress,
  failure: native.Failure,
  signal: AbortSignal | undefined,
): CamemError | undefined {
  if (progress.status === native.Status.ok) return undefined;
  // Without a signal it was cancelled because `onProgress` threw, which is reported by itself.
  if (progress.status === native.Status.aborted) return signal?.aborted ? aborted(signal) : undefined;
  const transitionComplete = progress.complete === 1;
  const attempt = transitionComplete
    ? `give all memory back after the ${operation}`
    : `finish the ${operation}`;
  const note = mends.get(`${operation} ${progress.status}`) ?? describeOutcome(operation, progress);
  return native.statusError(progress.status, failure, { attempt, note, transitionComplete });
}

const dropBackup =
  "nothing has changed; wake the other tags, drop this backup with sleep({ level: 2, tags: [...] }), wake that tag and load its content again";

const backUpAnew = "nothing has changed; call markDirty(tag) to have the tag backed up anew, in host memory";

/** What to do about failures that trying again does not mend. */
const mends = new Map([
  [`wake-up ${native.Status.backup_corrupt}`, dropBackup],
  [`wake-up ${native.Status.file_changed}`, dropBackup],
  [`sleep ${native.Status.backup_corrupt}`, backUpAnew],
  [`sleep ${native.Status.file_changed}`, backUpAnew],
]);

/**
 * Follows a plan until it has ended.
 *
 * @throws CamemError for the plan's first failure, `ABORTED`, or `HOOK_FAILED` when `onProgress` threw
 */
export async function follow(
  operation: Operation,
  ticket: number,
  { signal, onProgress }: TransitionControl,
): Promise<TransitionDurations> {
  const cancel = () => native.cancelPlan(ticket);
  signal?.addEventListener("abort", cancel, { once: true });
  try {
    const { progress, failure, reportFailure } = await poll(ticket, onProgress);
    const transitionComplete = progress.complete === 1;
    const note = describeOutcome(operation, progress);
    const planFailure = errorOf(operation, progress, failure, signal);
    if (reportFailure) {
      const cause = planFailure
        ? new AggregateError([reportFailure.cause, planFailure])
        : reportFailure.cause;
      throw new CamemError("HOOK_FAILED", `onProgress threw; ${note}`, { cause, transitionComplete });
    }
    if (planFailure) throw planFailure;
    return durationsOf(progress);
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}
