import { setImmediate } from "node:timers/promises";
import type { Static } from "typebox";
import { aborted } from "../async/abortable.ts";
import { sleep } from "../async/sleep.ts";
import { CamemError } from "../errors.ts";
import * as native from "../ffi/index.ts";
import { callback, closedObject, optional, Signal } from "../options/schemas.ts";
import type { WakeOrder } from "./wake-order.ts";

/** The progress of a running sleep or wake-up. */
export interface TransitionProgress {
  /**
   * `queued`, `waiting` for the device, `preparing` host memory, `mapping`, `copying`, `verifying` checksums, `releasing`,
   * `undoing` after a failure, or `done`.
   */
  readonly phase: keyof typeof native.Phase;
  /** Bytes copied so far. */
  readonly bytesDone: number;
  /** Bytes to copy in total; 0 when nothing is copied. */
  readonly bytesTotal: number;
}

/** Milliseconds of the phases of a sleep or wake-up. */
export interface TransitionDurations {
  /** From the submission of the plan to its end. */
  readonly totalMs: number;
  /** Waiting for the device to finish earlier work. */
  readonly waitingMs: number;
  /** Page-locking host memory. */
  readonly preparingMs: number;
  /** Allocating and mapping device memory. */
  readonly mappingMs: number;
  /** Copying content between the device and the host or files. */
  readonly copyingMs: number;
  /** Computing or comparing checksums, with `verify`. */
  readonly verifyingMs: number;
  /** Giving back device memory (sleep) or host memory (wake-up). */
  readonly releasingMs: number;
}

export const TransitionControl = closedObject({
  /** Aborting it rejects the call with `ABORTED` and leaves everything unchanged, unless memory is already being released. */
  signal: optional(Signal),
  /** Called on the event loop after each change. Throwing cancels the transition. */
  onProgress: optional(callback<(progress: TransitionProgress) => void>()),
});

/** Observes and aborts a transition. */
export interface TransitionControl extends Static<typeof TransitionControl> {}

/** For this long `poll` waits inside the shim, since a timer may be a millisecond late. Most short plans end meanwhile. */
const eagerMs = 5;
/** The time that one such wait blocks the event loop. Polling without a pause would slow down unmapping threefold. */
const eagerWaitMicroseconds = 500;
/** The interval between polls afterwards. */
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

/** The end of a plan. */
interface Outcome {
  readonly progress: native.PlanProgress;
  readonly failure: native.Failure;
  /** What `onProgress` threw; the plan is cancelled then and `onProgress` is not called again. */
  readonly reportFailure: { readonly cause: unknown } | undefined;
}

/** Who follows a plan. */
interface Followed extends Pick<TransitionControl, "onProgress"> {
  readonly order?: WakeOrder | undefined;
}

/** Polls without blocking until the plan is done. */
async function poll(shim: native.Native, ticket: number, { onProgress, order }: Followed): Promise<Outcome> {
  const startedMs = performance.now();
  let reportFailure: Outcome["reportFailure"];
  const giveUp = (cause: unknown) => {
    reportFailure ??= { cause };
    shim.cancelPlan(ticket);
  };
  const report = reporter(onProgress, giveUp);
  while (true) {
    const progress = shim.pollPlan(ticket);
    if (progress === undefined)
      throw new CamemError(
        "ABORTED",
        "this Worker was blocked while others ran hundreds of transitions; its own has ended, and usage() shows the result",
      );
    // Read first, since any other call overwrites it.
    const failure = progress.phase === native.Phase.done ? shim.planFailure() : undefined;
    if (reportFailure === undefined) report(progress);
    const hasSucceeded = failure !== undefined && progress.status === native.Status.ok;
    order?.advance(ticket, hasSucceeded ? Number.POSITIVE_INFINITY : progress.readyGroups);
    if (failure) {
      // A promise of the last report rejects after this turn.
      if (onProgress) await setImmediate();
      return { progress, failure, reportFailure };
    }
    if (shim.awaitPlan !== undefined && performance.now() - startedMs < eagerMs) {
      shim.awaitPlan(ticket, eagerWaitMicroseconds);
      await setImmediate();
    } else await sleep(pollMs);
  }
}

