/** A Worker of the process under torture, seen from the main thread. */

import { CamemError, type CamemErrorCode } from "camem";
import type { WorkerAnswer, WorkerCommand } from "./worker.ts";

export class WorkerHandle {
  readonly #worker = new Worker(new URL("./worker.ts", import.meta.url), {
    env: process.env as Record<string, string>,
  });

  /** Runs a command in the Worker; rejects with the error that camem threw there. */
  ask(command: WorkerCommand): Promise<number | undefined> {
    return new Promise((resolve, reject) => {
      this.#worker.onmessage = ({ data }: MessageEvent<WorkerAnswer>) => {
        if ("value" in data) return resolve(data.value);
        const { typed, code, message, call, aclCode, transitionComplete } = data.error;
        if (!typed) return reject(new Error(message));
        const details = { transitionComplete, ...(call !== undefined && { call }) };
        reject(
          new CamemError(code as CamemErrorCode, message, {
            ...details,
            ...(aclCode !== undefined && { aclCode }),
          }),
        );
      };
      this.#worker.onerror = ({ message }) => reject(new Error(message));
      this.#worker.postMessage(command);
    });
  }

  /** Sends a command whose answer nobody waits for. */
  send(command: WorkerCommand): void {
    this.#worker.onmessage = null;
    this.#worker.postMessage(command);
  }

  terminate(): void {
    this.#worker.terminate();
  }
}
