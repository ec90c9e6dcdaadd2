/** An engine whose server has sleep routes: vLLM or SGLang. Camem has not started it. */

import { CamemError, formatValue } from "../errors.ts";
import type { TagUsage } from "../memory/usage.ts";
import { defaultTag } from "../policy/tag-names.ts";
import { connectionFailure } from "../proxy/connection-failure.ts";
import { untilReady } from "../proxy/readiness.ts";
import { addressOf, directly } from "../proxy/upstream.ts";
import type { EngineConnection } from "../run/attachable-allocator.ts";
import { emptyPlan, noHostUsage } from "../run/no-memory.ts";
import { sleepReport, wakeReport } from "../run/reports.ts";
import type { SleepReport, WakeReport } from "../transition/reports.ts";
import type { EngineSource } from "./engine-source.ts";
import type { EngineConfig, EngineOrigin } from "./gateway-config.ts";

type Api = Extract<EngineOrigin, { kind: "url" }>["api"];

/** An engine of 100 GiB takes some seconds. */
const requestTimeoutMs = 600_000;

const routes = {
  vllm: { sleep: "/sleep?level=1", wake: "/wake_up" },
  sglang: { sleep: "/release_memory_occupation", wake: "/resume_memory_occupation" },
} as const;

/** Finds the server of an engine. */
export class HttpEngine implements EngineSource {
  readonly canStop = false;
  readonly upstream: URL;
  readonly retryInMs = 0;
  onEnd: ((reason: string) => void) | undefined;
  readonly #config: EngineConfig;
  readonly #api: Api;
  readonly #freeBytes: (device: number) => number;

  constructor(
    config: EngineConfig,
    { url, api }: Extract<EngineOrigin, { kind: "url" }>,
    freeBytes: (device: number) => number,
  ) {
    this.#config = config;
    this.#freeBytes = freeBytes;
    this.upstream = url;
    this.#api = api;
  }

  async start(signal: AbortSignal): Promise<EngineConnection> {
    const { readyPath: path, readyDeadlineMs: deadlineMs } = this.#config;
    await untilReady({ upstream: this.upstream, path, deadlineMs, signal });
    return new HttpConnection({
      config: this.#config,
      upstream: this.upstream,
      api: this.#api,
      isAsleep: await this.#isSleeping(signal),
      freeBytes: this.#freeBytes,
    });
  }

  async stop(): Promise<void> {
    // It belongs to somebody else.
  }

  kill(): void {
    // It belongs to somebody else.
  }

  /** SGLang does not tell: waking an engine that is awake does nothing. */
  async #isSleeping(signal: AbortSignal): Promise<boolean> {
    if (this.#api === "sglang") return true;
    const address = addressOf(this.upstream, "/is_sleeping");
    const response = await fetch(address, { ...directly, signal, keepalive: false });
    const body: unknown = response.ok ? await response.json() : null;
    const isSleeping = Object(body)["is_sleeping"];
    if (typeof isSleeping === "boolean") return isSleeping;
    throw new CamemError(
      "ENGINE_UNAVAILABLE",
      `${address} answered ${response.status} without is_sleeping; start vLLM with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1`,
    );
  }
}

interface HttpConnectionOptions {
  readonly config: EngineConfig;
  readonly upstream: URL;
  readonly api: Api;
  readonly isAsleep: boolean;
  /** Free memory of a device, by an engine that can tell. */
  readonly freeBytes: (device: number) => number;
}

/** Puts the engine to sleep and wakes it over HTTP. How much memory it takes is known from the file only. */
class HttpConnection implements EngineConnection {
  readonly #options: HttpConnectionOptions;
  readonly #config: EngineConfig;
  #isAsleep: boolean;

  constructor(options: HttpConnectionOptions) {
    this.#options = options;
    this.#config = options.config;
    this.#isAsleep = options.isAsleep;
  }

  get device(): number {
    return this.#config.devices[0] ?? 0;
  }

  usage(): Record<string, TagUsage> {
    const bytes = this.#bytes * this.#config.devices.length;
    const none = { hostBytes: 0, pageableBytes: 0, spilledBytes: 0, checkpointBytes: 0 };
    const [mappedBytes, discardedBytes] = this.#isAsleep ? [0, bytes] : [bytes, 0];
    const state = this.#isAsleep ? "asleep" : "awake";
    return { [defaultTag]: { ...none, mappedBytes, discardedBytes, segments: 1, state } };
  }

  hostUsage() {
    return noHostUsage;
  }

  memGetInfo(): never {
    throw new CamemError(
      "ENGINE_UNAVAILABLE",
      `the engine ${this.#config.name} does not tell its device's memory`,
    );
  }

  defineTag(): void {
    // The engine decides by itself what its levels do.
  }

  readonly plan: EngineConnection["plan"] = (operation: "sleep" | "wake") => {
    const { devices } = this.#config;
    const sizeBytes = this.#bytes;
    const isDone = this.#isAsleep === (operation === "sleep");
    if (isDone) return emptyPlan;
    const all = sizeBytes * devices.length;
    const none = { offloadBytes: 0, discardBytes: 0, restoreBytes: 0, remapBytes: 0 };
    if (operation === "wake") {
      const needs = devices.map((device) => ({
        device,
        neededBytes: sizeBytes,
        freeBytes: this.#options.freeBytes(device),
      }));
      return { ...emptyPlan, tags: { [defaultTag]: { ...none, restoreBytes: all } }, devices: needs };
    }
    const freed = devices.map((device) => ({ device, freedBytes: sizeBytes }));
    return { ...emptyPlan, tags: { [defaultTag]: { ...none, offloadBytes: all } }, freed };
  };

  async sleep({ signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<SleepReport> {
    if (this.#isAsleep) return sleepReport(1, 0, true);
    // The server goes on with what it has received, whether or not anybody waits for the answer.
    signal?.throwIfAborted();
    await this.#post(routes[this.#options.api].sleep);
    this.#isAsleep = true;
    return sleepReport(1, this.#bytes, false);
  }

  async wakeUp({ signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<WakeReport> {
    if (!this.#isAsleep) return wakeReport(0, true);
    signal?.throwIfAborted();
    await this.#post(routes[this.#options.api].wake);
    this.#isAsleep = false;
    return wakeReport(this.#bytes, false);
  }

  async close(): Promise<void> {
    // There is no connection to close.
  }

  get #bytes(): number {
    return this.#config.memoryBytes ?? 0;
  }

  async #post(path: string): Promise<void> {
    const address = addressOf(this.#options.upstream, path);
    const failed = (why: string, cause?: unknown) =>
      new CamemError("ENGINE_UNAVAILABLE", `POST ${address} failed: ${why}`, { cause, retryAfterSeconds: 5 });
    let response: Response;
    try {
      response = await fetch(address, {
        ...directly,
        method: "POST",
        signal: AbortSignal.timeout(requestTimeoutMs),
        keepalive: false,
      });
    } catch (cause) {
      throw failed(connectionFailure(cause), cause);
    }
    if (!response.ok) throw failed(`${response.status} ${formatValue(await response.text())}`);
    await response.body?.cancel();
  }
}
