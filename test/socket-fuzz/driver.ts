/**
 * Sends messages from a seed to an engine's control socket. Each whole message gets one reply, or its connection is closed;
 * whatever was sent, the engine lives, its memory sleeps and wakes, and its content is what it was.
 */

import { readdirSync, readFileSync } from "node:fs";
import { RemoteAllocator } from "camem";
import { Random } from "../fuzz/random.ts";
import { type ControlProgram, startControlProgram } from "../support/control-program.ts";
import { RawClient } from "./client.ts";
import { type Message, malformed, noise, wellFormed } from "./messages.ts";

/** Far more than any reply takes, but for the second that a watch may. */
const replyMs = 20_000;
const messagesBetweenChecks = 1_000;
/** With more the server refuses some, which is tried as well. */
const mostClients = 40;

export interface SocketFuzzResult {
  readonly messages: number;
  readonly replies: number;
  readonly closed: number;
  /** Replies by status. */
  readonly statuses: Readonly<Record<number, number>>;
  readonly seconds: number;
  /** Growth of the engine's resident memory, and of its open files. */
  readonly grownBytes: number;
  readonly grownFiles: number;
}

function residentBytes(pid: number): number {
  const kibibytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return Number(kibibytes) * 1024;
}

const openFiles = (pid: number) => readdirSync(`/proc/${pid}/fd`).length;

function someMessage(random: Random): Message {
  const kind = random.below(20);
  if (kind === 0) return noise(random);
  return kind < 9 ? malformed(random) : wellFormed(random);
}

/** The engine serves others, sleeps and wakes, and nothing was lost. */
async function check(engine: ControlProgram): Promise<void> {
  await using allocator = await RemoteAllocator.connect({ path: engine.path });
  // What the messages defined must not change what this sleep does.
  allocator.defineTag("default", { 1: "offload", 2: "offload", immutable: false });
  await allocator.wakeUp();
  await allocator.sleep({ tags: ["default"] });
  await allocator.wakeUp();
  const content = await engine.tell("verify");
  if (content !== "equal") throw new Error(`the content is ${content}`);
}

class Fuzzer {
  readonly #random: Random;
  readonly #path: string;
  readonly #clients: RawClient[] = [];
  readonly statuses: Record<number, number> = {};
  replies = 0;
  closed = 0;

  constructor(seed: number, path: string) {
    this.#random = new Random(seed, 0);
    this.#path = path;
  }

  async send(): Promise<void> {
    const client = await this.#client();
    if (client === undefined) return;
    const { bytes, owed } = someMessage(this.#random);
    await this.#write(client, bytes);
    if (owed === "nothing") return this.#drop(client);
    // A changed length may make the server wait for more.
    if (bytes.length < 8 + new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true)) {
      const isRefused = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) > 4 * 2 ** 20;
      if (!isRefused) return this.#drop(client);
    }
    const status = await client.reply(replyMs);
    if (status === undefined) {
      this.closed++;
      this.#drop(client);
      return;
    }
    this.replies++;
    this.statuses[status] = (this.statuses[status] ?? 0) + 1;
  }

  end(): void {
    for (const client of this.#clients.splice(0)) client.close();
  }

  async #client(): Promise<RawClient | undefined> {
    const isNew =
      this.#clients.length === 0 || (this.#clients.length < mostClients && this.#random.oneIn(50));
    if (!isNew) return this.#random.pick(this.#clients);
    const client = await RawClient.open(this.#path, replyMs);
    if (client === undefined) return undefined;
    this.#clients.push(client);
    return client;
  }

  /** Whole, or in pieces. */
  async #write(client: RawClient, bytes: Uint8Array): Promise<void> {
    let rest = bytes;
    while (rest.length > 0 && this.#random.oneIn(10)) {
      const size = this.#random.between(1, rest.length);
      client.write(rest.subarray(0, size));
      rest = rest.subarray(size);
      await new Promise(setImmediate);
    }
    client.write(rest);
  }

  #drop(client: RawClient): void {
    client.close();
    this.#clients.splice(this.#clients.indexOf(client), 1);
  }
}

/** @throws Error with the seed in the message, at the first message that harms the engine */
export async function fuzzSocket(
  seed: number,
  messages: number,
  onProgress: (sent: number) => void = () => undefined,
): Promise<SocketFuzzResult> {
  await using engine = await startControlProgram(["default=6", "kv=4", "default=2"]);
  await check(engine);
  const before = { bytes: residentBytes(engine.pid), files: openFiles(engine.pid) };
  const fuzzer = new Fuzzer(seed, engine.path);
  const startedMs = performance.now();
  try {
    for (let sent = 1; sent <= messages; sent++) {
      await fuzzer.send();
      if (sent % messagesBetweenChecks !== 0 && sent !== messages) continue;
      fuzzer.end();
      await check(engine);
      onProgress(sent);
    }
  } catch (cause) {
    throw new Error(`seed ${seed}: ${cause instanceof Error ? cause.message : cause}`, { cause });
  }
  const seconds = (performance.now() - startedMs) / 1000;
  const { replies, closed, statuses } = fuzzer;
  return {
    messages,
    replies,
    closed,
    statuses,
    seconds,
    grownBytes: residentBytes(engine.pid) - before.bytes,
    grownFiles: openFiles(engine.pid) - before.files,
  };
}
