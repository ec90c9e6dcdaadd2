import { setTimeout as sleep } from "node:timers/promises";
import { CaMemAllocator } from "camem";
import { createHandler, type HandlerOptions, ModelPool, SleepController } from "camem/server";
import { holdDevice, MiB } from "../../support/device.ts";
import { FakeEngine } from "../../support/fake-engine.ts";
import { serve, type TestListener } from "../../support/runtime.ts";

export const token = "a-secret";

/** Runs a script where a page inserts it as HTML. */
export const markup = `<img src=x onerror="window.hacked = true">`;

/** Repeats `assertions` until they hold: the page shows a change some time after the server made it. */
export async function soon(assertions: () => Promise<void>, deadlineMs = 10_000): Promise<void> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    try {
      return await assertions();
    } catch (error) {
      if (performance.now() > end) throw error;
    }
    await sleep(10);
  }
}

/** A server with the page and two models, `alpha` and `beta`; the name and a tag of `beta` contain HTML. */
export class PageFixture {
  readonly allocator = CaMemAllocator.getInstance();
  readonly alpha: SleepController;
  readonly beta: SleepController;
  readonly pool: ModelPool;
  server: TestListener;
  #closeHandler: () => void = () => undefined;
  #release: (() => void) | undefined;

  constructor() {
    const [alpha, beta] = ["alpha", "beta"].map(
      (name) => new FakeEngine(this.allocator, { prefix: `${name}/` }),
    );
    this.allocator.malloc(2 * MiB, { tag: "marked" });
    this.alpha = new SleepController(this.allocator, { name: "alpha", tags: { ...alpha?.tags } });
    this.beta = new SleepController(this.allocator, {
      name: `beta ${markup}`,
      tags: { ...beta?.tags, [markup]: "marked" },
    });
    this.pool = new ModelPool([this.alpha, this.beta]);
    this.server = this.serve();
  }

  /** Starts the server; `stop` must have stopped the one before. Requests arrive as `rewrite` returns them. */
  serve(
    options: Partial<HandlerOptions> = { token },
    port = 0,
    rewrite: (request: Request) => Request = (request) => request,
  ): TestListener {
    const handler = createHandler({ engine: this.pool, ...options });
    this.#closeHandler = () => handler.close();
    this.server = serve(
      (request, server) => handler(rewrite(request), server) ?? new Response(null, { status: 404 }),
      { port },
    );
    return this.server;
  }

  async stop(): Promise<void> {
    this.#closeHandler();
    await this.server.stop();
  }

  /** Holds the device until the returned function is called or the test ends. */
  hold(): () => void {
    const held = holdDevice();
    this.#release = () => {
      this.#release = undefined;
      held.release();
    };
    return this.#release;
  }

  async close(): Promise<void> {
    this.#release?.();
    await this.stop();
    await this.pool.close();
    for (const engine of [this.alpha, this.beta]) await engine.close();
    await this.allocator.close();
  }
}
