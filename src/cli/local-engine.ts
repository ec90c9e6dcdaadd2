/** Engines in other processes of this machine: what the user writes after `sleep`, `wake` and `status` instead of a URL. */

import { CamemError } from "../errors.ts";
import { formatSize } from "../options/sizes.ts";
import { type EngineOverview, listEngines, type UnreachableEngine } from "../remote/engines.ts";
import { RemoteAllocator } from "../remote/index.ts";
import type { TransitionProgress } from "../transition/progress.ts";
import { CommandFailure, exitStatus, UsageError } from "./command.ts";
import { ProgressLine } from "./progress-line.ts";

type Values = Readonly<Record<string, unknown>>;

/** True for the name or the process number of an engine, and for the path of its control socket. */
export function isLocal(target: string): boolean {
  return target.startsWith("/") || !/[:/]/.test(target);
}

/** @throws UsageError for options that only a server's engines have */
export function refuseServerOptions(values: Values, verb: string): void {
  const given = ["mode", "model", "token"].find((name) => values[name] !== undefined);
  if (given !== undefined)
    throw new UsageError(
      `--${given} is for a server's address; ${verb} of an engine on this machine has no such option`,
    );
}

export function isReachable(engine: EngineOverview | UnreachableEngine): engine is EngineOverview {
  return "status" in engine;
}

/** @throws CommandFailure for none, and for several engines of one name */
export function findEngine(target: string): EngineOverview | UnreachableEngine {
  const engines = listEngines();
  const pid = (engine: EngineOverview | UnreachableEngine) =>
    isReachable(engine) ? engine.status.pid : engine.pid;
  const found = engines.filter(
    (engine) =>
      engine.socket === target ||
      String(pid(engine)) === target ||
      (isReachable(engine) && engine.status.name === target),
  );
  const [first, second] = found;
  if (second !== undefined)
    throw new CommandFailure(
      `there are ${found.length} engines named "${target}": give the number of a process, one of ${found.map(pid).join(", ")}`,
      exitStatus.refused,
    );
  if (first !== undefined) return first;
  const known = engines.map((engine) => (isReachable(engine) ? engine.status.name : pid(engine)));
  const list = known.length === 0 ? "none has used a device so far" : `the engines are ${known.join(", ")}`;
  throw new CommandFailure(
    `there is no engine "${target}" on this machine: ${list}; for a server give its URL`,
    exitStatus.unreachable,
  );
}

/** @throws CommandFailure that lists the engine's tags where `act` names one that it does not have */
async function namingTags<T>(allocator: RemoteAllocator, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    if (!(error instanceof CamemError) || error.code !== "UNKNOWN_TAG") throw error;
    const tags = Object.keys(allocator.usage()).join(", ") || "none: its memory has none";
    throw new CommandFailure(`the engine has no such tag; its tags are ${tags}`, exitStatus.refused);
  }
}

/**
 * Calls `act` with the memory of an engine.
 *
 * @throws CommandFailure
 */
export async function withEngine<T>(
  target: string,
  act: (allocator: RemoteAllocator, onProgress: (progress: TransitionProgress) => void) => Promise<T>,
): Promise<T> {
  const engine = findEngine(target);
  const line = new ProgressLine();
  try {
    if (!isReachable(engine)) throw engine.error;
    await using allocator = await RemoteAllocator.connect({ path: engine.socket });
    return await namingTags(allocator, () =>
      act(allocator, ({ phase, bytesDone, bytesTotal }) => {
        const bytes = bytesTotal > 0 ? ` ${formatSize(bytesDone)} of ${formatSize(bytesTotal)}` : "";
        line.show(phase, `${engine.status.name}: ${phase}${bytes}`);
      }),
    );
  } catch (error) {
    if (!(error instanceof CamemError)) throw error;
    const isUnreachable = error.code === "ENGINE_NOT_FOUND" || error.code === "ENGINE_GONE";
    throw new CommandFailure(error.message, isUnreachable ? exitStatus.unreachable : exitStatus.refused);
  } finally {
    line.clear();
  }
}
