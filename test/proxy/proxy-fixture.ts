import { CaMemAllocator } from "camem";
import { type ControllerOptions, SleepController } from "camem/server";
import { listen } from "../../src/proxy/listen.ts";
import { ReverseProxy } from "../../src/proxy/reverse-proxy.ts";
import { FakeEngine } from "../support/fake-engine.ts";

type Answer = (request: Request) => Response | Promise<Response>;

interface FixtureOptions extends ControllerOptions {
  readonly bodyIdleMs?: number;
}

/** An engine on the emulator with an HTTP server of its own, and a proxy in front of it. */
export class ProxyFixture implements AsyncDisposable {
  readonly allocator = CaMemAllocator.getInstance();
  readonly engine = new FakeEngine(this.allocator);
  readonly controller: SleepController;
  readonly server: Bun.Server<undefined>;
  readonly #proxy: ReverseProxy;
  readonly #upstream: Bun.Server<undefined> | undefined;
  isHealthy = true;

  /** @param upstream the engine's server, or the address of one */
  constructor(upstream: Answer | URL, { bodyIdleMs, ...options }: FixtureOptions = {}) {
    this.controller = new SleepController(this.allocator, {
      whenAsleep: "wake",
      whenOperatorAsleep: "wake",
      ...options,
    });
    if (!(upstream instanceof URL))
      this.#upstream = Bun.serve({ port: 0, hostname: "127.0.0.1", idleTimeout: 0, fetch: upstream });
    const url = upstream instanceof URL ? upstream : (this.#upstream?.url ?? new URL("http://127.0.0.1"));
    this.#proxy = new ReverseProxy({
      group: this.controller,
      loopbackOnly: true,
      ...(bodyIdleMs !== undefined && { bodyIdleMs }),
      route: async () => ({ name: this.controller.name, upstream: () => url }),
      engineRoutes: ["/version"],
      isHealthy: () => this.isHealthy,
      metrics: async () => new Response("metrics"),
    });
    this.server = listen(this.#proxy, { hostname: "127.0.0.1", port: 0 });
  }

  get port(): number {
    return Number(this.server.port);
  }

  fetch(path: string, init?: RequestInit): Promise<Response> {
    return fetch(new URL(path, this.server.url), init);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#proxy.close();
    await this.server.stop(true);
    await this.#upstream?.stop(true);
    await this.controller.close();
    await this.allocator.close();
  }
}
