import { CaMemAllocator, CamemError } from "camem";
import { registerMetrics } from "camem/metrics";
import { type AdminHandler, createHandler, IdleSleep, ModelPool } from "camem/server";
import { Registry } from "prom-client";
import { ApiKey } from "./api-key.ts";
import { Directory, pathOf } from "./directory.ts";
import { LlamaEngine } from "./engine.ts";
import { OpenAiError } from "./openai.ts";
import { OpenAiEndpoint } from "./openai-endpoint.ts";
import type { ServeOptions } from "./options.ts";
import { logged } from "./request-log.ts";

/** The longest wait for requests in flight when the server stops. */
const graceMs = 3_000;

/** More than any completion needs; a context has 256 tokens. */
const largestBodyBytes = 2 ** 20;

type Server = Bun.Server<undefined>;

type Handler = (request: Request, server: Server) => Response | Promise<Response>;

type Address =
  | { readonly hostname: string; readonly port: number; readonly reusePort: false }
  | { readonly unix: string };

/** The models, the pool in which they share the device, and the listeners. */
export class ExampleServer implements AsyncDisposable {
  readonly url: URL;
  /** The address of the sleep endpoints. */
  readonly adminUrl: URL;
  readonly allocator: CaMemAllocator;
  readonly #owned: AsyncDisposableStack;

  /** @throws CamemError, or what `Bun.serve` throws, with nothing left behind */
  static async start(options: ServeOptions): Promise<ExampleServer> {
    // Disposed of in reverse order, when the server stops or when a later step fails.
    await using owned = new AsyncDisposableStack();
    const allocator = owned.use(CaMemAllocator.getInstance({ poolSegment: "2MiB" }));
    const engines: LlamaEngine[] = [];
    for (const name of options.models)
      engines.push(owned.use(await loadWithRoom(name, allocator, options, engines)));
    const controllers = engines.map(({ controller }) => controller);
    const pool = owned.use(
      new ModelPool(controllers, {
        minimumResidency: options.residency,
        wakeOperatorSleep: options.wakeOperatorSleep,
      }),
    );
    const registry = new Registry();
    owned.use(await registerMetrics(registry, { engine: pool, allocator }));
    if (options.idle.length > 0)
      for (const controller of controllers) owned.use(new IdleSleep(controller, { ladder: options.idle }));
    // The example has no prefix cache, so there is nothing to empty.
    const resetPrefixCache = () => undefined;
    const admin = createHandler({ engine: pool, health: true, resetPrefixCache, ...accessOf(options) });
    const endpoint = new OpenAiEndpoint(engines, pool);
    const routes = new Routes(engines, endpoint, registry, new ApiKey(options.apiKey));
    const urls = listen(owned, options, { admin, routes, pool });
    return new ExampleServer(allocator, urls, owned.move());
  }

  private constructor(allocator: CaMemAllocator, urls: readonly [URL, URL], owned: AsyncDisposableStack) {
    this.allocator = allocator;
    [this.url, this.adminUrl] = urls;
    this.#owned = owned;
  }

