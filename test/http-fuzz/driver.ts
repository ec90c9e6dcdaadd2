/** Sends random requests to servers in front of one engine, and watches whether any changes what it must not. */

import { connect } from "node:net";
import { CaMemAllocator } from "camem";
import { createHandler, type EngineEvent, SleepController } from "camem/server";
import { Random } from "../fuzz/random.ts";
import { FakeEngine } from "../support/fake-engine.ts";
import { type FuzzRequest, randomRequest, type Setup, token } from "./requests.ts";

export interface HttpFuzzOptions {
  readonly seed: number;
  readonly requests: number;
  /** For the test of the driver: servers that ask for no token. */
  readonly forgetsToken?: boolean;
}

export interface HttpFuzzResult {
  /** Requests that changed the engine although they must not, or were answered with 500; warnings of the server. */
  readonly failures: readonly string[];
  /** Requests that were allowed to change the engine, and those that did. */
  readonly allowed: number;
  readonly changed: number;
  /** How many answers had each status; `none` for connections that ended without one. */
  readonly statuses: ReadonlyMap<string, number>;
}

/** An answer to a complete request comes at once; a cut one gets none. */
const cutPatienceMs = 15;

/** The status of the answer; `none` without one. */
function send(port: number, { text, isCut }: FuzzRequest): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  let answer = "";
  const socket = connect(port, "127.0.0.1", () => socket.write(Buffer.from(text, "latin1")));
  socket.setTimeout(isCut ? cutPatienceMs : 10_000, () => socket.destroy());
  socket.on("data", (data) => {
    answer += data.toString("latin1");
  });
  // The server may reset a connection that sends rubbish.
  socket.on("error", () => socket.destroy());
  socket.on("close", () => resolve(/^HTTP\/1\.[01] (\d{3})/.exec(answer)?.[1] ?? "none"));
  return promise;
}

class Target {
  readonly allocator = CaMemAllocator.getInstance();
  readonly engine = new FakeEngine(this.allocator, { weightsBytes: 4096, cacheBytes: 4096 });
  readonly controller: SleepController;
  readonly setups: readonly Setup[];
  readonly #servers: Bun.Server<undefined>[] = [];
  #changes: string[] = [];

  constructor(forgetsToken: boolean) {
    const note = (what: string) => void this.#changes.push(what);
    this.controller = new SleepController(this.allocator, {
      reload: () => {
        note("reload");
        this.engine.load();
      },
    });
    this.controller.subscribe((event: EngineEvent) => {
      if (event.type === "state" || event.type === "transition-started") note(event.type);
    });
    const hooks = {
      health: true,
      bodyLimitBytes: 512,
      bodyTimeoutMs: 200,
      resetPrefixCache: () => note("resetPrefixCache"),
      abortRequest: () => note("abortRequest"),
    };
    const loopback = { loopbackOnly: true };
    const withToken = forgetsToken ? loopback : { token };
    const accesses = { token: withToken, loopback, both: { ...withToken, ...loopback } };
    const model = () => new Response("model", { status: 404 });
    this.setups = (["token", "loopback", "both"] as const).flatMap((access) =>
      (["routes", "fetch"] as const).map((mount): Setup => {
        const handler = createHandler({ engine: this.controller, ...accesses[access], ...hooks });
        const answer = (request: Request, own: Bun.Server<undefined>) => handler(request, own) ?? model();
        const address = { port: 0, hostname: "127.0.0.1", development: false };
        const server =
          mount === "routes"
            ? Bun.serve({ ...address, routes: handler.routes, fetch: model })
            : Bun.serve({ ...address, fetch: answer });
        this.#servers.push(server);
        return { access, mount, port: Number(server.port) };
      }),
    );
  }

  /** What has changed since the last call. The engine is awake again afterwards. */
  async takeChanges(): Promise<readonly string[]> {
    const changes = this.#changes;
    if (changes.length > 0) {
      await this.controller.resume();
      await this.controller.wakeUp();
      await this.controller.confirmWeights();
      this.#changes = [];
    }
    return changes;
  }

  /** Whether the engine's output is still the correct one. */
  async isIntact(): Promise<boolean> {
    using lease = await this.controller.admit();
    return (await this.engine.complete(lease, "once", 8)) === this.engine.expected("once", 8);
  }

  async close(): Promise<void> {
    for (const server of this.#servers) await server.stop(true);
    await this.controller.close();
    await this.allocator.close();
  }
}

export async function httpFuzz({
  seed,
  requests,
  forgetsToken = false,
}: HttpFuzzOptions): Promise<HttpFuzzResult> {
  const target = new Target(forgetsToken);
  const failures: string[] = [];
  // An internal error emits one, also where its answer reaches nobody.
  const note = (warning: Error) => void failures.push(`warning: ${warning.message}`);
  process.on("warning", note);
  const statuses = new Map<string, number>();
  const counts = { allowed: 0, changed: 0 };
  for (let index = 0; index < requests && failures.length < 10; index++) {
    const random = new Random(seed, index);
    const setup = random.pick(target.setups);
    const request = randomRequest(random, setup);
    const status = await send(setup.port, request);
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    const changes = await target.takeChanges();
    const report = (what: string) =>
      failures.push(
        `${what}: request ${index} to ${setup.access}, ${setup.mount}: ${JSON.stringify(request.text)}`,
      );
    if (request.harmless === undefined) {
      counts.allowed++;
      if (changes.length > 0) counts.changed++;
    } else if (changes.length > 0) report(`changed (${changes}) although ${request.harmless}`);
    if (status === "500") report("answered with 500");
  }
  // A request that was cut may still be read.
  await Bun.sleep(300);
  await target.takeChanges();
  if (!(await target.isIntact())) failures.push("the engine's output is wrong");
  await target.close();
  process.off("warning", note);
  return { failures, statuses, ...counts };
}
