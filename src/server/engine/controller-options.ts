import Type from "typebox";
import { type Clock, systemClock } from "../../async/clock.ts";
import { CamemError, formatValue } from "../../errors.ts";
import { validate } from "../../options/validate.ts";
import { checkTag } from "../../policy/tag-names.ts";
import type { SleepLevel } from "../../policy/tag-policies.ts";
import type { InFlightMode, SleepReason } from "./events.ts";

/** What happens to a request that meets a sleeping engine: it is refused, it waits for somebody's wake-up, or it wakes it. */
export type WhenAsleep = "refuse" | "hold" | "wake";

/** What `reload` is told. */
export interface ReloadContext {
  /** The weights whose content is lost, by the engine's own names. Their memory is awake. */
  readonly tags: readonly string[];
  /** Aborted when the wake-up is, or when the controller closes. */
  readonly signal: AbortSignal;
}

export interface ControllerOptions {
  /** The engine's name in events and in a pool; by default `"default"`. */
  readonly name?: string | undefined;
  /**
   * The engine's own names of its tags and the allocator's tags behind them, such as `{ weights: "qwen/weights" }`, where
   * several engines share the allocator: only these are ever touched. A tag named `weights`, `kv_cache`, `buffers` or
   * `default` gets the policy of that name; for another, call `defineTag` afterwards. By default all tags under their names.
   */
  readonly tags?: Readonly<Record<string, string>> | undefined;
  /** Own names of tags that have to be loaded again when their content was lost; by default `["weights"]`. */
  readonly weightTags?: readonly string[] | undefined;
  /** Loads the weights in place, where a wake-up finds their content lost. Without it `confirmWeights` has to be called. */
  readonly reload?: ((context: ReloadContext) => unknown) | undefined;
  /** By default `"refuse"`, as vLLM does. */
  readonly whenAsleep?: WhenAsleep | undefined;
  /** The same while a sleep lasts that an operator asked for; by default as `whenAsleep`, but `"hold"` instead of `"wake"`. */
  readonly whenOperatorAsleep?: WhenAsleep | undefined;
  /** The longest that a request is held, in milliseconds; by default 30,000. */
  readonly holdDeadlineMs?: number | undefined;
  /** The longest that a sleep or pause waits for requests in flight, in milliseconds; by default 30,000. */
  readonly drainDeadlineMs?: number | undefined;
  /** What a refused request is told to wait before it comes again; by default 5. */
  readonly retryAfterSeconds?: number | undefined;
  /** How many requests are held at most; by default 1,024. */
  readonly queueLimit?: number | undefined;
  /** The devices that {@link SleepController.deviceMemory} tells of; by default the allocator's own. */
  readonly devices?: readonly number[] | undefined;
  /** For tests. */
  readonly clock?: Clock | undefined;
}

/** The options with their defaults. */
export type ControllerConfig = {
  readonly [Name in Exclude<keyof ControllerOptions, "tags" | "reload" | "devices">]-?: NonNullable<
    ControllerOptions[Name]
  >;
} & Pick<ControllerOptions, "tags" | "reload" | "devices">;

const Given = Type.Unsafe<unknown>(Type.Unknown());
const WhenAsleepSchema = Type.Union([Type.Literal("refuse"), Type.Literal("hold"), Type.Literal("wake")], {
  description: '"refuse", "hold" or "wake"',
});
const Milliseconds = Type.Number({ minimum: 0, description: "milliseconds, 0 or above" });
const Names = Type.Array(Type.String(), { description: "an array of tag names" });

const Schema = Type.Object(
  {
    name: Type.Optional(Type.String({ minLength: 1, maxLength: 128, description: "a name" })),
    tags: Type.Optional(
      Type.Record(Type.String(), Type.String(), {
        description: 'tags by name, such as { weights: "qwen/weights" }',
      }),
    ),
    weightTags: Type.Optional(Names),
    reload: Type.Optional(Given),
    whenAsleep: Type.Optional(WhenAsleepSchema),
    whenOperatorAsleep: Type.Optional(WhenAsleepSchema),
    holdDeadlineMs: Type.Optional(Milliseconds),
    drainDeadlineMs: Type.Optional(Milliseconds),
    retryAfterSeconds: Type.Optional(Type.Integer({ minimum: 0, description: "whole seconds, 0 or above" })),
    queueLimit: Type.Optional(Type.Integer({ minimum: 0, description: "a number of requests, 0 or above" })),
    devices: Type.Optional(
      Type.Array(Type.Integer({ minimum: 0 }), { description: "an array of device numbers" }),
    ),
    clock: Type.Optional(Given),
  },
  { additionalProperties: false },
);