  /** Waits shortly for requests in flight, aborts the rest, and frees all memory. */
  stop(): Promise<void> {
    return this.#owned.disposeAsync();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

function accessOf({ token, adminSocket }: ServeOptions) {
  const place = adminSocket === undefined ? {} : { unixSocketOnly: true };
  if (token !== undefined) return { token, ...place };
  return adminSocket === undefined ? { loopbackOnly: true } : place;
}

/** If a model does not fit on the device, the models before it make room. */
async function loadWithRoom(
  name: string,
  allocator: CaMemAllocator,
  options: ServeOptions,
  others: readonly LlamaEngine[],
): Promise<LlamaEngine> {
  while (true) {
    try {
      return await LlamaEngine.load(name, allocator, options);
    } catch (error) {
      const awake = others.find(({ controller }) => !controller.isSleeping);
      if (!(error instanceof CamemError) || error.code !== "OUT_OF_DEVICE_MEMORY" || !awake) throw error;
      await awake.controller.sleep({ reason: "pool" });
    }
  }
}

/** What the listeners use, and what must stop before them. */
interface Services {
  readonly admin: AdminHandler;
  readonly routes: Routes;
  readonly pool: ModelPool;
}

/** Opens the listeners. Returns the addresses of the models and of the sleep endpoints. */
function listen(
  owned: AsyncDisposableStack,
  { hostname, port, adminPort, adminSocket, log }: ServeOptions,
  services: Services,
): [URL, URL] {
  const { admin, routes } = services;
  const servers: Server[] = [];
  owned.defer(() => stopListening(servers, services));
  const watched = (handle: Handler): Handler => (log ? logged(handle, console.log) : handle);
  const open = (address: Address, adminRoutes: AdminHandler["routes"], fetch: Handler): URL => {
    const server = Bun.serve({
      ...address,
      routes: Object.fromEntries(
        Object.entries(adminRoutes).map(([path, handle]) => [path, watched(handle)]),
      ),
      fetch: watched(fetch),
      maxRequestBodySize: largestBodyBytes,
      // Otherwise an unexpected error is answered with source code.
      development: false,
    });
    servers.push(server);
    return server.url;
  };
  // With `development: false` alone, Bun lets a second server share the port without a word.
  const onPort = (number: number): Address => ({ hostname, port: number, reusePort: false });
  const openModels = (adminRoutes: AdminHandler["routes"]) => {
    const directory = new Directory([...routePaths, ...Object.keys(adminRoutes)]);
    return open(onPort(port), adminRoutes, (request, server) => routes.answer(request, server, directory));
  };
  if (adminPort === undefined && adminSocket === undefined) {
    const url = openModels(admin.routes);
    return [url, url];
  }
  const health = Object.entries(admin.routes).filter(([path]) => path === "/health");
  const directory = new Directory(Object.keys(admin.routes));
  const address = adminSocket === undefined ? onPort(adminPort ?? 0) : { unix: adminSocket };
  return [
    openModels(Object.fromEntries(health)),
    open(address, admin.routes, (request) => answerOther(request, directory)),
  ];
}

/** Stops accepting requests, refuses those that wait, and aborts those still running after a grace period. */
async function stopListening(servers: readonly Server[], { admin, pool }: Services): Promise<void> {
  admin.close();
  const stopped = Promise.all(servers.map((server) => server.stop()));
  await pool.close();
  await within(graceMs, allReleased(pool));
  for (const controller of pool.engines.values()) await controller.close();
  await within(graceMs, stopped);
  for (const server of servers) await server.stop(true);
}

async function allReleased(pool: ModelPool): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const check = () => {
    if ([...pool.engines.values()].every(({ status }) => status.requests.running === 0)) resolve();
  };
  const unsubscribe = pool.subscribe(check);
  check();
  await promise;
  unsubscribe();
}

async function within(durationMs: number, ending: Promise<unknown>): Promise<void> {
  const { promise: over, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, durationMs);
  await Promise.race([ending, over]);
  clearTimeout(timer);
}

const routePaths = ["/v1/completions", "/v1/chat/completions", "/v1/models", "/metrics"];

/** The routes that camem/server does not have. */
class Routes {
  readonly #engines: readonly LlamaEngine[];
  readonly #endpoint: OpenAiEndpoint;
  readonly #registry: Registry;
  readonly #apiKey: ApiKey;
  readonly #startedSeconds = Math.floor(Date.now() / 1000);

  constructor(engines: readonly LlamaEngine[], endpoint: OpenAiEndpoint, registry: Registry, apiKey: ApiKey) {
    this.#engines = engines;
    this.#endpoint = endpoint;
    this.#registry = registry;
    this.#apiKey = apiKey;
  }

  answer(request: Request, server: Server, directory: Directory): Response | Promise<Response> {
    const pathname = pathOf(request);
    const refusal = pathname.startsWith("/v1/") ? this.#apiKey.refusal(request) : undefined;
    if (refusal !== undefined) return refusal;
    const model = /^\/v1\/models\/(.+)$/.exec(pathname)?.[1];
    if (model !== undefined) return only("GET", request, () => this.#model(model));
    switch (pathname) {
      case "/v1/completions":
        return only("POST", request, () => this.#endpoint.answer("text", request, server));
      case "/v1/chat/completions":
        return only("POST", request, () => this.#endpoint.answer("chat", request, server));
      case "/v1/models":
        return only("GET", request, () =>
          Response.json({ object: "list", data: this.#engines.map((engine) => this.#describe(engine)) }),
        );
      case "/metrics":
        return only("GET", request, () => this.#metrics());
      default:
        return answerOther(request, directory);
    }
  }

  /** A sleeping model is listed too: a request wakes it. */
  #describe({ name, contextLength }: LlamaEngine) {
    return {
      id: name,
      object: "model",
      created: this.#startedSeconds,
      owned_by: "camem",
      max_model_len: contextLength,
    };
  }

  #model(name: string): Response {
    const engine = this.#engines.find((one) => one.name === name);
    if (engine) return Response.json(this.#describe(engine));
    return new OpenAiError(404, "there is no such model", "model", "model_not_found").response;
  }

  async #metrics(): Promise<Response> {
    return new Response(await this.#registry.metrics(), {
      headers: { "content-type": this.#registry.contentType },
    });
  }
}

function only(
  method: "GET" | "POST",
  request: Request,
  answer: () => Response | Promise<Response>,
): Response | Promise<Response> {
  // Bun sends no body in answer to HEAD.
  if (request.method === method || (method === "GET" && request.method === "HEAD")) return answer();
  const allow = method === "GET" ? "GET, HEAD" : method;
  return new OpenAiError(405, `use ${allow}`, null, null, { allow }).response;
}

/** Answers `/` and paths that no route has. */
function answerOther(request: Request, directory: Directory): Response | Promise<Response> {
  if (pathOf(request) !== "/") return directory.notFound(request);
  return only("GET", request, () => directory.response);
}
