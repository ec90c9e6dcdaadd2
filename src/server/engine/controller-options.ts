import Type, { type Static } from "typebox";
import { CaMemAllocator } from "../../allocator.ts";
import { type Clock, systemClock } from "../../async/clock.ts";
import { CamemError, formatValue } from "../../errors.ts";
import {
  Count,
  callback,
  closedObject,
  custom,
  Devices,
  Level,
  Milliseconds,
  Mode,
  optional,
  Signal,
  Tags,
  unchecked,
  WholeSeconds,
} from "../../options/schemas.ts";
import { compiledCheck, mismatchText, validate } from "../../options/validate.ts";
import { checkTag } from "../../policy/tag-names.ts";
import type { WakeOptions } from "../../transition/options.ts";
import { Order } from "../../transition/wake-order.ts";

/** Context of a `reload` call. */
export interface ReloadContext {
  /** The weights to load, by the engine's own names. Their memory is awake. */
  readonly tags: readonly string[];
  /** Aborted when the call is aborted, or when the controller closes. */
  readonly signal: AbortSignal;
  /**
   * The checkpoint that a client named, as in `POST /update_weights_from_disk`; undefined for the engine's own. A `reload` that
   * loads a fixed checkpoint must throw for another one.
   */
  readonly modelPath: string | undefined;
}

const WhenAsleepSchema = Type.Union([Type.Literal("refuse"), Type.Literal("hold"), Type.Literal("wake")], {
  description: '"refuse", "hold" or "wake"',
});

/** What a sleeping engine does with a request: refuses it, holds it until something else wakes the engine, or wakes for it. */
export type WhenAsleep = Static<typeof WhenAsleepSchema>;

/** A request cannot end a pause. */
const WhenPaused = Type.Union([Type.Literal("refuse"), Type.Literal("hold")], {
  description: '"refuse" or "hold"',
});

const Reason = Type.Union([Type.Literal("operator"), Type.Literal("idle"), Type.Literal("pool")], {
  description: '"operator", "idle" or "pool"',
});

/** Who asked for a sleep. Requests end an operator's sleep only where that is configured. */
export type SleepReason = Static<typeof Reason>;

/** What happens to requests in flight: they are aborted, awaited, or parked at their next checkpoint. */
export type InFlightMode = Static<typeof Mode>;

const TagNames = Type.Unsafe<Readonly<Record<string, string>>>(
  Type.Record(Type.String(), Type.String(), {
    description: 'tags by name, such as { weights: "qwen/weights" }',
  }),
);

type WakeUpOrder = NonNullable<WakeOptions["order"]>;

const WakeUpOrder = custom<WakeUpOrder | (() => WakeUpOrder)>(
  '"loaded", an array of tags, buffers and lists of these in the order of their use, or a function that returns one',
  (value) => typeof value === "function" || compiledCheck(Order)(value),
);

