/** The JSON bodies and statuses of failures, as vLLM sends them. */

import { CamemError, type CamemErrorCode, messageOf } from "../../errors.ts";

const typeNames: Readonly<Record<number, string>> = {
  400: "BadRequestError",
  401: "AuthenticationError",
  403: "PermissionDeniedError",
  404: "NotFoundError",
  405: "MethodNotAllowedError",
  408: "RequestTimeoutError",
  409: "ConflictError",
  413: "RequestTooLargeError",
  499: "ClientClosedRequestError",
  500: "InternalServerError",
  501: "NotImplementedError",
  502: "BadGatewayError",
  503: "ServiceUnavailableError",
  504: "TimeoutError",
};

const statuses: Partial<Record<CamemErrorCode, number>> = {
  INVALID_ARGUMENT: 400,
  INVALID_TAG: 400,
  UNKNOWN_TAG: 400,
  UNKNOWN_LEVEL: 400,
  UNKNOWN_MODEL: 404,
  STATE_CONFLICT: 409,
  ABORTED: 499,
  ENGINE_UNAVAILABLE: 503,
  QUEUE_FULL: 503,
  CLOSED: 503,
  TIMED_OUT: 504,
  LIBRARY_NOT_FOUND: 501,
};

/** The parameters that an error without a property may be about; the first that the request has. */
const params: Partial<Record<CamemErrorCode, readonly string[]>> = {
  INVALID_TAG: ["tags", "offload_tags"],
  UNKNOWN_TAG: ["tags", "offload_tags"],
  UNKNOWN_LEVEL: ["level"],
  UNKNOWN_MODEL: ["model"],
};

/** Reasons of refusals that no `CamemError` has. */
type RequestReason =
  | "UNAUTHORIZED"
  | "FORBIDDEN"
  | "UNKNOWN_ROUTE"
  | "METHOD_NOT_ALLOWED"
  | "BODY_ALREADY_READ"
  | "BODY_TOO_LARGE"
  | "TOO_MANY_STREAMS"
  | "NOT_SUPPORTED"
  | "UPGRADE_REFUSED"
  | "UPSTREAM_FAILED"
  | "INTERNAL_ERROR";

type Reason = CamemErrorCode | RequestReason;

interface RequestErrorDetails {
  readonly param?: string | undefined;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A bad request. It is refused before any engine is involved. */
export class RequestError extends Error {
  constructor(
    readonly status: number,
    readonly reason: Reason,
    message: string,
    readonly details: RequestErrorDetails = {},
  ) {
    super(message);
  }
}

interface ErrorBody {
  readonly message: string;
  readonly type: string;
  readonly param: string | null;
  readonly code: number;
  /** vLLM does not send this property. */
  readonly reason: Reason;
}

function reply(
  status: number,
  error: Omit<ErrorBody, "type" | "code">,
  headers: Readonly<Record<string, string>> = {},
): Response {
  const { message, param, reason } = error;
  const type = typeNames[status] ?? "InternalServerError";
  const body: ErrorBody = { message, type, param, code: status, reason };
  return Response.json({ error: body }, { status, headers });
}

/** Finds a parameter in a request: `query.level` or `body.level`, as vLLM names them; undefined when the request lacks it. */
type Locate = (name: string) => string | undefined;

const snakeCase = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

function paramOf({ code, property }: CamemError, locate: Locate | undefined): string | null {
  const names = property === undefined ? (params[code] ?? []) : [snakeCase(property)];
  const [located] = names.flatMap((name) => locate?.(name) ?? []);
  return located ?? names[0] ?? null;
}

/**
 * The answer for a failure: `{"error":{"message","type","param","code","reason"}}`, with `Retry-After` when it is known.
 *
 * @param locate without it, `param` is the bare name
 */
export function errorResponse(error: unknown, locate?: Locate): Response {
  if (error instanceof RequestError) {
    const { status, reason, message, details } = error;
    return reply(status, { message, param: details.param ?? null, reason }, details.headers);
  }
  if (error instanceof CamemError) {
    const { code: reason, message, retryAfterSeconds } = error;
    const headers = retryAfterSeconds === undefined ? {} : { "retry-after": String(retryAfterSeconds) };
    return reply(statuses[reason] ?? 500, { message, param: paramOf(error, locate), reason }, headers);
  }
  // emitWarning takes no DOMException, although it is an Error.
  const isPlain = error instanceof Error && !(error instanceof DOMException);
  process.emitWarning(isPlain ? error : messageOf(error));
  const message = "an internal error; see the server's warnings";
  return reply(500, { message, param: null, reason: "INTERNAL_ERROR" });
}
