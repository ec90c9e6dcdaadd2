/** Assembles the administrative routes and dispatches requests to them. */

import type { Static } from "typebox";
import { formatValue } from "../../errors.ts";
import { closedObject, Flag, optional, PositiveInteger, required } from "../../options/schemas.ts";
import { validate } from "../../options/validate.ts";
import { type EngineGroup, EngineOrGroup, groupOf } from "../pool/engine-group.ts";
import { accessProperties, assertMayChangeState, createAccess, type ServerInfo } from "./access.ts";
import { camemRoutes } from "./camem-routes.ts";
import { EventStreams } from "./event-stream.ts";
import { pageRoutes } from "./page.ts";
import { errorResponse, RequestError } from "./replies.ts";
import { urlOf } from "./request-input.ts";
import type { Answer, Route } from "./route.ts";
import { sglangRoutes } from "./sglang-routes.ts";
import { TransitionHistory } from "./transition-history.ts";
import { vllmRoutes } from "./vllm-routes.ts";

const HandlerOptions = closedObject({
  /** The engine, or the pool of engines, that the routes control. */
  engine: required(EngineOrGroup),
  ...accessProperties,
  /** True: also answers `GET /health`, to everybody. 200, also while asleep; 503 when an engine has failed. By default false. */
  health: optional(Flag),
  /** The largest request body; by default 16,384 bytes. */
  bodyLimitBytes: optional(PositiveInteger),
  /** The longest time for a body to arrive, in milliseconds; by default 5,000. */
  bodyTimeoutMs: optional(PositiveInteger),
  /** The interval between heartbeats of an event stream, in milliseconds; by default 15,000. */
  heartbeatMs: optional(PositiveInteger),
});

/** Options of {@link createHandler}. */
export interface HandlerOptions extends Static<typeof HandlerOptions> {}

/** Answers a request, or returns undefined for other paths. `loopbackOnly` needs `server`, the server of `Bun.serve`. */
export interface AdminHandler {
  (request: Request, server?: ServerInfo): Promise<Response> | undefined;
  /** The same for `Bun.serve({ routes })`. */
  readonly routes: Readonly<Record<string, (request: Request, server: ServerInfo) => Promise<Response>>>;
  /** Ends every event stream, and refuses new ones. */
  close(): void;
}

/**
 * The administrative routes for one engine, or for the engines of a pool. With several engines, requests name one by `?model=`.
 *
 * @throws CamemError `INVALID_CONFIG`, also without `token` and `loopbackOnly`: no route is open by default
 */
export function createHandler(options: HandlerOptions): AdminHandler {
  validate(HandlerOptions, options, "createHandler", "INVALID_CONFIG");
  const { bodyLimitBytes = 16_384, bodyTimeoutMs = 5_000, heartbeatMs = 15_000, health = false } = options;
  const checkAccess = createAccess(options);
  const group = groupOf(options.engine);
  const history = new TransitionHistory(group);
  const streams = new EventStreams(group, heartbeatMs);
  const context = { group, limits: { sizeBytes: bodyLimitBytes, timeoutMs: bodyTimeoutMs } };
  const routes = new Map(
    Object.entries<Route>({
      ...vllmRoutes(context),
      ...sglangRoutes(context),
      ...camemRoutes({ ...context, history, streams }),
      ...pageRoutes(options),
    }),
  );

  const answer = async (route: Route, request: Request, server?: ServerInfo): Promise<Response> => {
    try {
      const { check = checkAccess, getChangesState = false, ...answers } = route;
      check(request, server);
      assertPathAsSent(request);
      // Bun sends no body in answer to HEAD.
      const methods: Partial<Record<string, Answer>> =
        answers.GET && !getChangesState ? { HEAD: answers.GET, ...answers } : answers;
      const method = Object.hasOwn(methods, request.method) ? methods[request.method] : undefined;
      if (method === undefined) throw methodNotAllowed(request.method, Object.keys(methods).toSorted());
      if (request.method === "POST" || getChangesState) assertMayChangeState(request);
      // A sleep may wait for requests in flight, and an event stream may be silent for long.
      server?.timeout?.(request, 0);
      return await method(request);
    } catch (error) {
      return errorResponse(error);
    }
  };
  const handle = (request: Request, server?: ServerInfo): Promise<Response> | undefined => {
    const { pathname } = urlOf(request);
    if (health && pathname === "/health" && /^(GET|HEAD)$/.test(request.method))
      return Promise.resolve(healthOf(group));
    const route = routes.get(pathname) ?? (pathname.startsWith("/camem/") ? unknownRoute : undefined);
    return route && answer(route, request, server);
  };
  const byPath = [...routes, ["/camem/*", unknownRoute] as const].map(([path, route]) => [
    path,
    (request: Request, server: ServerInfo) => answer(route, request, server),
  ]);
  const healthRoute = health ? { "/health": async () => healthOf(group) } : {};
  return Object.assign(handle, {
    routes: { ...Object.fromEntries(byPath), ...healthRoute },
    close: () => {
      history.close();
      streams.close();
    },
  });
}

function healthOf({ engines }: EngineGroup): Response {
  const hasFailed = [...engines.values()].some((engine) => engine.status.state === "failed");
  return new Response(null, { status: hasFailed ? 503 : 200 });
}

/**
 * A proxy decides by the path as it was sent, so a path that reads otherwise here may have passed its rules. Bun shows it to
 * `fetch` only where the Host header is malformed; `Bun.serve({ routes })` compares it itself.
 */
function assertPathAsSent(request: Request): void {
  const path = /^(?:https?:\/\/[^/?#]*)?([^?]*)/.exec(request.url)?.[1];
  if (path === urlOf(request).pathname) return;
  throw new RequestError(
    400,
    "INVALID_ARGUMENT",
    `the path is ${formatValue(path)}; send it without ".", "..", "#" and backslashes`,
  );
}

/** A misspelt path below /camem must not reach the model. */
const notFound: Answer = async (request) => {
  throw new RequestError(
    404,
    "UNKNOWN_ROUTE",
    `there is no route ${urlOf(request).pathname}; docs/server.md lists the routes`,
  );
};
const unknownRoute: Route = { GET: notFound, POST: notFound };

function methodNotAllowed(method: string, allowed: readonly string[]): RequestError {
  const allow = allowed.join(", ");
  return new RequestError(
    405,
    "METHOD_NOT_ALLOWED",
    `this route has no ${formatValue(method)}; use ${allow}`,
    {
      headers: { allow },
    },
  );
}
