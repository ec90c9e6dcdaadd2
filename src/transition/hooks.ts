import { AsyncLocalStorage } from "node:async_hooks";
import Type from "typebox";
import { abortable, aborted } from "../async/abortable.ts";

import { CamemError, formatValue, messageOf } from "../errors.ts";
import { validate } from "../options/validate.ts";

/** What a `beforeSleep` hook is told. */
export interface SleepTransition {
  /** The tags that go to sleep. */
  readonly tags: readonly string[];
}

/** What an `afterWake` hook is told. */
export interface WakeTransition {
  /** The tags that woke, or, after a failed sleep, of which memory stayed awake. */
  readonly tags: readonly string[];
  /** `sleepFailed` when a sleep failed after `beforeSleep` had run. */
  readonly reason: "wake" | "sleepFailed";
}

/** Called around transitions that move memory. A hook may not start or await a transition itself. */
export interface TransitionHooks {
  /** Awaited before memory goes: drop graphs and communicators that hold addresses. Throwing calls the sleep off. */
  readonly beforeSleep?: ((transition: SleepTransition) => unknown) | undefined;
  /** Awaited after memory is back: rebuild them. */
  readonly afterWake?: ((transition: WakeTransition) => unknown) | undefined;
}

const HookNames = Type.Object(
  { beforeSleep: Type.Optional(Type.Unknown()), afterWake: Type.Optional(Type.Unknown()) },
  { additionalProperties: false },
);

/** The hooks of one allocator. */
export class Hooks {
  readonly #registered = new Set<TransitionHooks>();
  /** Which hook this code runs in, or was scheduled by. */
  readonly #caller = new AsyncLocalStorage<{ running: boolean }>();
  readonly #ending: AbortSignal;

  /** @param ending aborted when the allocator closes, which waits for no hook */
  constructor(ending: AbortSignal) {
    this.#ending = ending;
  }

  get isEmpty(): boolean {
    return this.#registered.size === 0;
  }

  /** @throws CamemError `INVALID_ARGUMENT` for anything but functions under the two names */
  add(hooks: TransitionHooks): () => void {
    validate(HookNames, hooks, "the hooks of onTransition", "INVALID_ARGUMENT");
    for (const [name, hook] of Object.entries(hooks)) {
      if (hook !== undefined && typeof hook !== "function")
        throw new CamemError("INVALID_ARGUMENT", `${name} is ${formatValue(hook)}; it must be a function`);
    }
    this.#registered.add(hooks);
    return () => void this.#registered.delete(hooks);
  }

  /** A transition that waits for its turn inside a hook of the one before would wait for ever. */
  assertOutside(): void {
    if (this.#caller.getStore()?.running)
      throw new CamemError(
        "CALLED_FROM_HOOK",
        "a hook of onTransition cannot start a transition; do it after the call that runs the hook",
      );
  }

  /**
   * Runs every `beforeSleep`. Where one throws, or `signal` is aborted, the `afterWake` of those that ran is called.
   *
   * @throws CamemError `HOOK_FAILED` or `ABORTED`
   */
  async beforeSleep(tags: readonly string[], signal: AbortSignal): Promise<void> {
    const ran: TransitionHooks[] = [];
    for (const hooks of [...this.#registered]) {
      ran.push(hooks);
      try {
        await abortable(
          this.#run(() => hooks.beforeSleep?.({ tags })),
          signal,
          markOf,
        );
      } catch (cause) {
        const failure = isAbort(cause, signal)
          ? aborted(signal)
          : new CamemError(
              "HOOK_FAILED",
              `a beforeSleep hook threw (${messageOf(cause)}); the sleep was called off and nothing has changed`,
              {
                cause,
              },
            );
        await this.afterWake({ tags, reason: "sleepFailed" }, failure, ran);
        throw failure;
      }
    }
  }

  /**
   * Runs every `afterWake`, also after one has thrown. `failure` is what the transition itself failed with, and must not be
   * lost behind a hook's.
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
    throw new CamemError(
      "HOOK_FAILED",
      `an afterWake hook threw (${messageOf(failures[0])}); the memory itself is awake`,
      {
        cause: causes.length === 1 ? causes[0] : new AggregateError(causes),
        transitionComplete: transition.reason === "wake",
      },
    );
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

/** Told from whatever a hook may throw. */
const abortMark = Symbol("aborted");
const markOf = () => abortMark;

function isAbort(cause: unknown, signal: AbortSignal): boolean {
  return cause === abortMark && signal.aborted;
}
