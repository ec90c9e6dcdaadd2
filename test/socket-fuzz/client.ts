import { connect, type Socket } from "node:net";
import { Greeting } from "../../src/ffi/symbols.gen.ts";

const headBytes = 8;

/** A client that reads replies as bytes, and does not care what they say. */
export class RawClient {
  /** What the server has sent first. */
  greeting: Uint8Array = new Uint8Array();
  readonly #socket: Socket;
  #received = Buffer.alloc(0);
  #isClosed = false;
  #wake: () => void = () => undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (bytes: Buffer) => {
      this.#received = Buffer.concat([this.#received, bytes]);
      this.#wake();
    });
    // A server that closes the connection while bytes are on their way resets it.
    socket.on("error", () => undefined);
    socket.on("close", () => {
      this.#isClosed = true;
      this.#wake();
    });
  }

  /** Connects and takes the greeting; undefined where the server closed the connection. */
  static async open(path: string, timeoutMs: number): Promise<RawClient | undefined> {
    const client = new RawClient(connect(path));
    const greeting = await client.#take(() => Greeting.sizeBytes, timeoutMs);
    if (greeting === undefined) return undefined;
    client.greeting = greeting;
    return client;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  write(bytes: Uint8Array): void {
    if (!this.#isClosed) this.#socket.write(bytes);
  }

  /** A reply's status; undefined once the connection is closed. */
  async reply(timeoutMs: number): Promise<number | undefined> {
    const size = (bytes: Buffer) =>
      bytes.length < headBytes ? headBytes : headBytes + bytes.readUInt32LE(0);
    return (await this.#take(size, timeoutMs))?.readInt32LE(4);
  }

  close(): void {
    this.#socket.destroy();
  }

  /** @throws Error when the server neither sends so many bytes nor closes the connection */
  async #take(size: (bytes: Buffer) => number, timeoutMs: number): Promise<Buffer | undefined> {
    const deadline = performance.now() + timeoutMs;
    while (this.#received.length < size(this.#received)) {
      if (this.#isClosed) return undefined;
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) throw new Error(`the server owed a reply for ${timeoutMs} ms`);
      await this.#change(leftMs);
    }
    const bytes = this.#received.subarray(0, size(this.#received));
    this.#received = this.#received.subarray(bytes.length);
    return bytes;
  }

  async #change(leftMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, leftMs);
    this.#wake = resolve;
    await promise;
    clearTimeout(timer);
  }
}