const ControllerOptions = closedObject({
  /** The engine's name in events and in a pool; by default `"default"`. */
  name: optional(Type.String({ minLength: 1, maxLength: 128, description: "a name" })),
  /**
   * The engine's own names of its tags and the allocator's tags behind them, such as `{ weights: "qwen/weights" }`, for engines
   * that share the allocator: the controller touches only these tags. A tag named `weights`, `kv_cache`, `buffers` or `default`
   * gets the policy of that name; for any other name, call `defineTag` afterwards. By default all tags, under their own names.
   */
  tags: optional(TagNames),
  /** Own names of the tags that must be reloaded when their content is lost; by default `["weights"]`. */
  weightTags: optional(Tags),
  /** Loads the weights in place when a wake-up finds their content lost. Without it, call `confirmWeights`. */
  reload: optional(callback<(context: ReloadContext) => unknown>()),
  /**
   * The order in which wake-ups bring memory back, as the option `order` of {@link CaMemAllocator.wakeUp}, or a function that
   * returns it, with the engine's own names of its tags. With it, requests are admitted as soon as the first of that memory is
   * back, before hooks of `afterWake`, where the wake-up brings everything back and no weights are lost. They await
   * {@link Lease.ready}. Needs a CaMemAllocator.
   */
  order: optional(WakeUpOrder),
  /** What happens to a request while the engine is asleep; by default `"refuse"`, as in vLLM. */
  whenAsleep: optional(WhenAsleepSchema),
  /** The same during a sleep that an operator asked for; by default as `whenAsleep`, but `"hold"` instead of `"wake"`. */
  whenOperatorAsleep: optional(WhenAsleepSchema),
  /** What happens to a request while the engine is paused; by default as `whenAsleep`, but `"hold"` instead of `"wake"`. */
  whenPaused: optional(WhenPaused),
  /** The longest that a request is held, in milliseconds; by default 30,000. */
  holdDeadlineMs: optional(Milliseconds),
  /** The longest that a sleep or pause waits for requests in flight, in milliseconds; by default 30,000. */
  drainDeadlineMs: optional(Milliseconds),
  /** When a refused client should retry; by default 5. */
  retryAfterSeconds: optional(WholeSeconds),
  /** The most requests that are held at once; by default 1,024. */
  queueLimit: optional(Count),
  /** The devices that {@link SleepController.deviceMemory} reports; by default the allocator's own. */
  devices: optional(Devices),
  /** For tests. */
  clock: optional(unchecked<Clock>()),
});

/** Options of {@link SleepController}. */
export interface ControllerOptions extends Static<typeof ControllerOptions> {}

/** The options with their defaults. */
export type ControllerConfig = {
  readonly [Name in Exclude<keyof ControllerOptions, Unset>]-?: NonNullable<ControllerOptions[Name]>;
} & Pick<ControllerOptions, Unset>;

/** Options without a default. */
type Unset = "tags" | "reload" | "order" | "devices";

/** Defaults of requests that wait, for an engine and for a pool. */
export const queueDefaults = { holdDeadlineMs: 30_000, queueLimit: 1024, retryAfterSeconds: 5 } as const;

/** @throws CamemError `INVALID_CONFIG` or `INVALID_TAG` */
export function resolveController(options: ControllerOptions, allocator: unknown): ControllerConfig {
  validate(ControllerOptions, options, "SleepController", "INVALID_CONFIG");
  if (options.order !== undefined && !(allocator instanceof CaMemAllocator))
    throw new CamemError("INVALID_CONFIG", "order needs a CaMemAllocator; others wake up in no order", {
      property: "order",
    });
  const { tags, weightTags } = options;
  const ownTags = Object.values(tags ?? {});
  for (const tag of ownTags) checkTag(tag);
  if (new Set(ownTags).size < ownTags.length)
    throw new CamemError("INVALID_CONFIG", "tags has two names for the same tag");
  const unknown = tags && weightTags?.find((name) => !Object.hasOwn(tags, name));
  // A misspelt name would let the engine serve without its weights after level 2.
  if (unknown !== undefined)
    throw new CamemError(
      "INVALID_CONFIG",
      `weightTags has ${formatValue(unknown)}, which is not in tags: ${Object.keys(tags ?? {}).join(", ")}`,
    );
  const whenAsleep = options.whenAsleep ?? "refuse";
  return {
    name: options.name ?? "default",
    tags,
    weightTags: weightTags ?? ["weights"],
    reload: options.reload,
    order: options.order,
    whenAsleep,
    whenOperatorAsleep: options.whenOperatorAsleep ?? (whenAsleep === "wake" ? "hold" : whenAsleep),
    whenPaused: options.whenPaused ?? (whenAsleep === "wake" ? "hold" : whenAsleep),
    holdDeadlineMs: options.holdDeadlineMs ?? queueDefaults.holdDeadlineMs,
    drainDeadlineMs: options.drainDeadlineMs ?? 30_000,
    retryAfterSeconds: options.retryAfterSeconds ?? queueDefaults.retryAfterSeconds,
    queueLimit: options.queueLimit ?? queueDefaults.queueLimit,
    devices: options.devices,
    clock: options.clock ?? systemClock,
  };
}

