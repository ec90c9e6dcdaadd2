/** The shim of an engine in another process, by its control socket. */

import { engineCalls } from "./engine.ts";
import type { RemoteName, ServedExports } from "./exports.ts";
import { exports } from "./library.ts";
import { callsOf, type Native } from "./native.ts";
import { check, failureBytes, firstResult, secondResult, takeFirst, takeSecond } from "./status.ts";
import { Status, servedCalls } from "./symbols.gen.ts";

/** The shim of an engine in another process. */
interface EngineNative extends Native, ReturnType<typeof engineCalls> {}

/** A connection to an engine. */
export interface EngineConnection {
  readonly native: EngineNative;
  /** The number of the engine's process in its own namespace. */
  readonly pid: number;
  /** When the process began, in clock ticks after the machine did. */
  readonly startTime: number;
  /** Called when a call finds that the engine has ended or does not answer. Every later call fails as well. */
  onGone: () => void;
  /** Ends the connection; later calls fail. */
  close(): void;
}

function remoteExports(connection: number, onGone: () => void): ServedExports {
  const calls = servedCalls.map((name) => {
    const remoteName = name.replace("camem_", "camem_remote_") as RemoteName<typeof name>;
    const call = exports()[remoteName] as (connection: number, ...values: unknown[]) => number;
    const entry = (...values: unknown[]) => {
      const status = call(connection, ...values);
      if (status === Status.engine_gone) onGone();
      return status;
    };
    return [name, entry] as const;
  });
  return Object.fromEntries(calls) as unknown as ServedExports;
}

/**
 * Connects to the control socket at `path`. Blocks until the engine greets, `timeoutMs` at most.
 *
 * @throws CamemError `ENGINE_NOT_FOUND`, `ENGINE_REFUSED` or `ENGINE_GONE`
 */
export function connectEngine(path: string, timeoutMs: number): EngineConnection {
  const bytes = Buffer.from(path);
  const pid = new Uint32Array(1);
  check(
    () => `connect to the engine at ${path}`,
    () =>
      exports().camem_remote_connect(
        bytes,
        bytes.length,
        timeoutMs * 1e6,
        firstResult,
        pid,
        secondResult,
        failureBytes,
      ),
  );
  const connection = takeFirst();
  const served = remoteExports(connection, () => opened.onGone());
  const calls = () => served;
  const opened: EngineConnection = {
    native: { ...callsOf(calls), ...engineCalls(calls) },
    pid: pid[0] as number,
    startTime: takeSecond(),
    onGone: () => undefined,
    close: () => void exports().camem_remote_close(connection),
  };
  return opened;
}
