import { accessSync, constants, statSync } from "node:fs";
import { resolve } from "node:path";
import Type, { type Static } from "typebox";
import { longestDelayMs } from "../async/clock.ts";
import { CamemError, formatValue, messageOf, missingPermission } from "../errors.ts";
import { Backend, defaultBackend } from "./backend.ts";
import { closedObject, Device, Flag, optional, Size } from "./schemas.ts";
import { formatSize, isTooLarge, parseSize, sizeText } from "./sizes.ts";
import { validate } from "./validate.ts";

const RetainLimits = closedObject({
  /** The most host memory that is kept, in bytes or as a size such as `"8GiB"`; by default `"all"`. */
  maxBytes: optional(Size),
  /** Milliseconds after the last transition until it is given back; by default for ever. */
  idleMs: optional(
    Type.Number({
      exclusiveMinimum: 0,
      maximum: longestDelayMs,
      description: "milliseconds, above 0 and below 2^31",
    }),
  ),
});

const retainText = `"all", "none", ${sizeText}, or { maxBytes, idleMs }`;
const Retain = Type.Union([Size, RetainLimits], { description: retainText });

const hostBudgetText = `${sizeText}, or "unlimited"`;
const HostBudgetSize = Type.Union([Size], { description: hostBudgetText });

export const AllocatorOptions = closedObject({
  /** The kind of device; by default `ascend`. `CAMEM_BACKEND` */
  backend: optional(Backend),
  /** The path of AscendCL's library; by default CANN's, or the shipped emulator. `CAMEM_ACL_LIBRARY` */
  aclLibrary: optional(
    Type.String({ minLength: 1, description: "the path of a libascendcl.so or libacl_rt.so" }),
  ),
  /** The device number of calls that name none; by default 0. `CAMEM_DEVICE` */
  device: optional(Device),
  /**
   * The most host memory for all backups together: a size, or `"unlimited"`. By default it follows free memory and the limits of
   * containers, read anew for each plan. `CAMEM_HOST_BUDGET`
   */
  hostBudget: optional(HostBudgetSize),
  /**
   * Keep backups in ordinary memory where AscendCL refuses to page-lock, with slower copies; by default false. `CAMEM_PAGEABLE`
   */
  pageable: optional(Flag),
  /** The size of the segments of memory pools; by default `"32MiB"`. `CAMEM_POOL_SEGMENT` */
  poolSegment: optional(Size),
  /** Prepare the next sleep after each `loadSafetensors`; by default false. `CAMEM_PREPARE_ON_LOAD` */
  prepareOnLoad: optional(Flag),
  /**
   * Page-locked host memory that is kept after a transition although nothing needs it: `"all"`, `"none"`, a size, or a limit
   * with an idle time; by default `"none"`. `CAMEM_RETAIN`
   */
  retain: optional(Retain),
  /** The folder for backups beyond the host budget, or that AscendCL refuses to page-lock; by default none. `CAMEM_SPILL_DIR` */
  spillDir: optional(Type.String({ minLength: 1, description: "the path of a folder" })),
  /**
   * What a sleep level does to memory under tags without a policy: `"discard"`, `"offload"` at every level, or `"refuse"` the
   * sleep; by default `"discard"`. `CAMEM_UNKNOWN_TAGS`
   */
  unknownTags: optional(
    Type.Union([Type.Literal("discard"), Type.Literal("offload"), Type.Literal("refuse")], {
      description: '"discard", "offload" or "refuse"',
    }),
  ),
  /** Give each backup a checksum and compare it before restoring; by default false. `CAMEM_VERIFY` */
  verify: optional(Flag),
});

/** Options of `CaMemAllocator.getInstance`. Each overrides its environment variable. */
export interface AllocatorOptions extends Static<typeof AllocatorOptions> {}

