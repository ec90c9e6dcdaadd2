/** Engine events as server-sent events. */

import { backgroundClock, type Clock } from "../../async/clock.ts";
import { CamemError } from "../../errors.ts";
import type { EngineEvent, EngineListener, RequestsEvent } from "../engine/events.ts";
import type { EngineGroup } from "../pool/engine-group.ts";
import { RequestError } from "./replies.ts";

const requestsIntervalMs = 250;
/** A client with this many unread events misses progress events; with twice as many it is disconnected. */
const backlogLimit = 256;
/** A page that opens a stream at every reload, or a client that never closes its own, must not exhaust the process. */
const streamLimit = 64;

export const eventStreamHeaders = {
  "content-type": "text/event-stream",
  "cache-control": "no-store",
  "x-accel-buffering": "no",
};

const encoder = new TextEncoder();

/** The open streams of one handler. */
export class EventStreams {
  readonly #group: EngineGroup;
  readonly #heartbeatMs: number;
  readonly #open = new Set<EventStream>();
  #isClosed = false;

  constructor(group: EngineGroup, heartbeatMs: number) {
    this.#group = group;
    this.#heartbeatMs = heartbeatMs;
  }

  /**
   * Opens a stream that starts with `snapshot` and ends when `signal` aborts.
   *
   * @throws CamemError `CLOSED`; RequestError 503 when too many streams are open
   */
  open(snapshot: unknown, signal: AbortSignal): Response {
    if (this.#isClosed) throw new CamemError("CLOSED", "the server is shutting down");
    if (this.#open.size >= streamLimit)
      throw new RequestError(503, "TOO_MANY_STREAMS", `${streamLimit} event streams are already open`, {
        headers: { "retry-after": "5" },
      });
    const subscribe = (listener: EngineListener) => this.#group.subscribe(listener);
    const heartbeatMs = this.#heartbeatMs;
    return new EventStream({ snapshot, signal, heartbeatMs, subscribe, openStreams: this.#open }).response;
  }

  /** Ends every stream, and refuses new ones. */
  close(): void {
    this.#isClosed = true;
    for (const stream of [...this.#open]) stream.end();
  }
}

interface EventStreamOptions {
  /** The content of the first event. */
  readonly snapshot: unknown;
  readonly heartbeatMs: number;
  readonly subscribe: (listener: EngineListener) => () => void;
  /** Aborted when the client disconnects. */
  readonly signal: AbortSignal;
  /** Contains the stream until it ends. */
  readonly openStreams: Set<EventStream>;
}

/** The stream of one client. It ends when the client disconnects, or by {@link end}. */
class EventStream {
  readonly #options: EventStreamOptions;
  readonly #clock: Clock = backgroundClock;
  readonly response: Response;
  #output: ReadableStreamDefaultController<Uint8Array> | undefined;
  #unsubscribe: (() => void) | undefined;
  #cancelHeartbeat: (() => void) | undefined;
  #cancelRequests: (() => void) | undefined;
  /** The latest unsent `requests` event of each engine. */
  readonly #requests = new Map<string, RequestsEvent>();
  readonly #end = () => this.end();

  constructor(options: EventStreamOptions) {
    this.#options = options;
    const body = new ReadableStream<Uint8Array>(
      { start: (output) => this.#start(output), cancel: this.#end },
      { highWaterMark: backlogLimit },
    );
    this.response = new Response(body, { headers: eventStreamHeaders });
    options.openStreams.add(this);
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
    this.#options.openStreams.delete(this);
    try {
      output.close();
    } catch (error) {
      // The client's cancellation has already closed the stream.
      if (!(error instanceof TypeError)) throw error;
    }
  }

  #start(output: ReadableStreamDefaultController<Uint8Array>): void {
    this.#output = output;
    this.#send("snapshot", this.#options.snapshot);
    this.#unsubscribe = this.#options.subscribe((event) => this.#onEvent(event));
    this.#scheduleHeartbeat();
  }

  #scheduleHeartbeat(): void {
    this.#cancelHeartbeat = this.#clock.after(this.#options.heartbeatMs, () => {
      this.#write(": still here\n\n");
      this.#scheduleHeartbeat();
    });
  }

  #onEvent(event: EngineEvent): void {
    if (event.type === "requests") this.#onRequests(event);
    else if (event.type !== "transition-progress" || (this.#output?.desiredSize ?? 0) > 0)
      this.#send(event.type, event);
  }

  #onRequests(event: RequestsEvent): void {
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
