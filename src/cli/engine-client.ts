/** Calls the administrative routes of an engine. */

import { connectionFailure } from "../proxy/connection-failure.ts";
import { CommandFailure, exitStatus, UsageError } from "./command.ts";
import type { EngineTarget } from "./engine-target.ts";

/** An answer's JSON; undefined for a body that is empty or has another type. */
type Json = Readonly<Record<string, unknown>> | undefined;

/** One server-sent event. */
export interface SentEvent {
  readonly name: string;
  readonly data: unknown;
}

/** @throws UsageError for a token that no header can carry */
export function tokenFrom(option: unknown, environment: typeof process.env): string | undefined {
  const token = typeof option === "string" ? option : environment["CAMEM_TOKEN"] || undefined;
  if (token !== undefined && !/^[\x21-\x7e]+$/.test(token))
    throw new UsageError("the token is empty or not printable ASCII without spaces");
  return token;
}

export class EngineClient {
  readonly #target: EngineTarget;
  readonly #token: string | undefined;

  constructor(target: EngineTarget, token: string | undefined) {
    this.#target = target;
    this.#token = token;
  }

  /** @throws CommandFailure when the server cannot be reached or refuses */
  get(path: string): Promise<Json> {
    return this.#call("GET", path);
  }

  /**
   * Asks for a transition.
   *
   * @returns the answer, which says the engine's state
   * @throws CommandFailure when the server cannot be reached or refuses, or is no engine of camem
   */
  async move(path: "sleep" | "wake_up", body: Readonly<Record<string, unknown>>): Promise<NonNullable<Json>> {
    const answer = await this.#call("POST", path, body);
    if (typeof answer?.["status"] !== "string") throw this.foreignAnswer(path);
    return answer;
  }

  /** The failure for an answer that no engine of camem gives, such as that of the engine's own server. */
  foreignAnswer(path: string): CommandFailure {
    const message = `${this.#target.label} answered /${path}, but not as an engine of camem does: is it another server, or is the port the engine's own?`;
    return new CommandFailure(message, exitStatus.refused);
  }

  /** The server's events until `signal` aborts. Ends at once, without a word, where the server has none for this client. */
  async *events(signal: AbortSignal): AsyncGenerator<SentEvent, void, undefined> {
    const decoder = new TextDecoder();
    let text = "";
    try {
      const response = await this.#fetch("GET", "camem/events", { signal });
      if (!response.ok || response.body === null) return;
      for await (const chunk of response.body) {
        text += decoder.decode(chunk, { stream: true });
        const blocks = text.split("\n\n");
        text = blocks.pop() ?? "";
        for (const block of blocks) {
          const [, name, data] = /^event: (.*)\ndata: (.*)$/.exec(block) ?? [];
          if (name !== undefined && data !== undefined) yield { name, data: JSON.parse(data) };
        }
      }
    } catch (error) {
      // Progress is a convenience: the call itself reports why a server cannot be used.
      if (!signal.aborted && !(error instanceof CommandFailure) && !(error instanceof SyntaxError))
        throw error;
    }
  }

  async #call(method: "GET" | "POST", path: string, body?: object): Promise<Json> {
    const response = await this.#fetch(method, path, body && { body: JSON.stringify(body) });
    const text = await response.text().catch((error: unknown) => {
      throw this.#unreachable(connectionFailure(error));
    });
    const json = jsonOf(text);
    if (response.ok) return json;
    throw new CommandFailure(this.#refusal(path, response, json), exitStatus.refused);
  }

  async #fetch(method: string, path: string, init: RequestInit = {}): Promise<Response> {
    const { url, unix } = this.#target;
    const headers = new Headers(init.body ? { "content-type": "application/json" } : {});
    if (this.#token !== undefined) headers.set("authorization", `Bearer ${this.#token}`);
    try {
      // A sleep that waits for requests in flight takes as long as they do.
      return await fetch(new URL(path, url), {
        ...init,
        method,
        headers,
        timeout: false,
        ...(unix && { unix }),
      });
    } catch (error) {
      throw this.#unreachable(connectionFailure(error));
    }
  }

  #unreachable(why: string): CommandFailure {
    const message = `cannot reach ${this.#target.label}: ${why}`;
    return new CommandFailure(message, exitStatus.unreachable);
  }

  #refusal(path: string, { status }: Response, json: Json): string {
    const { label } = this.#target;
    const said = errorOf(json);
    if (status === 401)
      return this.#token === undefined
        ? `${label} requires a token: set CAMEM_TOKEN, or give --token`
        : `${label} does not accept this token; see CAMEM_TOKEN and --token`;
    if (status === 404 && said === undefined)
      return `${label} has no /${path}: it is not an engine with camem's routes, or they are at another port`;
    return `${label} answered ${status}${said === undefined ? "" : `: ${said}`}`;
  }
}

function jsonOf(text: string): Json {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Json) : undefined;
  } catch {
    return undefined;
  }
}

/** The message of an error in vLLM's shape, with its reason where it has one. */
function errorOf(json: Json): string | undefined {
  const error = json?.["error"];
  if (typeof error !== "object" || error === null) return undefined;
  const { message, reason } = error as { readonly message?: unknown; readonly reason?: unknown };
  if (typeof message !== "string") return undefined;
  return typeof reason === "string" ? `${message} (${reason})` : message;
}