/** The options of an allocator, with environment variables and defaults applied. */
export interface Config {
  readonly backend: Backend;
  /** The path of the library; null searches for CANN's or takes the shipped emulator. */
  readonly aclLibrary: string | null;
  /** The device number of calls that name none. */
  readonly device: number;
  /** The most host memory for all backups together; infinite without a limit, null to derive it from free memory. */
  readonly hostBudgetBytes: number | null;
  /** True to keep backups in ordinary memory where AscendCL refuses to page-lock. */
  readonly pageable: boolean;
  /** The size of the segments of memory pools. */
  readonly poolSegmentBytes: number;
  /** True to prepare the next sleep after each `loadSafetensors`. */
  readonly prepareOnLoad: boolean;
  /** The most page-locked host memory that is kept while nothing needs it. */
  readonly retainBytes: number;
  /** How long it is kept after a transition; infinite without a limit. */
  readonly retainIdleMs: number;
  /** The absolute path of the folder for backups beyond the host budget, or null. */
  readonly spillDir: string | null;
  /** What a sleep level does to memory under tags without a policy. */
  readonly unknownTags: "discard" | "offload" | "refuse";
  /** True to give each backup a checksum and compare it before restoring. */
  readonly verify: boolean;
}

/** @throws CamemError `UNKNOWN_DEVICE` for anything but the number of one of `deviceCount` devices */
export function checkDevice(device: number, deviceCount: number, label = "the device"): void {
  if (Number.isSafeInteger(device) && device >= 0 && device < deviceCount) return;
  const there = deviceCount === 1 ? "is only device 0" : `are devices 0 to ${deviceCount - 1}`;
  throw new CamemError("UNKNOWN_DEVICE", `${label} is ${formatValue(device)}; there ${there}`, {
    property: "device",
  });
}

const optionNames: Partial<Record<keyof Config, string>> = {
  hostBudgetBytes: "hostBudget",
  poolSegmentBytes: "poolSegment",
  retainBytes: "retain",
  retainIdleMs: "retain.idleMs",
};

function describeSetting(name: keyof Config, value: unknown): string {
  if (value === null) return name === "hostBudgetBytes" ? "derived from free memory" : "none";
  if (value === Number.POSITIVE_INFINITY) return "unlimited";
  return typeof value === "number" && name.endsWith("Bytes") ? formatSize(value) : formatValue(value);
}

/** Describes the first option that differs between the allocator's configuration and another; undefined where none does. */
export function differenceOf(existing: Config, wanted: Config): string | undefined {
  const names = Object.keys(wanted) as (keyof Config)[];
  const name = names.find((each) => wanted[each] !== existing[each]);
  if (name === undefined) return undefined;
  const [existingText, wantedText] = [existing, wanted].map((config) => describeSetting(name, config[name]));
  return `${optionNames[name] ?? name} is ${existingText} in the allocator of this process, but ${wantedText} in these options`;
}

/** The environment variable of each option. */
export const environmentNames = {
  backend: "CAMEM_BACKEND",
  aclLibrary: "CAMEM_ACL_LIBRARY",
  device: "CAMEM_DEVICE",
  hostBudget: "CAMEM_HOST_BUDGET",
  pageable: "CAMEM_PAGEABLE",
  poolSegment: "CAMEM_POOL_SEGMENT",
  prepareOnLoad: "CAMEM_PREPARE_ON_LOAD",
  retain: "CAMEM_RETAIN",
  spillDir: "CAMEM_SPILL_DIR",
  unknownTags: "CAMEM_UNKNOWN_TAGS",
  verify: "CAMEM_VERIFY",
} as const satisfies Record<keyof AllocatorOptions, string>;

const defaultPoolSegment = "32MiB";

const flags: ReadonlySet<keyof AllocatorOptions> = new Set(["pageable", "prepareOnLoad", "verify"]);

/** Parses a variable's text as the type of its option; returns other text as it is, for validation to refuse. */
function parseVariable(option: keyof AllocatorOptions, text: string): unknown {
  if (option === "device" && /^\d+$/.test(text)) return Number(text);
  if (flags.has(option) && /^(true|false)$/.test(text)) return text === "true";
  return text;
}

