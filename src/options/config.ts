import { accessSync, constants, statSync } from "node:fs";
import { resolve } from "node:path";
import Type from "typebox";
import { CamemError, formatValue, messageOf } from "../errors.ts";
import { formatSize, parseSize } from "./sizes.ts";
import { validate } from "./validate.ts";

const sizeText = 'bytes or a size such as "8GiB"';
const Size = Type.Union([Type.Integer({ minimum: 0 }), Type.String()], { description: sizeText });
const retainText = '"all", "none", a size such as "8GiB", or { maxBytes, idleMs }';
const RetainLimits = Type.Object(
  {
    maxBytes: Type.Optional(Size),
    idleMs: Type.Optional(
      Type.Number({
        exclusiveMinimum: 0,
        maximum: 2 ** 31 - 1,
        description: "milliseconds, above 0 and below 2^31",
      }),
    ),
  },
  { additionalProperties: false },
);
const Retain = Type.Union([Size, RetainLimits], { description: retainText });

export const AllocatorOptions = Type.Object(
  {
    backend: Type.Optional(
      Type.Union([Type.Literal("ascend"), Type.Literal("emulator")], {
        description: '"ascend" or "emulator"',
      }),
    ),
    aclLibrary: Type.Optional(
      Type.String({ minLength: 1, description: "the path of a libascendcl.so or libacl_rt.so" }),
    ),
    device: Type.Optional(Type.Integer({ minimum: 0, description: "a device number, 0 or above" })),
    hostBudget: Type.Optional(Size),
    poolSegment: Type.Optional(Size),
    prepareOnLoad: Type.Optional(Type.Boolean({ description: "true or false" })),
    retain: Type.Optional(Retain),
    spillDir: Type.Optional(Type.String({ minLength: 1, description: "the path of a folder" })),
    verify: Type.Optional(Type.Boolean({ description: "true or false" })),
  },
  { additionalProperties: false },
);

/** Options of {@link CaMemAllocator.getInstance}. Each one goes before its environment variable. */
export type AllocatorOptions = Type.Static<typeof AllocatorOptions>;

/** Options, environment and defaults resolved. */
export interface Config {
  readonly backend: "ascend" | "emulator";
  /** The library to open, or null: search for CANN's, or the emulator that is shipped. */
  readonly aclLibrary: string | null;
  /** The device that `malloc` and `memGetInfo` use where none is named. */
  readonly device: number;
  /** The most page-locked host memory that all backups together may take. */
  readonly hostBudgetBytes: number;
  /** The size of the segments that a `MemoryPool` asks for. */
  readonly poolSegmentBytes: number;
  /** Whether `loadSafetensors` has the next sleep prepared when it has ended. */
  readonly prepareOnLoad: boolean;
  /** Page-locked host memory that is kept while nothing needs it, at most. */
  readonly retainBytes: number;
  /** For how long it is kept after a transition; infinite without a limit. */
  readonly retainIdleMs: number;
  /** The folder for backups that the host budget has no room for, or null. */
  readonly spillDir: string | null;
  /** Whether each backup gets a checksum, which is compared before it is restored. */
  readonly verify: boolean;
}

/** @throws CamemError `UNKNOWN_DEVICE` for a number that is none of `deviceCount` devices */
export function checkDevice(device: number, deviceCount: number, what = "the device"): void {
  if (Number.isSafeInteger(device) && device >= 0 && device < deviceCount) return;
  const there = deviceCount === 1 ? "is only device 0" : `are devices 0 to ${deviceCount - 1}`;
  throw new CamemError("UNKNOWN_DEVICE", `${what} is ${formatValue(device)}; there ${there}`);
}

const optionNames: Partial<Record<keyof Config, string>> = {
  hostBudgetBytes: "hostBudget",
  poolSegmentBytes: "poolSegment",
  retainBytes: "retain",
  retainIdleMs: "retain.idleMs",
};

function inWords(name: keyof Config, value: unknown): string {
  if (value === null) return "none";
  if (value === Number.POSITIVE_INFINITY) return "no limit";
  return typeof value === "number" && name.endsWith("Bytes") ? formatSize(value) : formatValue(value);
}

/** The first option in which two configurations differ, in words, or undefined. */
export function differenceOf(existing: Config, wanted: Config): string | undefined {
  const names = Object.keys(wanted) as (keyof Config)[];
  const name = names.find((each) => wanted[each] !== existing[each]);
  if (name === undefined) return undefined;
  return `${optionNames[name] ?? name} ${inWords(name, existing[name])}, not ${inWords(name, wanted[name])}`;
}

