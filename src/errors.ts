/** Every code that a {@link CamemError} can carry. The set is closed: adding one is a breaking change. */
export const errorCodes = [
  "INVALID_ARGUMENT",
  "INVALID_SIZE",
  "INVALID_TAG",
  "UNKNOWN_TAG",
  "UNKNOWN_DEVICE",
  "UNKNOWN_LEVEL",
  "OUT_OF_BOUNDS",
  "BUFFER_ASLEEP",
  "BUFFER_MOVING",
  "BUFFER_FREED",
  "BUFFER_IMMUTABLE",
  "INVALID_CONFIG",
  "CONFIG_CONFLICT",
  "PERMISSION_MISSING",
  "LIBRARY_NOT_FOUND",
  "LIBRARY_INVALID",
  "BACKEND_UNAVAILABLE",
  "DEVICE_LOST",
  "OUT_OF_DEVICE_MEMORY",
  "OUT_OF_HOST_MEMORY",
  "HOST_BUDGET_EXCEEDED",
  "ACL_CALL_FAILED",
  "BACKUP_CORRUPT",
  "NO_BACKUP",
  "FILE_CHANGED",
  "FILE_FAILED",
  "ABORTED",
  "HOOK_FAILED",
  "CALLED_FROM_HOOK",
  "CLOSED",
  "SAFETENSORS_INVALID",
  "STATE_CONFLICT",
  "ENGINE_UNAVAILABLE",
  "ENGINE_NOT_FOUND",
  "ENGINE_REFUSED",
  "ENGINE_GONE",
  "QUEUE_FULL",
  "TIMED_OUT",
  "UNKNOWN_MODEL",
] as const;

/** One code of the closed set. */
export type CamemErrorCode = (typeof errorCodes)[number];

/** Facts of a failure besides its message. */
export interface CamemErrorDetails {
  /** The AscendCL call that failed, such as `aclrtMallocPhysical`; by default that of `cause`. */
  readonly call?: string;
  /** The code that the call returned, such as 207001; by default that of `cause`. */
  readonly aclCode?: number;
  /** The device address concerned. */
  readonly address?: number;
  /** The number of bytes concerned. */
  readonly sizeBytes?: number;
  /** True when the sleep or wake-up itself succeeded and only a later step failed. */
  readonly transitionComplete?: boolean;
  /** Seconds after which a refused request may be tried again. */
  readonly retryAfterSeconds?: number;
  /** The option or argument that does not fit. */
  readonly property?: string;
  /** The error behind this one. */
  readonly cause?: unknown;
}

/** The only error that this package throws. Tell failures apart by `code`; the message names the value and the remedy. */
export class CamemError extends Error {
  /** Always `CamemError`. */
  override readonly name = "CamemError";
  /** The kind of failure. */
  readonly code: CamemErrorCode;
  /** The AscendCL call that failed, such as `aclrtMallocPhysical`. */
  declare readonly call: string | undefined;
  /** The code that the AscendCL call returned, such as 207001. */
  declare readonly aclCode: number | undefined;
  /** The device address concerned. */
  declare readonly address: number | undefined;
  /** The number of bytes concerned. */
  declare readonly sizeBytes: number | undefined;
  /** True when the sleep or wake-up itself succeeded, and only giving memory back or a callback failed. */
  readonly transitionComplete: boolean;
  /** Seconds after which a refused request may be tried again; undefined for any other failure. */
  declare readonly retryAfterSeconds: number | undefined;
  /** The option or argument that does not fit; undefined for any other failure. */
  declare readonly property: string | undefined;

  constructor(code: CamemErrorCode, message: string, details: CamemErrorDetails = {}) {
    super(message, "cause" in details ? { cause: details.cause } : undefined);
    this.code = code;
    const { cause, transitionComplete = false, ...own } = details;
    this.transitionComplete = transitionComplete;
    const facts: CamemErrorDetails = own.call === undefined ? { ...own, ...failedCall(cause) } : own;
    // An uncaught error is printed with all its properties: absent facts must not be among them.
    Object.assign(this, Object.fromEntries(Object.entries(facts).filter(([, fact]) => fact !== undefined)));
  }
}

/** @internal True for an allocator that is closed, or whose engine in another process has ended. */
export function isUnusable(error: unknown): boolean {
  return error instanceof CamemError && (error.code === "CLOSED" || error.code === "ENGINE_GONE");
}

/** @internal The error for a permission that the program was not started with; undefined for any other failure. */
export function missingPermission(cause: unknown): CamemError | undefined {
  if (!isA(Error, cause) || cause.name !== "NotCapable") return undefined;
  // The runtime's message names the flag.
  return new CamemError("PERMISSION_MISSING", `camem lacks a permission: ${messageOf(cause)}`, { cause });
}

/** @internal Runs `attempt`. A missing permission throws `PERMISSION_MISSING`. */
export function permitted<T>(attempt: () => T): T {
  try {
    return attempt();
  } catch (error) {
    throw missingPermission(error) ?? error;
  }
}

/** The AscendCL call behind a failure, and its code: of `cause` or the first of its errors that has one. */
function failedCall(cause: unknown): Pick<CamemErrorDetails, "call" | "aclCode"> | undefined {
  const causes: readonly unknown[] = isA(AggregateError, cause) ? cause.errors : [cause];
  for (const each of causes) {
    if (!isA(CamemError, each) || each.call === undefined) continue;
    const { call, aclCode } = each;
    return aclCode === undefined ? { call } : { call, aclCode };
  }
  return undefined;
}

/** As `instanceof`, which a thrown proxy can make throw. */
function isA<Kind>(kind: abstract new (...args: never[]) => Kind, value: unknown): value is Kind {
  try {
    return value instanceof kind;
  } catch {
    return false;
  }
}

/** A value as an error message names it: short, and never the content of a buffer. */
export function formatValue(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value);
  if (typeof value === "object" && value !== null) return Array.isArray(value) ? "an array" : "an object";
  if (typeof value === "bigint") return `${value}n (a bigint)`;
  if (typeof value === "number" && Number.isFinite(value) && Math.abs(value) > Number.MAX_SAFE_INTEGER)
    return `${value} (too large: beyond 2^53 - 1)`;
  return typeof value === "function" ? "a function" : String(value);
}

/** The message of an error; other thrown values as {@link formatValue} names them. Never throws. */
export function messageOf(thrown: unknown): string {
  try {
    return thrown instanceof Error ? String(thrown.message) : formatValue(thrown);
  } catch {
    return "a value that cannot be read";
  }
}

/** The message of a typed error, to go on from a message about what it has prevented. */
export function becauseOf(cause: unknown): string {
  return cause instanceof CamemError ? `: ${cause.message}` : "";
}
