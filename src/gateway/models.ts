/** The models of all engines: by the names in the file, and by those that the engines themselves list. */

import { addressOf, directly } from "../proxy/upstream.ts";
import type { EngineState } from "../server/engine/events.ts";
import type { EngineConfig } from "./gateway-config.ts";

/** One engine as the list of models needs it. */
export interface ListedEngine {
  readonly config: EngineConfig;
  /** The address of its server; undefined while it does not run. */
  readonly upstream: () => URL | undefined;
  readonly state: () => EngineState;
}

interface ModelEntry {
  readonly id: string;
  readonly object: "model";
  readonly created: number;
  readonly owned_by: string;
  /** The engine that serves it, and its state. */
  readonly camem: { readonly engine: string; readonly state: EngineState };
}

const listTimeoutMs = 1_000;
const longestListBytes = 2 ** 20;

export class Models {
  readonly #engines: readonly ListedEngine[];
  readonly #engineOf = new Map<string, string>();
  readonly #createdSeconds = Math.floor(Date.now() / 1000);

  constructor(engines: readonly ListedEngine[]) {
    this.#engines = engines;
    for (const { config } of engines)
      for (const name of [config.name, ...config.models]) this.#engineOf.set(name, config.name);
  }

  /** The engine of a model; undefined for an unknown one. */
  engineOf(model: string): string | undefined {
    return this.#engineOf.get(model);
  }

  /** Answers `/v1/models`. It asks the engines that run, and wakes none. */
  async list(): Promise<Response> {
    return Response.json({ object: "list", data: await this.#entries() });
  }

  /** Answers `/v1/models/<id>`; undefined for an unknown one. */
  async describe(id: string): Promise<Response | undefined> {
    const entry = (await this.#entries()).find((one) => one.id === id);
    return entry && Response.json(entry);
  }

  async #entries(): Promise<ModelEntry[]> {
    await Promise.all(this.#engines.map((engine) => this.#learn(engine)));
    return [...this.#engineOf].flatMap(([id, engine]) => {
      const state = this.#engines.find(({ config }) => config.name === engine)?.state() ?? "failed";
      return [
        { id, object: "model", created: this.#createdSeconds, owned_by: "camem", camem: { engine, state } },
      ];
    });
  }

  /** An engine may serve more than one model, such as adapters. The names in the file take precedence. */
  async #learn({ config, upstream }: ListedEngine): Promise<void> {
    const url = upstream();
    if (url === undefined) return;
    for (const id of await listedBy(url)) if (!this.#engineOf.has(id)) this.#engineOf.set(id, config.name);
  }
}

/** The models that an engine lists; none where it does not answer as OpenAI's API does. */
async function listedBy(upstream: URL): Promise<string[]> {
  try {
    const signal = AbortSignal.timeout(listTimeoutMs);
    const response = await fetch(addressOf(upstream, "/v1/models"), {
      ...directly,
      signal,
      keepalive: false,
    });
    const text = response.ok ? await response.text() : "";
    if (text.length > longestListBytes) return [];
    const data: unknown = Object(JSON.parse(text))["data"];
    const ids: unknown[] = Array.isArray(data) ? data.map((one) => Object(one)["id"]) : [];
    return ids.filter((id) => typeof id === "string");
  } catch {
    // The list is complete without it: the engine's own name is there.
    return [];
  }
}