function fromEnvironment(environment: Readonly<Record<string, string | undefined>>): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [option, name] of Object.entries(environmentNames)) {
    const value = environment[name];
    if (value === undefined || value === "") continue;
    values[option] = parseVariable(option as keyof AllocatorOptions, value);
  }
  return values;
}

/** @throws CamemError `INVALID_CONFIG` for anything but a size of `minimum` bytes or more */
function resolveSize(
  value: number | string,
  option: keyof AllocatorOptions,
  minimum: number,
  expected = sizeText,
): number {
  const bytes = typeof value === "number" ? value : parseSize(value);
  if (bytes !== undefined && Number.isSafeInteger(bytes) && bytes >= minimum) return bytes;
  const tooLarge = typeof value === "string" && isTooLarge(value) ? " (too large: beyond 2^53 - 1)" : "";
  throw new CamemError(
    "INVALID_CONFIG",
    `${option} (${environmentNames[option]}) is ${formatValue(value)}${tooLarge}; it must be ${expected}${minimum > 0 ? ", above 0" : ""}`,
    { property: option },
  );
}

function resolveHostBudget(budget: AllocatorOptions["hostBudget"]): number | null {
  if (budget === undefined) return null;
  return budget === "unlimited"
    ? Number.POSITIVE_INFINITY
    : resolveSize(budget, "hostBudget", 0, hostBudgetText);
}

/** How much unused host memory is kept, and for how long. */
function resolveRetention(retain: AllocatorOptions["retain"] = "none"): {
  retainBytes: number;
  retainIdleMs: number;
} {
  const { maxBytes = "all", idleMs = Number.POSITIVE_INFINITY } =
    typeof retain === "object" ? retain : { maxBytes: retain };
  const limits = new Map<unknown, number>([
    ["all", Number.POSITIVE_INFINITY],
    ["none", 0],
  ]);
  return {
    retainBytes: limits.get(maxBytes) ?? resolveSize(maxBytes, "retain", 0, retainText),
    retainIdleMs: idleMs,
  };
}

/** @throws CamemError `INVALID_CONFIG` for anything but a writable folder */
function resolveSpillFolder(path: string | undefined): string | null {
  if (path === undefined) return null;
  const absolute = resolve(path);
  try {
    if (!statSync(absolute).isDirectory()) throw new TypeError("it is not a folder");
    accessSync(absolute, constants.W_OK);
  } catch (cause) {
    const missing = missingPermission(cause);
    if (missing !== undefined) throw missing;
    throw new CamemError(
      "INVALID_CONFIG",
      `spillDir (${environmentNames.spillDir}) is ${formatValue(path)}; it must be a writable folder: ${messageOf(cause)}`,
      { property: "spillDir", cause },
    );
  }
  return absolute;
}

/**
 * Applies environment variables and defaults to options.
 *
 * @throws CamemError `INVALID_CONFIG` naming the option or variable, its value and what it must be
 */
export function resolveConfig(
  options: AllocatorOptions = {},
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Config {
  const retain: unknown = options?.retain;
  if (typeof retain === "object" && retain !== null)
    validate(RetainLimits, retain, "retain", "INVALID_CONFIG");
  validate(AllocatorOptions, options, "getInstance", "INVALID_CONFIG");
  const variables = fromEnvironment(environment);
  validate(AllocatorOptions, variables, "the environment", "INVALID_CONFIG", { labels: environmentNames });
  const chosen = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const given: AllocatorOptions = { ...variables, ...chosen };
  return {
    backend: given.backend ?? defaultBackend,
    aclLibrary: given.aclLibrary ?? null,
    device: given.device ?? 0,
    hostBudgetBytes: resolveHostBudget(given.hostBudget),
    pageable: given.pageable ?? false,
    poolSegmentBytes: resolveSize(given.poolSegment ?? defaultPoolSegment, "poolSegment", 1),
    prepareOnLoad: given.prepareOnLoad ?? false,
    ...resolveRetention(given.retain),
    spillDir: resolveSpillFolder(given.spillDir),
    unknownTags: given.unknownTags ?? "discard",
    verify: given.verify ?? false,
  };
}