const pauseProperties = {
  /** What happens to requests in flight; by default `abort`. */
  mode: optional(Mode),
  /** The longest wait for requests in flight, in milliseconds; by default the controller's `drainDeadlineMs`. */
  deadlineMs: optional(Milliseconds),
  /** Aborting it cancels the operation until memory is being freed. */
  signal: optional(Signal),
};

const PauseOptions = closedObject(pauseProperties);

/** Options of {@link SleepController.pause}. */
export interface PauseOptions extends Static<typeof PauseOptions> {}

const ReloadOptions = closedObject({
  ...pauseProperties,
  /** What happens to requests in flight; by default `wait`. */
  mode: optional(Mode),
  /** The checkpoint to load, passed on to `reload`; by default the engine's own. */
  modelPath: optional(Type.String({ minLength: 1, description: "the path or name of a checkpoint" })),
});

/** Options of {@link SleepController.reloadWeights}. */
export interface ReloadOptions extends Static<typeof ReloadOptions> {}

/** Shared by a sleep and its plan. */
const selectionProperties = {
  /** By default 1. */
  level: optional(Level),
  /** Offload these tags and discard the rest, instead of a level; by the engine's own names. */
  offloadTags: optional(Tags),
  /** Only these tags, by the engine's own names; by default all of the engine's. */
  tags: optional(Tags),
};

const EngineSleepOptions = closedObject({
  ...pauseProperties,
  ...selectionProperties,
  /** Who asks; by default `operator`. */
  reason: optional(Reason),
  /** Asked when the turn of this call has come, after all earlier calls. False: it rejects with `STATE_CONFLICT`. */
  onlyIf: optional(callback<() => boolean>()),
});

/** Options of {@link SleepController.sleep}. */
export interface EngineSleepOptions extends Static<typeof EngineSleepOptions> {}

const EngineWakeOptions = closedObject({
  /** Only these tags, by the engine's own names; by default all of the engine's. */
  tags: optional(Tags),
  /** Aborting it cancels the wake-up. */
  signal: optional(Signal),
  /** Who asks, for events; by default `operator`. */
  reason: optional(Reason),
  /** Asked when the turn of this call has come, after all earlier calls. False: it rejects with `STATE_CONFLICT`. */
  onlyIf: optional(callback<() => boolean>()),
});

/** Options of {@link SleepController.wakeUp}. */
export interface EngineWakeOptions extends Static<typeof EngineWakeOptions> {}

const EnginePlanOptions = closedObject(selectionProperties);

/** Options of {@link SleepController.plan}. */
export interface EnginePlanOptions extends Static<typeof EnginePlanOptions> {}

const AdmitOptions = closedObject({
  /** The longest that the request is held, in milliseconds; by default the controller's `holdDeadlineMs`. */
  deadlineMs: optional(Milliseconds),
});

/** Options of {@link SleepController.admit}. */
export interface AdmitOptions extends Static<typeof AdmitOptions> {}

const schemas = {
  pause: PauseOptions,
  reloadWeights: ReloadOptions,
  sleep: EngineSleepOptions,
  wakeUp: EngineWakeOptions,
  plan: EnginePlanOptions,
  admit: AdmitOptions,
};

/** @throws CamemError `INVALID_ARGUMENT`, `UNKNOWN_LEVEL` or `INVALID_TAG` */
export function checkCall(verb: keyof typeof schemas, options: unknown, signal?: unknown): void {
  validate(schemas[verb], options, verb, "INVALID_ARGUMENT", {
    codes: { level: "UNKNOWN_LEVEL", tags: "INVALID_TAG", offloadTags: "INVALID_TAG" },
  });
  if (signal !== undefined && !(signal instanceof AbortSignal))
    throw new CamemError("INVALID_ARGUMENT", mismatchText("signal", signal, Signal), { property: "signal" });
}