/** Reports each state once. `fail` receives what `onProgress` throws or rejects with. */
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

function describeOutcome(operation: Operation, progress: native.PlanProgress, remedy?: string): string {
  if (progress.complete === 1) return `the ${operation} itself has succeeded`;
  if (progress.undoFailed === 1)
    return "undoing it failed too, so some memory is asleep with its content safe; wakeUp() maps it again";
  return remedy === undefined
    ? "nothing has changed, and it can be tried again"
    : `nothing has changed; ${remedy}`;
}

/** The error of a plan that is done, or undefined when it succeeded. */
function errorOf(
  operation: Operation,
  progress: native.PlanProgress,
  failure: native.Failure,
  signal: AbortSignal | undefined,
  remedyOf: RemedyOf,
): CamemError | undefined {
  if (progress.status === native.Status.ok) return undefined;
  if (progress.status === native.Status.aborted)
    return signal?.aborted
      ? aborted(signal)
      : new CamemError("ABORTED", `another caller cancelled the ${operation}; nothing has changed`);
  const transitionComplete = progress.complete === 1;
  const attempt = transitionComplete
    ? `give all memory back after the ${operation}`
    : `finish the ${operation}`;
  const note = describeOutcome(
    operation,
    progress,
    remedies.get(`${operation} ${progress.status}`) ?? remedyOf(failure),
  );
  return native.statusError(progress.status, failure, { attempt, note, transitionComplete });
}

const dropBackup =
  "wake the other tags, drop this backup with sleep({ level: 2, tags: [...] }), wake that tag and load its content again";

const backUpAnew = "call markDirty(tag) to have the tag backed up anew, in host memory";

/** Remedies for failures that a retry does not fix. */
const remedies = new Map([
  [`wake-up ${native.Status.backup_corrupt}`, dropBackup],
  [`wake-up ${native.Status.file_changed}`, dropBackup],
  [`sleep ${native.Status.backup_corrupt}`, backUpAnew],
  [`sleep ${native.Status.file_changed}`, backUpAnew],
]);

/** The remedy for a failure that depends on what the plan needs. */
export type RemedyOf = (failure: native.Failure) => string | undefined;

/** A plan that has ended well. */
export interface PlanResult {
  readonly durations: TransitionDurations;
  /** New backups in ordinary memory. */
  readonly pageableBytes: number;
  /** New backups in the spill folder. */
  readonly spilledBytes: number;
}

/**
 * Follows a plan to its end.
 *
 * @throws CamemError for the plan's first failure, `ABORTED`, or `HOOK_FAILED` when `onProgress` threw
 */
export async function follow(
  shim: native.Native,
  operation: Operation,
  ticket: number,
  { signal, ...followed }: Followed & Pick<TransitionControl, "signal">,
  remedyOf: RemedyOf,
): Promise<PlanResult> {
  const cancel = () => shim.cancelPlan(ticket);
  signal?.addEventListener("abort", cancel, { once: true });
  try {
    const { progress, failure, reportFailure } = await poll(shim, ticket, followed);
    const transitionComplete = progress.complete === 1;
    const note = describeOutcome(operation, progress);
    // A report that fails cancels the plan.
    const isOwnEnd = reportFailure !== undefined && progress.status === native.Status.aborted;
    const planFailure = isOwnEnd ? undefined : errorOf(operation, progress, failure, signal, remedyOf);
    if (reportFailure) {
      const cause = planFailure
        ? new AggregateError([reportFailure.cause, planFailure])
        : reportFailure.cause;
      throw new CamemError("HOOK_FAILED", `onProgress threw; ${note}`, { cause, transitionComplete });
    }
    if (planFailure) throw planFailure;
    const { pageableBytes, spilledBytes } = progress;
    return { durations: durationsOf(progress), pageableBytes, spilledBytes };
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}
