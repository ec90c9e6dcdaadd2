/** Answers one request to one route: access, path, method, browser rule, errors. */

import { formatValue } from "../../errors.ts";
import { type AccessCheck, assertMayChangeState } from "./access.ts";
import type { CrossOrigin } from "./cross-origin.ts";
import { errorResponse, RequestError } from "./replies.ts";
import { locate, urlOf } from "./request-input.ts";
import type { Answer, Route } from "./route.ts";
import { disableIdleTimeout, type ServerInfo } from "./server-info.ts";

export class Dispatcher {
  readonly #checkAccess: AccessCheck;
  readonly #crossOrigin: CrossOrigin;

  /** @param checkAccess for routes without a check of their own */
  constructor(checkAccess: AccessCheck, crossOrigin: CrossOrigin) {
    this.#checkAccess = checkAccess;
    this.#crossOrigin = crossOrigin;
  }

  async answer(route: Route, request: Request, server?: ServerInfo): Promise<Response> {
    try {
      return this.#crossOrigin.expose(request, await this.#answer(route, request, server));
    } catch (error) {
      return this.#crossOrigin.expose(
        request,
        errorResponse(error, (name) => locate(request, name)),
      );
    }
  }

  async #answer(route: Route, request: Request, server?: ServerInfo): Promise<Response> {
    const { check = this.#checkAccess, getChangesState = false, readsOnly = false, ...answers } = route;
    if (!this.#crossOrigin.isPreflight(request)) check(request, server);
    assertTargetAsSent(request);
    // Bun sends no body in answer to HEAD.
    const methods: Partial<Record<string, Answer>> =
      answers.GET && !getChangesState ? { HEAD: answers.GET, ...answers } : answers;
    const allowed = Object.keys(methods).toSorted();
    if (request.method === "OPTIONS")
      return new Response(null, { status: 204, headers: { allow: [...allowed, "OPTIONS"].join(", ") } });
    const method = Object.hasOwn(methods, request.method) ? methods[request.method] : undefined;
    if (method === undefined) throw methodNotAllowed(request.method, allowed);
    if (!readsOnly && (request.method === "POST" || getChangesState)) assertMayChangeState(request);
    // A sleep may wait for requests in flight, and an event stream may be silent for long.
    disableIdleTimeout(request, server);
    return await method(request);
  }
}

/**
 * A proxy decides by the path as it was sent, so a path that reads otherwise here may have passed its rules. Bun shows it to
 * `fetch` only where the Host header is malformed; `Bun.serve({ routes })` compares it itself.
 */
function assertTargetAsSent(request: Request): void {
  const path = /^(?:[a-z+]+:\/\/[^/?#]*)?([^?]*)/.exec(request.url)?.[1];
  if (path === urlOf(request).pathname && !request.url.includes("#")) return;
  throw new RequestError(
    400,
    "INVALID_ARGUMENT",
    `the path is ${formatValue(path)}; send it without ".", ".." and backslashes, and the query without "#"`,
  );
}

function methodNotAllowed(method: string, allowed: readonly string[]): RequestError {
  const allow = allowed.join(", ");
  const message = `this route has no ${formatValue(method)}; use ${allow}`;
  return new RequestError(405, "METHOD_NOT_ALLOWED", message, { headers: { allow } });
}
