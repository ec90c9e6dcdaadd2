/** A client of examples/serve. */

import type { TagUsage } from "camem";
import type { DeviceMemory, EngineStatus, QueueCounts } from "camem/server";

interface Choice {
  readonly index: number;
  readonly text: string;
  readonly logprobs: {
    readonly tokens: readonly string[];
    readonly token_logprobs: readonly number[];
    readonly top_logprobs: readonly Readonly<Record<string, number>>[];
    readonly text_offset: readonly number[];
  } | null;
  readonly finish_reason: string | null;
}

export interface Completion {
  readonly id: string;
  readonly object: string;
  readonly model: string;
  readonly choices: readonly Choice[];
  readonly usage?: Readonly<Record<string, number>>;
  readonly error?: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: unknown;
  };
}

export interface Usage {
  readonly engines: Readonly<
    Record<
      string,
      {
        readonly status: EngineStatus;
        readonly queue: QueueCounts;
        readonly tags: Readonly<Record<string, TagUsage>>;
      }
    >
  >;
  readonly devices: readonly DeviceMemory[];
}

export class ServeClient {
  readonly #url: URL;

  constructor(url: URL | string) {
    this.#url = new URL(url);
  }

  fetch(path: string, init?: RequestInit): Promise<Response> {
    return fetch(new URL(path, this.#url), init);
  }

  async get<T>(path: string): Promise<T> {
    return (await (await this.fetch(path)).json()) as T;
  }

  /** The status and the body of an answer to a `POST`. */
  async post<T = unknown>(path: string, body?: unknown): Promise<[status: number, body: T]> {
    const init = body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) };
    const response = await this.fetch(path, { method: "POST", ...init });
    return [response.status, (await response.json()) as T];
  }

  complete(body: unknown): Promise<[status: number, body: Completion]> {
    return this.post("/v1/completions", body);
  }

  /** The text of a completion; fails unless it succeeds. */
  async text(body: Readonly<Record<string, unknown>>): Promise<string> {
    const [status, { choices, error }] = await this.complete(body);
    if (status !== 200) throw new Error(`${status}: ${error?.message}`);
    return choices[0]?.text ?? "";
  }

  /** The chunks of a streamed completion; fails unless `[DONE]` ends it. */
  async stream(body: Readonly<Record<string, unknown>>): Promise<readonly Completion[]> {
    const response = await this.fetch("/v1/completions", {
      method: "POST",
      body: JSON.stringify({ ...body, stream: true }),
    });
    if (response.headers.get("content-type") !== "text/event-stream") throw new Error(await response.text());
    const events = (await response.text()).split("\n\n");
    if (events.pop() !== "" || events.pop() !== "data: [DONE]")
      throw new Error("the stream does not end as it should");
    return events.map((event) => JSON.parse(event.replace(/^data: /, "")) as Completion);
  }

  usage(): Promise<Usage> {
    return this.get("/camem/usage");
  }

  async freeBytes(): Promise<number> {
    return (await this.usage()).devices[0]?.freeBytes ?? Number.NaN;
  }

  async state(model: string): Promise<string | undefined> {
    return (await this.usage()).engines[model]?.status.state;
  }
}