/** The environment variable behind each option. */
export const environmentNames = {
  backend: "CAMEM_BACKEND",
  aclLibrary: "CAMEM_ACL_LIBRARY",
  device: "CAMEM_DEVICE",
  hostBudget: "CAMEM_HOST_BUDGET",
  poolSegment: "CAMEM_POOL_SEGMENT",
  prepareOnLoad: "CAMEM_PREPARE_ON_LOAD",
  retain: "CAMEM_RETAIN",
  spillDir: "CAMEM_SPILL_DIR",
  verify: "CAMEM_VERIFY",
} as const satisfies Record<keyof AllocatorOptions, string>;

const defaultPoolSegment = "32MiB";

/** A variable's text as the type of its option; text that is no such thing is left for the validation to refuse. */
function fromText(option: keyof AllocatorOptions, text: string): unknown {
  if (option === "device" && /^\d+$/.test(text)) return Number(text);
  if ((option === "verify" || option === "prepareOnLoad") && /^(true|false)$/.test(text))
    return text === "true";
  return text;
}

function fromEnvironment(environment: Readonly<Record<string, string | undefined>>): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [option, name] of Object.entries(environmentNames)) {
    const value = environment[name];
    if (value === undefined || value === "") continue;
    values[option] = fromText(option as keyof AllocatorOptions, value);
  }
  return values;
}

function bytesOf(
  value: number | string,
  option: keyof AllocatorOptions,
  minimum: number,
  expected = sizeText,
): number {
  const bytes = typeof value === "number" ? value : parseSize(value);
  if (bytes === undefined || !Number.isSafeInteger(bytes) || bytes < minimum)
    throw new CamemError(
      "INVALID_CONFIG",
      `${option} (${environmentNames[option]}) is ${formatValue(value)}; it must be ${expected}${minimum > 0 ? ", above 0" : ""}`,
    );
  return bytes;
}

/** How much unused host memory is kept, and for how long. */
function retentionOf(retain: AllocatorOptions["retain"] = "none"): {
  retainBytes: number;
  retainIdleMs: number;
} {
  const { maxBytes = "all", idleMs = Number.POSITIVE_INFINITY } =
    typeof retain === "object" ? retain : { maxBytes: retain };
  const words = new Map<unknown, number>([
    ["all", Number.POSITIVE_INFINITY],
    ["none", 0],
  ]);
  return {
    retainBytes: words.get(maxBytes) ?? bytesOf(maxBytes, "retain", 0, retainText),
    retainIdleMs: idleMs,
  };
}

/** What the shim has room for. */
const longestFolderBytes = 1023;

/** @throws CamemError `INVALID_CONFIG` for anything but a folder that can be written */
function spillFolder(path: string | undefined): string | null {
  if (path === undefined) return null;
  const absolute = resolve(path);
  try {
    if (!statSync(absolute).isDirectory()) throw new TypeError("it is not a folder");
    accessSync(absolute, constants.W_OK);
    if (Buffer.byteLength(absolute) > longestFolderBytes)
      throw new TypeError(`its path is longer than ${longestFolderBytes} bytes`);
  } catch (cause) {
    throw new CamemError(
      "INVALID_CONFIG",
      `spillDir (${environmentNames.spillDir}) is ${formatValue(path)}; it must be a folder that can be written: ${messageOf(cause)}`,
      { cause },
    );
  }
  return absolute;
}

/**
 * Resolves options over the environment over the defaults.
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
  validate(AllocatorOptions, options, "the options of getInstance", "INVALID_CONFIG");
  const variables = fromEnvironment(environment);
  validate(AllocatorOptions, variables, "the environment", "INVALID_CONFIG", { labels: environmentNames });
  const chosen = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const given: AllocatorOptions = { ...variables, ...chosen };
  return {
    backend: given.backend ?? "ascend",
    aclLibrary: given.aclLibrary ?? null,
    device: given.device ?? 0,
    hostBudgetBytes:
      given.hostBudget === undefined ? Number.POSITIVE_INFINITY : bytesOf(given.hostBudget, "hostBudget", 0),
    poolSegmentBytes: bytesOf(given.poolSegment ?? defaultPoolSegment, "poolSegment", 1),
    prepareOnLoad: given.prepareOnLoad ?? false,
    ...retentionOf(given.retain),
    spillDir: spillFolder(given.spillDir),
    verify: given.verify ?? false,
  };
}