/** @throws CamemError `INVALID_CONFIG` or `INVALID_TAG` */
export function resolveController(options: ControllerOptions): ControllerConfig {
  validate(Schema, options, "the options of SleepController", "INVALID_CONFIG");
  if (options.reload !== undefined && typeof options.reload !== "function")
    throw new CamemError("INVALID_CONFIG", `reload is ${formatValue(options.reload)}; it must be a function`);
  const { tags, weightTags } = options;
  for (const tag of Object.values(tags ?? {})) checkTag(tag);
  const unknown = tags && weightTags?.find((name) => !Object.hasOwn(tags, name));
  // Else nobody would wait for the weights after level 2, and the engine would serve garbage.
  if (unknown !== undefined)
    throw new CamemError(
      "INVALID_CONFIG",
      `weightTags names ${formatValue(unknown)}, which is not among tags: ${Object.keys(tags ?? {}).join(", ")}`,
    );
  const whenAsleep = options.whenAsleep ?? "refuse";
  return {
    name: options.name ?? "default",
    tags: options.tags,
    weightTags: options.weightTags ?? ["weights"],
    reload: options.reload,
    whenAsleep,
    whenOperatorAsleep: options.whenOperatorAsleep ?? (whenAsleep === "wake" ? "hold" : whenAsleep),
    holdDeadlineMs: options.holdDeadlineMs ?? 30_000,
    drainDeadlineMs: options.drainDeadlineMs ?? 30_000,
    retryAfterSeconds: options.retryAfterSeconds ?? 5,
    queueLimit: options.queueLimit ?? 1024,
    devices: options.devices,
    clock: options.clock ?? systemClock,
  };
}

interface Bounded {
  /** Milliseconds to wait for requests in flight; by default the controller's `drainDeadlineMs`. */
  readonly deadlineMs?: number | undefined;
  /** Aborting it calls the operation off as long as memory is not being given back already. */
  readonly signal?: AbortSignal | undefined;
}

export interface PauseOptions extends Bounded {
  /** What becomes of requests in flight; by default `abort`. */
  readonly mode?: InFlightMode | undefined;
}

export interface EngineSleepOptions extends PauseOptions {
  /** By default 1. */
  readonly level?: SleepLevel | undefined;
  /** Only these tags, by the engine's own names; all of the engine's by default. */
  readonly tags?: readonly string[] | undefined;
  /** Who asks; by default `operator`. */
  readonly reason?: SleepReason | undefined;
}

export interface EngineWakeOptions {
  /** Only these tags, by the engine's own names; all of the engine's by default. */
  readonly tags?: readonly string[] | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Who asks, for events; by default `operator`. */
  readonly reason?: SleepReason | undefined;
}

export interface AdmitOptions {
  /** Milliseconds to be held at most; by default the controller's `holdDeadlineMs`. */
  readonly deadlineMs?: number | undefined;
}

const Mode = Type.Union([Type.Literal("abort"), Type.Literal("wait"), Type.Literal("keep")], {
  description: '"abort", "wait" or "keep"',
});
const Level = Type.Union([Type.Literal(0), Type.Literal(1), Type.Literal(2)], { description: "0, 1 or 2" });
const Reason = Type.Union([Type.Literal("operator"), Type.Literal("idle"), Type.Literal("pool")], {
  description: '"operator", "idle" or "pool"',
});
const pauseProperties = {
  mode: Type.Optional(Mode),
  deadlineMs: Type.Optional(Milliseconds),
  signal: Type.Optional(Given),
};

const schemas = {
  pause: Type.Object(pauseProperties, { additionalProperties: false }),
  sleep: Type.Object(
    {
      ...pauseProperties,
      level: Type.Optional(Level),
      tags: Type.Optional(Names),
      reason: Type.Optional(Reason),
    },
    { additionalProperties: false },
  ),
  wakeUp: Type.Object(
    {
      tags: Type.Optional(Names),
      signal: Type.Optional(Given),
      reason: Type.Optional(Reason),
    },
    { additionalProperties: false },
  ),
  admit: Type.Object({ deadlineMs: Type.Optional(Milliseconds) }, { additionalProperties: false }),
};

/** @throws CamemError `INVALID_ARGUMENT`, `UNKNOWN_LEVEL` or `INVALID_TAG` */
export function checkCall(verb: keyof typeof schemas, options: unknown, signal: unknown): void {
  validate(schemas[verb], options, `the options of ${verb}`, "INVALID_ARGUMENT", {
    codes: { level: "UNKNOWN_LEVEL", tags: "INVALID_TAG" },
  });
  if (signal !== undefined && !(signal instanceof AbortSignal))
    throw new CamemError("INVALID_ARGUMENT", `signal is ${formatValue(signal)}; it must be an AbortSignal`);
}
