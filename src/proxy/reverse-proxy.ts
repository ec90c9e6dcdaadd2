/** The reverse proxy in front of engines: administrative routes, admission, and forwarding. */

import { CamemError } from "../errors.ts";
import type { SleepController } from "../server/engine/controller.ts";
import { type AccessOptions, createAccess } from "../server/http/access.ts";
import { admitRequest } from "../server/http/admit-request.ts";
import { type AdminHandler, createHandler } from "../server/http/handler.ts";
import { errorResponse, RequestError } from "../server/http/replies.ts";
import { urlOf } from "../server/http/request-input.ts";
import type { EngineGroup } from "../server/pool/engine-group.ts";
import { isDisguised } from "./disguised-path.ts";
import { forward } from "./forward.ts";

type Server = Bun.Server<undefined>;

/** The engine that answers a request. */
export interface Backend {
  /** Its name in the group. */
  readonly name: string;
  /** The address of its server; undefined while it does not run. */
  upstream(): URL | undefined;
  /** The path and query for the engine, where they differ from those of the request. */
  readonly path?: string;
  /** The body, where it has been read to choose the engine. */
  readonly body?: Uint8Array<ArrayBuffer>;
  /** Resolves when the engine can answer; a request waits for it before it is admitted. */
  ready?(signal: AbortSignal): Promise<void>;
}

export interface ReverseProxyOptions extends AccessOptions {
  readonly group: SleepController | EngineGroup;
  /** Chooses the engine of a request, or answers it. */
  readonly route: (request: Request) => Promise<Backend | Response>;
  /** Whether `/health` answers 200. */
  readonly isHealthy: () => boolean;
  /** Paths of the administrative routes that the engine answers all the same, such as its own version. */
  readonly engineRoutes?: readonly string[];
  /** The longest wait for the next piece of a request's body; by default 30,000. */
  readonly bodyIdleMs?: number;
  /** Answers `/metrics`. */
  readonly metrics: () => Promise<Response>;
}

const defaultBodyIdleMs = 30_000;

/** Reading what an engine offers needs no device memory, and must not wake an engine or keep it awake. */
const passes = (request: Request) => /^(GET|HEAD|OPTIONS)$/.test(request.method);

/** Answers requests: those of the administrative routes itself, all others by an engine that is awake. */
export class ReverseProxy {
  readonly #options: ReverseProxyOptions;
  readonly #admin: AdminHandler;
  readonly #checkAccess: ReturnType<typeof createAccess>;
  readonly #ownPaths: ReadonlySet<string>;

  /** @throws CamemError `INVALID_CONFIG` */
  constructor(options: ReverseProxyOptions) {
    const { group, token, loopbackOnly, engineRoutes = [] } = options;
    this.#options = options;
    this.#admin = createHandler({ engine: group, token, loopbackOnly });
    this.#checkAccess = createAccess({ token, loopbackOnly });
    const own = new Set([...Object.keys(this.#admin.routes), "/metrics", "/health"]);
    this.#ownPaths = own.difference(new Set(engineRoutes.flatMap((path) => [path, `${path}/`])));
  }

  /** The `fetch` function of `Bun.serve`. */
  readonly fetch = async (request: Request, server: Server): Promise<Response> => {
    try {
      return await this.#answer(request, server);
    } catch (error) {
      return errorResponse(error);
    }
  };

  /** Ends event streams. */
  close(): void {
    this.#admin.close();
  }

  async #answer(request: Request, server: Server): Promise<Response> {
    const { pathname } = urlOf(request);
    const isOwn = this.#ownPaths.has(pathname) || pathname.startsWith("/camem/");
    const own = isOwn ? await this.#admin(request, server) : undefined;
    if (own !== undefined) return own;
    if (pathname === "/health") return passes(request) ? this.#health() : Promise.reject(readOnly(pathname));
    if (pathname === "/metrics") {
      this.#checkAccess(request, server);
      return passes(request) ? this.#options.metrics() : Promise.reject(readOnly(pathname));
    }
    if (isDisguised(pathname, this.#ownPaths))
      throw new RequestError(404, "UNKNOWN_ROUTE", "send the path as it is documented, without encoding");
    if (request.headers.has("upgrade")) throw upgradeRefused(request);
    const backend = await this.#options.route(request);
    return backend instanceof Response ? backend : this.#pass(request, server, backend);
  }

  #health(): Response {
    return new Response(null, { status: this.#options.isHealthy() ? 200 : 503 });
  }

  async #pass(request: Request, server: Server, backend: Backend): Promise<Response> {
    const { name, path, body } = backend;
    if (path !== undefined) this.#checkPath(path, request, server);
    const { bodyIdleMs = defaultBodyIdleMs } = this.#options;
    const target = { path, body, bodyIdleMs, clientAddress: server.requestIP(request)?.address };
    // The answer may pause for as long as the engine computes.
    server.timeout(request, 0);
    await backend.ready?.(request.signal);
    if (passes(request)) return forward(request, { ...target, upstream: upstreamOf(backend) });
    const lease = await admitRequest(this.#options.group, request, { model: name, server });
    if (lease instanceof Response) return lease;
    try {
      return await forward(request, { ...target, upstream: upstreamOf(backend), lease });
    } catch (error) {
      lease.release();
      throw error;
    }
  }

  /** A path that differs from the request's own must not lead to the engine's administrative routes either. */
  #checkPath(path: string, request: Request, server: Server): void {
    const pathname = path.replace(/\?.*$/s, "");
    if (pathname === "/health") return;
    if (pathname === "/metrics") this.#checkAccess(request, server);
    else if (this.#ownPaths.has(pathname) || isDisguised(pathname, this.#ownPaths))
      throw new RequestError(
        404,
        "UNKNOWN_ROUTE",
        `the engine's own ${pathname} is not passed on; send this route to the proxy itself, with ?model=`,
      );
  }
}

function readOnly(pathname: string): RequestError {
  const allow = "GET, HEAD, OPTIONS";
  return new RequestError(405, "METHOD_NOT_ALLOWED", `${pathname} is the proxy's own; use ${allow}`, {
    headers: { allow },
  });
}

function upstreamOf({ name, upstream }: Backend): URL {
  const url = upstream();
  if (url !== undefined) return url;
  throw new CamemError(
    "ENGINE_UNAVAILABLE",
    `the engine ${name} does not run; a POST request for it starts it`,
    {
      retryAfterSeconds: 5,
    },
  );
}

/** A connection that stays open would keep its engine awake for as long as it lives. */
function upgradeRefused(request: Request): RequestError {
  const protocol = request.headers.get("upgrade");
  return new RequestError(
    501,
    "UPGRADE_REFUSED",
    `this proxy does not pass on upgrades to ${JSON.stringify(protocol)}; connect to the engine's own port`,
  );
}
