/** `camem gateway`: several engines on shared devices, behind one address. */

import { messageOf } from "../errors.ts";
import type { HostUsage } from "../memory/usage.ts";
import { exposeMetrics } from "../metrics/exposition.ts";
import { endAll, processesWith } from "../process/family.ts";
import { listen } from "../proxy/listen.ts";
import { type Backend, ReverseProxy } from "../proxy/reverse-proxy.ts";
import { noHostUsage } from "../run/no-memory.ts";
import { IdleSleep } from "../server/engine/idle-sleep.ts";
import type { AccessOptions } from "../server/http/access.ts";
import { RequestError } from "../server/http/replies.ts";
import { urlOf } from "../server/http/request-input.ts";
import type { EngineGroup } from "../server/pool/engine-group.ts";
import { ModelPool } from "../server/pool/model-pool.ts";
import type { GatewayConfig } from "./gateway-config.ts";
import { GatewayEngine, type GatewaySurroundings, gatewayVariable, markOf } from "./gateway-engine.ts";
import { Groups } from "./groups.ts";
import { Models } from "./models.ts";
import { readContent } from "./request-model.ts";

/** The time for the last answers to be sent. */
const answerGraceMs = 500;
/** The time for the engines of a killed gateway to end by SIGTERM. */
const leftBehindGraceMs = 5_000;

/** The engines of a file, their pool, and the proxy in front of them. */
export class Gateway implements AsyncDisposable {
  readonly pool: ModelPool;
  readonly url: URL;
  readonly #config: GatewayConfig;
  readonly #surroundings: GatewaySurroundings;
  readonly #engines: ReadonlyMap<string, GatewayEngine>;
  readonly #models: Models;
  readonly #owned: AsyncDisposableStack;

  /**
   * Listens, and starts the engines that are to be preloaded in the background.
   *
   * @throws CamemError `INVALID_CONFIG`; nothing runs then
   */
  static async start(
    config: GatewayConfig,
    surroundings: GatewaySurroundings,
    access: AccessOptions,
  ): Promise<Gateway> {
    await using owned = new AsyncDisposableStack();
    const engines = new Map<string, GatewayEngine>();
    const deviceMemory = (device: number) => memoryOf(engines.values(), device);
    owned.defer(async () => {
      await Promise.all([...engines.values()].map((engine) => engine[Symbol.asyncDispose]()));
    });
    for (const each of config.engines) {
      const engine = new GatewayEngine(each, config, surroundings, deviceMemory);
      engines.set(each.name, engine);
      await engine.begin();
    }
    return new Gateway(config, surroundings, access, engines, owned.move());
  }

