/** Shows a running sleep or wake-up of a server on standard error. */

import { formatSize } from "../options/sizes.ts";
import type { EngineClient, SentEvent } from "./engine-client.ts";
import { ProgressLine } from "./progress-line.ts";

interface Progress {
  readonly phase: string;
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

interface TransitionEvent {
  readonly operation?: unknown;
  readonly engine?: unknown;
  readonly progress?: Progress;
}

/** What is shown: the transitions of one kind, of one model or of all. */
interface Shown {
  readonly operation: "sleep" | "wake";
  readonly model: string | undefined;
}

function concerns(event: TransitionEvent, { operation, model }: Shown): boolean {
  return event.operation === operation && (model === undefined || event.engine === model);
}

const isEnd = ({ name, data }: SentEvent, shown: Shown) =>
  name === "transition-ended" && concerns(data as TransitionEvent, shown);

/** The line for an event; undefined for those that are not shown. */
function lineOf({ name, data }: SentEvent, shown: Shown) {
  const event = data as TransitionEvent;
  if (!concerns(event, shown)) return undefined;
  const { operation } = shown;
  if (name === "transition-started")
    return {
      phase: "started",
      text: `${event.engine}: ${operation === "sleep" ? "falling asleep" : "waking up"}`,
    };
  const { progress } = event;
  if (name !== "transition-progress" || progress === undefined) return undefined;
  const { phase, bytesDone, bytesTotal } = progress;
  const bytes = bytesTotal > 0 ? ` ${formatSize(bytesDone)} of ${formatSize(bytesTotal)}` : "";
  return { phase, text: `${event.engine}: ${phase}${bytes}` };
}

/** A proxy may hold the event stream back; then there is no progress to see. */
const patienceMs = 1_000;

/** Runs `call` and shows the transitions that the server reports meanwhile. */
export async function withProgress<T>(client: EngineClient, what: Shown, call: () => Promise<T>): Promise<T> {
  const ended = new AbortController();
  const { promise: ready, resolve } = Promise.withResolvers<void>();
  const shown = show(client, what, ended.signal, resolve).finally(resolve);
  await Promise.race([ready, Bun.sleep(patienceMs)]);
  try {
    const result = await call();
    // The last events may arrive after the answer.
    await Promise.race([shown, Bun.sleep(patienceMs)]);
    return result;
  } finally {
    ended.abort();
    await shown;
  }
}

async function show(
  client: EngineClient,
  what: Shown,
  signal: AbortSignal,
  onReady: () => void,
): Promise<void> {
  const shown = new ProgressLine();
  for await (const event of client.events(signal)) {
    // The snapshot comes first: from then on nothing is missed.
    onReady();
    if (isEnd(event, what)) break;
    const line = lineOf(event, what);
    if (line !== undefined) shown.show(line.phase, line.text);
  }
  shown.clear();
}
