import { connect } from "node:net";
import {
  type AdminHandler,
  admitRequest,
  createHandler,
  type HandlerOptions,
  leasedStream,
  type ServerInfo,
} from "camem/server";
import type { FakeEngine } from "./fake-engine.ts";
import { serve, type TestListener } from "./runtime.ts";

type Served = HandlerOptions["engine"];

/** A server on loopback with the administrative routes, and `/complete?model=&prompt=&length=&stream=` in front of fake engines. */
export class TestServer implements AsyncDisposable {
  readonly handler: AdminHandler;
  readonly #server: TestListener;

  constructor(
    engine: Served,
    toys: Readonly<Record<string, FakeEngine>>,
    options: Partial<HandlerOptions> = {},
  ) {
    this.handler = createHandler({ engine, loopbackOnly: true, ...options });
    this.#server = serve(
      (request, server) => this.handler(request, server) ?? complete(engine, toys, request, server),
    );
  }

  get port(): number {
    return this.#server.port;
  }

  url(path: string): URL {
    return new URL(path, this.#server.url);
  }

  fetch(path: string, init?: RequestInit): Promise<Response> {
    return fetch(this.url(path), init);
  }

  async post(path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Response> {
    return this.fetch(path, {
      method: "POST",
      headers,
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
  }

  /** The status and the JSON of an answer. */
  async json(path: string, init?: RequestInit): Promise<[number, unknown]> {
    const response = await this.fetch(path, init);
    return [response.status, await response.json()];
  }

  async postJson(path: string, body?: unknown): Promise<[number, unknown]> {
    const response = await this.post(path, body);
    return [response.status, await response.json()];
  }

  async stop(): Promise<void> {
    this.handler.close();
    await this.#server.stop();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

async function complete(
  engine: Served,
  toys: Readonly<Record<string, FakeEngine>>,
  request: Request,
  server: ServerInfo,
): Promise<Response> {
  const query = new URL(request.url).searchParams;
  const model = query.get("model") ?? Object.keys(toys)[0] ?? "";
  const toy = toys[model];
  const lease = await admitRequest(engine, request, { model, server });
  if (lease instanceof Response) return lease;
  if (toy === undefined) throw new Error(`there is no toy for ${model}`);
  const prompt = query.get("prompt") ?? "once";
  const length = Number(query.get("length") ?? 8);
  if (query.get("stream") !== null)
    return new Response(leasedStream(lease, toy.generate(lease, prompt, length)));
  using _released = lease;
  try {
    return new Response(await toy.complete(lease, prompt, length));
  } catch (error) {
    if (!lease.signal.aborted) throw error;
    return new Response(String(error), { status: 503 });
  }
}

/** Sends raw text and returns all text received until the connection ends. */
export function raw(port: number, text: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  let answer = "";
  const socket = connect(port, "127.0.0.1", () => socket.write(text));
  socket.on("data", (data) => {
    answer += data;
  });
  socket.on("close", () => resolve(answer));
  socket.on("error", reject);
  return promise;
}

export interface SentEvent {
  readonly event: string;
  // biome-ignore lint/suspicious/noExplicitAny: each test knows the shape that it expects
  readonly data: any;
}

/** Parses the events of a stream. */
export async function* eventsOf(response: Response): AsyncGenerator<SentEvent, void, undefined> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk, { stream: true });
    const blocks = text.split("\n\n");
    text = blocks.pop() ?? "";
    for (const block of blocks) {
      const match = /^event: (.*)\ndata: (.*)$/.exec(block);
      if (match) yield { event: match[1] ?? "", data: JSON.parse(match[2] ?? "null") };
    }
  }
}
