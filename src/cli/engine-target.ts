/** Where an engine's routes are: what the user writes after `sleep`, `wake` and `status`. */

import { UsageError } from "./command.ts";

/** The routes of one server. */
export interface EngineTarget {
  /** As the user knows it, for messages. */
  readonly label: string;
  /** Paths are relative to it. */
  readonly url: URL;
  /** The Unix socket that the server listens on, instead of the host of `url`. */
  readonly unix?: string;
}

const socketPrefix = "unix:";

/**
 * `http://host:8000`, `host:8000`, or `unix:/run/engine.sock`.
 *
 * @throws UsageError
 */
export function parseTarget(operands: readonly string[]): EngineTarget {
  const [text, ...more] = operands;
  if (text === undefined)
    throw new UsageError(
      "say which engine: a name or process number that `camem status` shows, a URL such as http://localhost:8000, or unix:/path/to/socket",
    );
  if (more.length > 0) throw new UsageError(`unexpected argument "${more.join(" ")}"`);
  if (text.startsWith(socketPrefix)) {
    const unix = text.slice(socketPrefix.length).replace(/^\/\/(?=\/)/, "");
    if (!unix.startsWith("/")) throw new UsageError(`"${text}" has no absolute path after ${socketPrefix}`);
    return { label: text, url: new URL("http://engine/"), unix };
  }
  const isBare = /^(\[[0-9a-f:]+\]|[\w.-]+):\d+(\/|$)/i.test(text);
  const url = URL.parse(isBare ? `http://${text}` : text);
  if (url === null || !/^https?:$/.test(url.protocol))
    throw new UsageError(
      `"${text}" is not an engine's address; give a URL such as http://localhost:8000, or unix:/path/to/socket`,
    );
  if (url.search !== "" || url.hash !== "" || url.username !== "")
    throw new UsageError(`"${text}" has more than a host and a path; give options such as --model instead`);
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return { label: text, url };
}
