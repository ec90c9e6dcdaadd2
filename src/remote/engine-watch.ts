/** Follows the state of an engine over a connection of its own, without blocking the event loop. */

import { closeSync, constants, openSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { basename, dirname } from "node:path";
import { backgroundClock } from "../async/clock.ts";
import * as native from "../ffi/index.ts";

/** Receives what an {@link EngineWatch} sees. */
export interface WatchListener {
  onChange(info: native.EngineInfo): void;
  /** Called once, with how it shows that the engine has ended. */
  onEnd(how: string): void;
}

/** An engine that is alive answers every second. */
const silenceMs = 10_000;

/** O_PATH, which `node:fs` does not name: opens a folder to name files in it. */
const openPath = 0o10000000;

export class EngineWatch {
  readonly #listener: WatchListener;
  readonly #socket: Socket;
  #received = Buffer.alloc(0);
  #greeted = false;
  #folder: number | undefined;
  #ended = false;
  #cancelTimer: () => void = () => undefined;

  constructor(path: string, listener: WatchListener) {
    this.#listener = listener;
    // A socket's path must be short, so it is named within its open folder.
    const folder = openSync(dirname(path), openPath | constants.O_DIRECTORY);
    this.#folder = folder;
    this.#socket = connect(`/proc/self/fd/${folder}/${basename(path)}`);
    this.#socket.once("connect", () => this.#closeFolder());
    this.#socket.on("data", (bytes: Buffer) => this.#receive(bytes));
    this.#socket.on("error", (error) => this.#end(error.message));
    this.#socket.on("close", () => this.#end("it closed its connection"));
    this.#socket.unref();
    this.#expectReply();
  }

  stop(): void {
    this.#ended = true;
    this.#cancelTimer();
    this.#socket.destroy();
    this.#closeFolder();
  }

  #closeFolder(): void {
    if (this.#folder !== undefined) closeSync(this.#folder);
    this.#folder = undefined;
  }

  #receive(bytes: Buffer): void {
    this.#received = Buffer.concat([this.#received, bytes]);
    if (!this.#greeted) {
      if (this.#received.length < native.greetingBytes) return;
      this.#received = this.#received.subarray(native.greetingBytes);
      this.#greeted = true;
      // The first reply comes at once: no engine has seen as many changes.
      this.#socket.write(native.watchRequest(Number.MAX_SAFE_INTEGER));
    }
    if (this.#received.length < native.watchReplyBytes) return;
    const info = native.readWatchReply(this.#received.subarray(0, native.watchReplyBytes));
    this.#received = this.#received.subarray(native.watchReplyBytes);
    if (info === undefined) {
      this.#end("it refuses to be watched");
      return;
    }
    this.#expectReply();
    this.#socket.write(native.watchRequest(info.changes));
    this.#listener.onChange(info);
  }

  #expectReply(): void {
    this.#cancelTimer();
    this.#cancelTimer = backgroundClock.after(silenceMs, () => this.#end("it does not answer"));
  }

  #end(how: string): void {
    if (this.#ended) return;
    this.stop();
    this.#listener.onEnd(how);
  }
}
