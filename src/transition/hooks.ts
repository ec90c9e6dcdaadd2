import { AsyncLocalStorage } from "node:async_hooks";
import type { Static } from "typebox";
import { abortable, aborted } from "../async/abortable.ts";
import { CamemError, messageOf } from "../errors.ts";
import { callback, closedObject, optional } from "../options/schemas.ts";
import { validate } from "../options/validate.ts";
import type { TransitionPlan } from "./preflight.ts";

/** The argument of a `beforeSleep` hook. */
export interface SleepTransition {
  /** The tags that go to sleep. */
  readonly tags: readonly string[];
}

/** The argument of a `beforeWake` hook. */
export interface PendingWake {
  /** The tags that are to wake up. */
  readonly tags: readonly string[];
  /** Device memory that the wake-up needs, by device. */
  readonly devices: TransitionPlan["devices"];
}

/** The argument of an `afterWake` hook. */
export interface WakeTransition {
  /** The tags that woke; after a failed sleep, the tags whose memory stayed awake. */
  readonly tags: readonly string[];
  /** The tags among them whose content was lost: load it again before using it. Empty after a failed sleep. */
  readonly lostTags: readonly string[];
  /** `sleepFailed` when a sleep failed after `beforeSleep` had run. */
  readonly reason: "wake" | "sleepFailed";
}

const TransitionHooks = closedObject({
  /** Awaited before memory goes: drop graphs and communicators that hold addresses. Throwing cancels the sleep. */
  beforeSleep: optional(callback<(transition: SleepTransition) => unknown>()),
  /**
   * Awaited before memory comes back, and before its room is checked: free device memory that the wake-up needs. Throwing cancels
   * the wake-up.
   */
  beforeWake: optional(callback<(transition: PendingWake) => unknown>()),
  /** Awaited after memory is back: rebuild graphs and communicators. */
  afterWake: optional(callback<(transition: WakeTransition) => unknown>()),
});

/** Called around transitions that move memory. A hook must not start or await a transition. */
export interface TransitionHooks extends Static<typeof TransitionHooks> {}

/** The hooks of one allocator. */
export class Hooks {
  readonly #registered = new Set<TransitionHooks>();
  /** The hook that the current code runs in, or that scheduled it. */
  readonly #caller = new AsyncLocalStorage<{ running: boolean }>();
  readonly #ending: AbortSignal;

  /** @param ending aborted when the allocator closes, which does not wait for hooks */
  constructor(ending: AbortSignal) {
    this.#ending = ending;
  }

  get isEmpty(): boolean {
    return this.#registered.size === 0;
  }

  /** True when a hook makes room for wake-ups. */
  get hasBeforeWake(): boolean {
    return [...this.#registered].some(({ beforeWake }) => beforeWake !== undefined);
  }

  /** @throws CamemError `INVALID_ARGUMENT` */
  add(hooks: TransitionHooks): () => void {
    validate(TransitionHooks, hooks, "onTransition", "INVALID_ARGUMENT", { noun: "hook" });
    this.#registered.add(hooks);
    return () => void this.#registered.delete(hooks);
  }

  /**
   * A transition inside a hook would wait for the transition that runs the hook, for ever.
   *
   * @throws CamemError `CALLED_FROM_HOOK`
   */
  assertOutside(): void {
    if (this.#caller.getStore()?.running)
      throw new CamemError(
        "CALLED_FROM_HOOK",
        "a hook of onTransition cannot start a transition; do it after the call that runs the hook",
      );
  }

  /**
   * Runs every `beforeSleep`. If one throws or `signal` aborts, calls `afterWake` of all hooks that ran.
   *
   * @throws CamemError `HOOK_FAILED` or `ABORTED`
   */
  async beforeSleep(tags: readonly string[], signal: AbortSignal): Promise<void> {
    const ran: TransitionHooks[] = [];
    for (const hooks of [...this.#registered]) {
      ran.push(hooks);
      try {
        await this.#runBefore("beforeSleep", () => hooks.beforeSleep?.({ tags }), signal);
      } catch (failure) {
        await this.afterWake({ tags, lostTags: [], reason: "sleepFailed" }, failure, ran);
        throw failure;
      }
    }
  }

  /**
   * Runs every `beforeWake` until one throws or `signal` aborts.
   *
   * @throws CamemError `HOOK_FAILED` or `ABORTED`
   */
  async beforeWake(transition: PendingWake, signal: AbortSignal): Promise<void> {
    for (const hooks of [...this.#registered])
      await this.#runBefore("beforeWake", () => hooks.beforeWake?.(transition), signal);
  }

  /** @throws CamemError `HOOK_FAILED` or `ABORTED` */
  async #runBefore(
    name: "beforeSleep" | "beforeWake",
    hook: () => unknown,
    signal: AbortSignal,
  ): Promise<void> {
    try {
      await abortable(this.#run(hook), signal, markOf);
    } catch (cause) {
      if (isAbort(cause, signal)) throw aborted(signal);
      const transition = name === "beforeSleep" ? "sleep" : "wake-up";
      const reason = `a ${name} hook threw (${messageOf(cause)})`;
      throw new CamemError(
        "HOOK_FAILED",
        `${reason}; the ${transition} was cancelled and nothing has changed`,
        { cause },
      );
    }
  }

  /**
   * Runs every `afterWake`, also after one has thrown. `failure` is the transition's own error; the thrown error names it as a
   * cause.
   *
   * @throws CamemError `HOOK_FAILED`
   */
  async afterWake(
    transition: WakeTransition,
    failure?: unknown,
    concerned: Iterable<TransitionHooks> = [...this.#registered],
  ): Promise<void> {
    const failures: unknown[] = [];
    for (const hooks of concerned) {
      try {
        await abortable(
          this.#run(() => hooks.afterWake?.(transition)),
          this.#ending,
          markOf,
        );
      } catch (hookFailure) {
        if (!isAbort(hookFailure, this.#ending)) failures.push(hookFailure);
      }
    }
    if (failures.length === 0) return;
    const causes = failure === undefined ? failures : [failure, ...failures];
    const outcome =
      failure === undefined ? "the memory itself is awake" : `before that, ${messageOf(failure)}`;
    throw new CamemError("HOOK_FAILED", `an afterWake hook threw (${messageOf(failures[0])}); ${outcome}`, {
      cause: causes.length === 1 ? causes[0] : new AggregateError(causes),
      transitionComplete: transition.reason === "wake",
    });
  }

  async #run(hook: () => unknown): Promise<void> {
    const caller = { running: true };
    try {
      await this.#caller.run(caller, hook);
    } finally {
      caller.running = false;
    }
  }
}

/** Distinct from anything that a hook can throw. */
const abortMark = Symbol("aborted");
const markOf = () => abortMark;

function isAbort(cause: unknown, signal: AbortSignal): boolean {
  return cause === abortMark && signal.aborted;
}
