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
  "QUEUE_FULL",
  "TIMED_OUT",
  "UNKNOWN_MODEL",
] as const;

/** One code of the closed set. */
export type CamemErrorCode = (typeof errorCodes)[number];

/** What is known of a failure beyond its message. */
export interface CamemErrorDetails {
  /** The AscendCL call that failed, such as `aclrtMallocPhysical`. */
  readonly call?: string;
  /** The code which that call returned, such as 207001. */
  readonly aclCode?: number;
  /** The device address concerned. */
  readonly address?: number;
  /** The number of bytes concerned. */
  readonly sizeBytes?: number;
  /** True when a sleep or wake-up has taken place all the same, and only something after it failed. */
  readonly transitionComplete?: boolean;
  /** When a request that was refused may be tried again. */
  readonly retryAfterSeconds?: number;
  readonly cause?: unknown;
}

/** The one error that this package throws. Tell failures apart by `code`; the message names the value and the mend. */
export class CamemError extends Error {
  override readonly name = "CamemError";
  readonly code: CamemErrorCode;
  readonly call: string | undefined;
  readonly aclCode: number | undefined;
  readonly address: number | undefined;
  readonly sizeBytes: number | undefined;
  /** True when a sleep or wake-up has taken place all the same, and only giving memory back or a callback failed. */
  readonly transitionComplete: boolean;
  /** When a request that was refused may be tried again; undefined for any other failure. */
  readonly retryAfterSeconds: number | undefined;

  constructor(code: CamemErrorCode, message: string, details: CamemErrorDetails = {}) {
    super(message, "cause" in details ? { cause: details.cause } : undefined);
    this.code = code;
    this.call = details.call;
    this.aclCode = details.aclCode;
    this.address = details.address;
    this.sizeBytes = details.sizeBytes;
    this.transitionComplete = details.transitionComplete ?? false;
    this.retryAfterSeconds = details.retryAfterSeconds;
  }
}
