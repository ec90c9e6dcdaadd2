/** Forwards one request to an engine, and its answer to the client. */

import { aborted } from "../async/abortable.ts";
import { CamemError } from "../errors.ts";
import type { Lease } from "../server/engine/lease.ts";
import { leasedStream } from "../server/http/leased-stream.ts";
import { errorResponse, RequestError } from "../server/http/replies.ts";
import { urlOf } from "../server/http/request-input.ts";
import { connectionFailure } from "./connection-failure.ts";
import { timelyBody } from "./timely-body.ts";
import { addressOf, directly } from "./upstream.ts";

/** Headers that belong to one connection (RFC 9110, section 7.6.1), and those that the HTTP client sets itself. */
const connectionHeaders = [
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
];
const clientHeaders = ["expect", "host"];

/** When a request should be sent again that a sleep or pause has ended. */
const retryAfterSeconds = 5;

/** Statuses whose answers have no body. */
const withoutBody = new Set([101, 204, 205, 304]);

export interface ForwardOptions {
  readonly upstream: URL;
  /** The path and query, where they differ from those of the request. */
  readonly path?: string | undefined;
  /** The body, where it has been read already. */
  readonly body?: Uint8Array<ArrayBuffer> | undefined;
  /** The longest wait for the next piece of a body that is streamed. */
  readonly bodyIdleMs: number;
  /** Released when the answer has been sent, or the client has disconnected. */
  readonly lease?: Lease;
  /** The address of the client. */
  readonly clientAddress: string | undefined;
}

/**
 * Streams the body of the request to the engine and the answer back, as fast as the slower side takes them. The engine sees a
 * disconnect when the client disconnects, or when the lease is aborted. An engine that cannot be reached is answered with 502.
 */
export async function forward(request: Request, options: ForwardOptions): Promise<Response> {
  const { upstream, lease, clientAddress } = options;
  const { pathname, search } = urlOf(request);
  const stalled = new AbortController();
  const signal = AbortSignal.any([lease?.signal ?? request.signal, stalled.signal]);
  const streamed = () =>
    request.body && timelyBody(request.body, options.bodyIdleMs, (error) => stalled.abort(error));
  try {
    // A pooled connection may be closed by the engine just before it is used, and a streamed body cannot be sent again.
    const answer = await fetch(addressOf(upstream, options.path ?? `${pathname}${search}`), {
      ...directly,
      method: request.method,
      headers: requestHeaders(request, clientAddress),
      body: options.body ?? streamed(),
      signal,
      redirect: "manual",
      decompress: false,
      keepalive: false,
      timeout: false,
    } as BunFetchRequestInit);
    const headers = withoutConnectionHeaders(answer.headers);
    const { status, statusText, body } = answer;
    if (body === null || withoutBody.has(status) || request.method === "HEAD") {
      lease?.release();
      return new Response(null, { status, statusText, headers });
    }
    return new Response(lease ? leasedStream(lease, quietly(body)) : body, { status, statusText, headers });
  } catch (error) {
    lease?.release();
    if (stalled.signal.aborted) return errorResponse(stalled.signal.reason);
    if (request.signal.aborted) return errorResponse(aborted(signal));
    if (signal.aborted) return errorResponse(endedByOperator(aborted(signal)));
    return errorResponse(
      new RequestError(
        502,
        "UPSTREAM_FAILED",
        `the engine at ${upstream.origin} did not answer: ${connectionFailure(error)}; see its output`,
      ),
    );
  }
}

/** The request had not begun to be answered, so it may be sent again. */
function endedByOperator(cause: CamemError): CamemError {
  return new CamemError("ENGINE_UNAVAILABLE", `${cause.message}; send it again`, {
    cause,
    retryAfterSeconds,
  });
}

/**
 * An engine that dies ends its answer in the middle, and the client sees the connection close. Bun prints the error of a body, but
 * not an undefined one.
 */
async function* quietly(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    yield* body;
  } catch {
    throw undefined;
  }
}

function requestHeaders(request: Request, clientAddress: string | undefined): Headers {
  const headers = withoutConnectionHeaders(request.headers);
  const host = request.headers.get("host");
  for (const name of clientHeaders) headers.delete(name);
  if (host !== null && !headers.has("x-forwarded-host")) headers.set("x-forwarded-host", host);
  if (!headers.has("x-forwarded-proto")) headers.set("x-forwarded-proto", "http");
  if (clientAddress !== undefined) headers.append("x-forwarded-for", clientAddress);
  return headers;
}

function withoutConnectionHeaders(all: Headers): Headers {
  const headers = new Headers(all);
  const named = (all.get("connection") ?? "").split(",").map((name) => name.trim());
  for (const name of [...connectionHeaders, ...named])
    if (/^[\w!#$%&'*+.^`|~-]+$/.test(name)) headers.delete(name);
  return headers;
}