  private constructor(
    config: GatewayConfig,
    surroundings: GatewaySurroundings,
    access: AccessOptions,
    engines: ReadonlyMap<string, GatewayEngine>,
    owned: AsyncDisposableStack,
  ) {
    this.#config = config;
    this.#surroundings = surroundings;
    this.#engines = engines;
    this.#owned = owned;
    this.#models = new Models(
      [...engines.values()].map((engine) => ({
        config: engine.config,
        upstream: () => upstreamOf(engine),
        state: () => engine.controller.status.state,
      })),
    );
    this.pool = this.#newPool();
    for (const { controller, config: each } of engines.values())
      if (each.ladder.length > 0) owned.use(new IdleSleep(controller, { ladder: each.ladder }));
    this.url = this.#listen(access);
    void this.#begin(leftBehind(config));
  }

  /** Refuses requests and ends the engines that the gateway has started. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned.disposeAsync();
  }

  /** Ends the engines that the gateway has started at once. */
  kill(): void {
    for (const { source } of this.#engines.values()) source.kill();
  }

  #newPool(): ModelPool {
    const { engines, groups, minimumResidencyMs, holdDeadlineMs, drainDeadlineMs } = this.#config;
    const isMeasured = (name: string) => this.#engines.get(name)?.allocator.isMeasured === true;
    const rules = new Groups(groups, engines, isMeasured);
    return this.#owned.use(
      new ModelPool(
        [...this.#engines.values()].map(({ controller }) => controller),
        {
          minimumResidency: minimumResidencyMs,
          holdDeadlineMs,
          drainDeadlineMs,
          conflicts: (engine, other) => rules.conflict(engine, other),
          persistent: rules.persistent,
          wakeOperatorSleep: true,
        },
      ),
    );
  }

  #listen(access: AccessOptions): URL {
    const hostUsage = () => sumOf([...this.#engines.values()].map(({ allocator }) => allocator.hostUsage()));
    const metrics = exposeMetrics({ engine: this.pool, allocator: { hostUsage } });
    // Without prom-client the route answers why.
    metrics.then((exposition) => this.#owned.use(exposition)).catch(() => undefined);
    const proxy = new ReverseProxy({
      ...access,
      group: this.#group(),
      route: (request) => this.#route(request),
      isHealthy: () => true,
      metrics: async () => (await metrics).answer(),
    });
    const server = listen(proxy, this.#config.listen);
    this.#owned.defer(async () => {
      proxy.close();
      await this.pool.close();
      await Promise.race([server.stop(), Bun.sleep(answerGraceMs)]);
      await server.stop(true);
    });
    return server.url;
  }

  /** The pool, in which the routes find engines by the other names of their models too. */
  #group(): EngineGroup {
    const { pool } = this;
    return {
      engines: pool.engines,
      nameOf: (model) => this.#models.engineOf(model),
      admit: (model, signal, options) => pool.admit(model, signal, options),
      wakeUp: (model, options) => pool.wakeUp(model, options),
      abortRequests: (model) => pool.abortRequests(model),
      subscribe: (listener) => pool.subscribe(listener),
      queueOf: (model) => pool.queueOf(model),
    };
  }

  /** Ends what a killed gateway has left behind, and preloads engines one after the other, in the order of the file. */
  async #begin(left: readonly number[]): Promise<void> {
    if (left.length > 0) {
      this.#surroundings.report(`ending ${left.length} processes of an earlier gateway at this address`);
      await endAll(() => leftBehind(this.#config).filter((pid) => left.includes(pid)), leftBehindGraceMs);
    }
    for (const { name, preload } of this.#config.engines) {
      if (!preload) continue;
      await this.pool.wakeUp(name, { reason: "pool" }).catch((error) => {
        this.#surroundings.report(`${name}: not preloaded: ${messageOf(error)}`);
      });
    }
  }

  async #route(request: Request): Promise<Backend | Response> {
    const { pathname, search, searchParams } = urlOf(request);
    const isRead = request.method === "GET" || request.method === "HEAD";
    if (isRead && pathname === "/v1/models") return this.#models.list();
    const id = isRead ? /^\/v1\/models\/(.+)$/.exec(pathname)?.[1] : undefined;
    const described = id === undefined ? undefined : await this.#models.describe(decoded(id));
    if (described !== undefined) return described;
    const direct = this.#directRoute(pathname);
    if (direct !== undefined) {
      // The links of an engine's page are relative to its folder.
      if (direct.path === "")
        return new Response(null, { status: 307, headers: { location: `${pathname}/${search}` } });
      return this.#backend(direct.engine, { path: `${direct.path}${search}` });
    }
    const asked = searchParams.get("model") ?? undefined;
    if (request.body === null) return this.#backend(this.#engineOf(asked ?? id));
    const { model, body } = await readContent(request, this.#config.bodyLimitBytes);
    return this.#backend(this.#engineOf(asked ?? model), { body });
  }

  /** `/upstream/<engine>/<path>` names the engine by its path. The longest name that fits counts. */
  #directRoute(pathname: string): { readonly engine: string; readonly path: string } | undefined {
    const rest = /^\/upstream\/(.*)$/s.exec(pathname)?.[1];
    if (rest === undefined) return undefined;
    const fitting = [...this.#engines.keys()].filter((name) => rest === name || rest.startsWith(`${name}/`));
    const engine = fitting.toSorted((a, b) => b.length - a.length)[0];
    if (engine === undefined) throw this.#unknown(rest.replace(/\/.*$/s, ""));
    return { engine, path: rest.slice(engine.length) };
  }

  #engineOf(model: string | undefined): string {
    const [only = ""] = this.#engines.keys();
    if (model === undefined && this.#engines.size === 1) return only;
    if (model === undefined)
      throw new RequestError(
        400,
        "INVALID_ARGUMENT",
        `model is missing; name it in the body or as ?model=, or use /upstream/<engine>/; the engines are ${this.#names}`,
        { param: "model" },
      );
    const engine = this.#models.engineOf(model);
    if (engine === undefined) throw this.#unknown(model);
    return engine;
  }

  get #names(): string {
    return [...this.#engines.keys()].join(", ");
  }

  #unknown(model: string): RequestError {
    const message = `there is no model ${JSON.stringify(model)}; the engines are ${this.#names}, and /v1/models lists all models`;
    return new RequestError(404, "UNKNOWN_MODEL", message, { param: "model" });
  }

  #backend(name: string, rest: Pick<Backend, "path" | "body"> = {}): Backend {
    const engine = this.#engines.get(name);
    return { name, upstream: () => engine && upstreamOf(engine), ...rest };
  }
}

/** A part of a path without its encoding; as it is where that is wrong. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The processes of a gateway with the same address that did not end them. */
function leftBehind({ listen: address }: GatewayConfig): number[] {
  return address.port === 0 ? [] : processesWith(gatewayVariable, markOf(address));
}

/** Undefined while the engine does not run. */
function upstreamOf({ source, allocator }: GatewayEngine): URL | undefined {
  return allocator.isRunning ? source.upstream : undefined;
}

/** The memory of a device as the first engine that runs on it sees it. */
function memoryOf(engines: Iterable<GatewayEngine>, device: number) {
  for (const { allocator } of engines) {
    const memory = allocator.ownDeviceMemory(device);
    if (memory !== undefined) return memory;
  }
  return undefined;
}

function sumOf(usages: readonly HostUsage[]): HostUsage {
  const sum = (property: "pageLockedBytes" | "freeBytes" | "preparedBytes") =>
    usages.reduce((total, usage) => total + usage[property], 0);
  return {
    ...noHostUsage,
    pageLockedBytes: sum("pageLockedBytes"),
    freeBytes: sum("freeBytes"),
    preparedBytes: sum("preparedBytes"),
  };
}
