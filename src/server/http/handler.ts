/** Assembles the administrative routes and dispatches requests to them. */

import type { Static } from "typebox";
import { closedObject, Flag, optional, PositiveInteger, required } from "../../options/schemas.ts";
import { validate } from "../../options/validate.ts";
import { EngineOrGroup, groupOf } from "../pool/engine-group.ts";
import { accessProperties, createAccess } from "./access.ts";
import { camemRoutes } from "./camem-routes.ts";
import { CrossOrigin } from "./cross-origin.ts";
import { Dispatcher } from "./dispatch.ts";
import { hookProperties } from "./engine-hooks.ts";
import { EventStreams } from "./event-stream.ts";
import { healthRoutes } from "./health-routes.ts";
import { pageRoutes } from "./page.ts";
import { RequestError } from "./replies.ts";
import { urlOf } from "./request-input.ts";
import type { Answer, Route } from "./route.ts";
import type { ServerInfo } from "./server-info.ts";
import { sglangRoutes } from "./sglang-routes.ts";
import { TransitionHistory } from "./transition-history.ts";
import { vllmRoutes } from "./vllm-routes.ts";

const HandlerOptions = closedObject({
  /** The engine, or the pool of engines, that the routes control. */
  engine: required(EngineOrGroup),
  ...accessProperties,
  ...hookProperties,
  /**
   * True: also answers `/health` and `/ping`, to everybody. 200, also while asleep; 503 when an engine has failed. By default false.
   */
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

/**
 * Answers a request, or returns undefined for other paths. `loopbackOnly` needs `server`: the server of `Bun.serve`, or what
 * `Deno.serve` passes with the request.
 */
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
  const limits = { sizeBytes: bodyLimitBytes, timeoutMs: bodyTimeoutMs };
  const context = { group, limits, hooks: options };
  const routes = withTrailingSlashes({
    ...vllmRoutes(context),
    ...sglangRoutes(context),
    ...camemRoutes({ ...context, history, streams }),
    ...pageRoutes(options),
    ...(health && healthRoutes(group)),
  });
  const dispatch = new Dispatcher(checkAccess, new CrossOrigin(options.corsOrigins));
  const handle = (request: Request, server?: ServerInfo): Promise<Response> | undefined => {
    const { pathname } = urlOf(request);
    const route = routes.get(pathname) ?? (pathname.startsWith("/camem/") ? unknownRoute : undefined);
    return route && dispatch.answer(route, request, server);
  };
  const byPath = [...routes, ["/camem/*", unknownRoute] as const].map(([path, route]) => [
    path,
    (request: Request, server: ServerInfo) => dispatch.answer(route, request, server),
  ]);
  return Object.assign(handle, {
    routes: Object.fromEntries(byPath),
    close: () => {
      history.close();
      streams.close();
    },
  });
}

/** As in vLLM and SGLang, a path with a trailing slash redirects. A proxy that has a rule for the path then applies it. */
function withTrailingSlashes(routes: Readonly<Record<string, Route>>): Map<string, Route> {
  const redirects = Object.entries(routes).map(([path, { check }]): [string, Route] => {
    const redirect: Answer = async (request) =>
      new Response(null, { status: 307, headers: { location: `${path}${urlOf(request).search}` } });
    return [`${path}/`, { GET: redirect, POST: redirect, ...(check && { check }) }];
  });
  return new Map([...Object.entries(routes), ...redirects]);
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
