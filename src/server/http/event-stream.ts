/** Events as server-sent events. */

import { backgroundClock, type Clock } from "../../async/clock.ts";
import type { EngineEvent, EngineListener, RequestsEvent } from "../engine/events.ts";

const requestsIntervalMs = 250;
/** A client that lets this many events pile up misses progress; one that lets twice as many, its stream. */
const backlogLimit = 256;

const encoder = new TextEncoder();

interface EventStreamOptions {
  /** What the stream begins with. */
  readonly snapshot: unknown;
  readonly heartbeatMs: number;
  readonly subscribe: (listener: EngineListener) => () => void;
  /** Aborted when the client is gone. */
  readonly signal: AbortSignal;
  /** The streams that are open, this one among them until it ends. */
  readonly streams: Set<EventStream>;
  readonly clock?: Clock;
}

/** One client's stream. It ends when the client goes, or by {@link end}. */
export class EventStream {
  readonly #options: EventStreamOptions;
  readonly #clock: Clock;
  readonly response: Response;
  #output: ReadableStreamDefaultController<Uint8Array> | undefined;
  #unsubscribe: (() => void) | undefined;
  #cancelHeartbeat: (() => void) | undefined;
  #cancelRequests: (() => void) | undefined;
  /** The latest of those `requests` events that wait to be sent, one for each engine. */
  readonly #requests = new Map<string, RequestsEvent>();
  readonly #end = () => this.end();

  constructor(options: EventStreamOptions) {
    this.#options = options;
    this.#clock = options.clock ?? backgroundClock;
    const body = new ReadableStream<Uint8Array>(
      { start: (output) => this.#start(output), cancel: this.#end },
      { highWaterMark: backlogLimit },
    );
    this.response = new Response(body, {
      headers: {
        "content-type": "text/event-stream",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
      },
    });
    options.streams.add(this);
    options.signal.addEventListener("abort", this.#end, { once: true });
    if (options.signal.aborted) this.end();
  }

  end(): void {
    const output = this.#output;
    if (output === undefined) return;
    this.#output = undefined;
    this.#unsubscribe?.();
    this.#cancelHeartbeat?.();
    this.#cancelRequests?.();
    this.#options.signal.removeEventListener("abort", this.#end);
    this.#options.streams.delete(this);
    try {
      output.close();
    } catch (error) {
      // The client cancelled the stream, which has closed it already.
      if (!(error instanceof TypeError)) throw error;
    }
  }

  #start(output: ReadableStreamDefaultController<Uint8Array>): void {
    this.#output = output;
    this.#send("snapshot", this.#options.snapshot);
    this.#unsubscribe = this.#options.subscribe((event) => this.#take(event));
    this.#beat();
  }

  #beat(): void {
    this.#cancelHeartbeat = this.#clock.after(this.#options.heartbeatMs, () => {
      this.#write(": still here\n\n");
      this.#beat();
    });
  }

  #take(event: EngineEvent): void {
    if (event.type === "requests") this.#takeRequests(event);
    else if (event.type !== "transition-progress" || (this.#output?.desiredSize ?? 0) > 0)
      this.#send(event.type, event);
  }

  #takeRequests(event: RequestsEvent): void {
    this.#requests.set(event.engine, event);
    this.#cancelRequests ??= this.#clock.after(requestsIntervalMs, () => {
      this.#cancelRequests = undefined;
      for (const latest of this.#requests.values()) this.#send(latest.type, latest);
      this.#requests.clear();
    });
  }

  #send(name: string, data: unknown): void {
    this.#write(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  #write(text: string): void {
    if (this.#output === undefined) return;
    if ((this.#output.desiredSize ?? 0) <= -backlogLimit) this.end();
    else this.#output.enqueue(encoder.encode(text));
  }
}
