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

const params: Partial<Record<CamemErrorCode, string>> = {
  INVALID_TAG: "tags",
  UNKNOWN_TAG: "tags",
  UNKNOWN_LEVEL: "level",
  UNKNOWN_MODEL: "model",
};

/** Reasons of refusals that no `CamemError` has. */
type RequestReason =
  | "UNAUTHORIZED"
  | "FORBIDDEN"
  | "UNKNOWN_ROUTE"
  | "METHOD_NOT_ALLOWED"
  | "BODY_TOO_LARGE"
  | "TOO_MANY_STREAMS"
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

/** The answer for a failure: `{"error":{"message","type","param","code","reason"}}`, with `Retry-After` when it is known. */
export function errorResponse(error: unknown): Response {
  if (error instanceof RequestError) {
    const { status, reason, message, details } = error;
    return reply(status, { message, param: details.param ?? null, reason }, details.headers);
  }
  if (error instanceof CamemError) {
    const { code: reason, message, property, retryAfterSeconds } = error;
    const headers = retryAfterSeconds === undefined ? {} : { "retry-after": String(retryAfterSeconds) };
    const param = property ?? params[reason] ?? null;
    return reply(statuses[reason] ?? 500, { message, param, reason }, headers);
  }
  process.emitWarning(error instanceof Error ? error : messageOf(error));
  const message = "an internal error; see the server's warnings";
  return reply(500, { message, param: null, reason: "INTERNAL_ERROR" });
}
