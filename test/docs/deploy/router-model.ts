/**
 * What vLLM's production-stack router does with one pod, by docs/deploy.md: what it asks at an event of the pod, and which requests it
 * withholds.
 */

import { type Answer, aiohttp, requests } from "./clients.ts";

interface Container {
  readonly name: string;
  readonly command?: readonly string[];
}

export class RouterModel {
  readonly #port: number;
  readonly #container: Container;
  readonly #readinessPath: string;
  readonly #headers: readonly string[];
  /** Undefined while the router does not know the pod. */
  #pod: { models: readonly string[]; sleeps: boolean } | undefined;
  readonly #seen = new Set<string>();

  constructor(port: number, token: string, container: Container, readinessPath: string) {
    this.#port = port;
    this.#container = container;
    this.#readinessPath = readinessPath;
    this.#headers = [`Authorization: Bearer ${token}`];
  }

  /** Kubernetes reports a change of the pod. */
  async podChanged(): Promise<void> {
    const discover = requests(this.#port, ...this.#headers);
    const isReady = (await requests(this.#port)("GET", this.#readinessPath)).status === 200;
    if (!isReady) {
      this.#pod = undefined;
      return;
    }
    await discover("GET", "/v1/models");
    const { data } = JSON.parse((await discover("GET", "/v1/models")).body);
    const models = data.map(({ id }: { id: string }) => id);
    const asks = this.#container.name === "vllm" && this.#hasSleepMode();
    const sleeps = asks && JSON.parse((await discover("GET", "/is_sleeping")).body).is_sleeping;
    for (const model of models) this.#seen.add(model);
    this.#pod = { models, sleeps };
  }

  #hasSleepMode(): boolean {
    return this.#container.command?.includes("--enable-sleep-mode") ?? true;
  }

  /** Somebody posts `/sleep?id=` or `/wake_up?id=`. Of repeated parameters the last counts. The new label is an event of the pod. */
  async operate(
    path: "/sleep" | "/wake_up",
    query: readonly (readonly [string, string])[] = [],
  ): Promise<number> {
    if (this.#pod === undefined) return 400;
    const last = new URLSearchParams(Object.fromEntries(query));
    const target = last.size === 0 ? path : `${path}?${last}`;
    const { status } = await aiohttp(this.#port, ...this.#headers)("POST", target);
    if (status === 200) await this.podChanged();
    return status;
  }

  /** A client's request. The router answers for a pod that it withholds. */
  async complete(model: string): Promise<number> {
    if (this.#pod?.models.includes(model) && !this.#pod.sleeps) return (await this.#forward(model)).status;
    return this.#seen.has(model) ? 503 : 404;
  }

  #forward(model: string): Promise<Answer> {
    const body = JSON.stringify({ model, prompt: "hello" });
    return aiohttp(this.#port)("POST", "/v1/completions", body);
  }
}
