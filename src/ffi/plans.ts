/** Plans: sleeps, wake-ups and preparations that run on the shim's thread. */

import type { SharedExports } from "./exports.ts";
import { exports } from "./library.ts";
import {
  checkStatus,
  type Failure,
  failureBytes,
  firstResult,
  statusError,
  takeFailure,
  takeFirst,
} from "./status.ts";
import { type Decoded, writeU64 } from "./struct.ts";
import * as abi from "./symbols.gen.ts";
import type { PlanBasis } from "./table.ts";

export type PlanProgress = Decoded<typeof abi.PlanProgress>;

/** One step of a plan, for the segments of one group. */
export interface PlanStep {
  readonly group: {
    readonly segments: number;
    readonly segmentBytes: number;
    readonly tagId: number;
    readonly device: number;
    readonly state: keyof typeof abi.SegmentState;
    readonly unreleased: boolean;
    readonly clean: boolean;
    readonly backedUp: boolean;
  };
  readonly action: keyof typeof abi.Action;
  readonly immutable: boolean;
  readonly zero: boolean;
  readonly spilledSegments: number;
}

/** What a plan may do. */
export interface PlanOptions {
  /** Take a checksum of each new backup. */
  readonly verify: boolean;
  /** Where AscendCL refuses to page-lock: keep backups in ordinary memory. */
  readonly pageable: boolean;
  /** Likewise, in the spill folder; with both, what ordinary memory does not take. */
  readonly spill: boolean;
}

function optionBits({ verify, pageable, spill }: PlanOptions): number {
  return (verify ? abi.planVerify : 0) | (pageable ? abi.planPageable : 0) | (spill ? abi.planSpill : 0);
}

/** Why the shim refuses a plan: another one runs, or the table has changed since it was made. */
export type Refusal = "busy" | "stale";

function ticketOf(status: number): number | Refusal {
  if (status === abi.Status.busy) return "busy";
  if (status === abi.Status.stale) return "stale";
  checkStatus("start a plan", status);
  return takeFirst();
}

const progressWords = new Uint32Array(abi.PlanProgress.sizeBytes / Uint32Array.BYTES_PER_ELEMENT);

/** Returns when a plan is done; blocks the event loop for `microseconds` at most. */
export function awaitPlan(ticket: number, microseconds: number): void {
  checkStatus("follow a plan", exports().camem_plan_wait(ticket, microseconds * 1000), [abi.Status.stale]);
}

/** The order in which a wake-up copies: the group of each segment by its id, up to `groups`. */
export interface PlanOrder {
  readonly places: ReadonlyMap<number, number>;
  readonly groups: number;
}

function encodeSteps(steps: readonly PlanStep[]): Uint8Array {
  const { sizeBytes, fields } = abi.PlanStep;
  const bytes = new Uint8Array(steps.length * sizeBytes);
  const view = new DataView(bytes.buffer);
  for (const [index, { group, action, immutable, zero, spilledSegments }] of steps.entries()) {
    const start = index * sizeBytes;
    const set = (field: keyof typeof fields, value: number) =>
      view.setUint32(start + fields[field].offset, value, true);
    writeU64(view, start + fields.segments.offset, group.segments);
    writeU64(view, start + fields.spilledSegments.offset, spilledSegments);
    writeU64(view, start + fields.segmentBytes.offset, group.segmentBytes);
    set("tag", group.tagId);
    set("device", group.device);
    set("state", abi.SegmentState[group.state]);
    set("unreleased", Number(group.unreleased));
    set("clean", Number(group.clean));
    set("backedUp", Number(group.backedUp));
    set("action", abi.Action[action]);
    set("immutable", Number(immutable));
    set("zero", Number(zero));
  }
  return bytes;
}

function encodePlaces(places: PlanOrder["places"]): Uint8Array {
  const { sizeBytes, fields } = abi.Place;
  // The shim is given an address, which empty arrays do not have.
  const bytes = new Uint8Array(Math.max(1, places.size) * sizeBytes);
  const view = new DataView(bytes.buffer);
  let start = 0;
  for (const [segmentId, group] of places) {
    writeU64(view, start + fields.segmentId.offset, segmentId);
    view.setUint32(start + fields.group.offset, group, true);
    start += sizeBytes;
  }
  return bytes;
}

/** As `submitPlan`, for a wake-up that copies in an order. */
export function submitOrderedPlan(
  steps: readonly PlanStep[],
  basis: PlanBasis,
  options: PlanOptions,
  { places, groups }: PlanOrder,
): number | Refusal {
  return ticketOf(
    exports().camem_plan_submit_ordered(
      encodeSteps(steps),
      steps.length,
      basis.lastSegmentId,
      basis.version,
      optionBits(options),
      encodePlaces(places),
      places.size,
      groups,
      firstResult,
    ),
  );
}

/** Makes a stream wait until a group of an ordered plan has its content. False while its copies are not submitted yet. */
export function streamWait(ticket: number, group: number, stream: number): boolean {
  failureBytes.fill(0);
  const status = exports().camem_plan_stream_wait(ticket, group, stream, failureBytes);
  if (status === abi.Status.ok) return true;
  // The plan's own failure is reported where it is followed.
  const passing: readonly number[] = [abi.Status.busy, abi.Status.aborted, abi.Status.stale];
  if (passing.includes(status)) return false;
  throw statusError(status, takeFailure(), { attempt: "make the stream wait" });
}

/** Starts, follows and cancels plans. */
export const planCalls = (exports: () => SharedExports) => {
  return {
    /**
     * Starts a plan on the shim's thread and returns its ticket. The plan leaves out segments that were allocated or freed since
     * it was made. The shim refuses it, with nothing changed, after any other change of the table or while another plan runs.
     */
    submitPlan(steps: readonly PlanStep[], basis: PlanBasis, options: PlanOptions): number | Refusal {
      return ticketOf(
        exports().camem_plan_submit(
          encodeSteps(steps),
          steps.length,
          basis.lastSegmentId,
          basis.version,
          optionBits(options),
          firstResult,
        ),
      );
    },

    /** Starts page-locking host memory until `freeBytes` are free for the next sleep, or as many as `options` are content with. */
    submitPreparation(device: number, freeBytes: number, options: PlanOptions): number | Refusal {
      return ticketOf(exports().camem_host_prepare(device, freeBytes, optionBits(options), firstResult));
    },

    /** The progress of a plan; undefined when it ended so long ago that the shim has forgotten it. */
    pollPlan(ticket: number): PlanProgress | undefined {
      failureBytes.fill(0);
      const status = exports().camem_plan_poll(ticket, progressWords, failureBytes);
      if (status === abi.Status.stale) return undefined;
      if (status !== abi.Status.ok) throw statusError(status, takeFailure(), { attempt: "follow a plan" });
      return abi.readPlanProgress(progressWords, 0);
    },

    /** The failure of the plan that was polled last and is done. */
    planFailure(): Failure {
      return takeFailure();
    },

    /** Asks a plan to stop; an ended plan stays as it is. */
    cancelPlan(ticket: number): void {
      const ended = [abi.Status.stale, abi.Status.not_open];
      checkStatus("cancel a plan", exports().camem_plan_cancel(ticket), ended);
    },
  };
};
