/** Where a proxy listens. */

import { CamemError } from "../errors.ts";

/** What answers the requests. */
interface Listener {
  readonly fetch: (request: Request, server: Bun.Server<undefined>) => Promise<Response>;
}

/**
 * Listens.
 *
 * @throws CamemError `INVALID_CONFIG` when the address is in use or cannot be listened on
 */
export function listen(proxy: Listener, { hostname, port }: ListenAddress): Bun.Server<undefined> {
  try {
    return Bun.serve({
      hostname,
      port,
      fetch: proxy.fetch,
      idleTimeout: 60,
      // The engine decides how much it takes; nothing is buffered here.
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    });
  } catch (cause) {
    const isBusy = (cause as NodeJS.ErrnoException).code === "EADDRINUSE";
    const why = isBusy ? "another program listens there; choose another port" : String(cause);
    throw new CamemError("INVALID_CONFIG", `cannot listen on ${hostname}:${port}: ${why}`, {
      property: "listen",
      cause,
    });
  }
}

/** Where to listen. */
export interface ListenAddress {
  readonly hostname: string;
  readonly port: number;
}

/**
 * Parses `8000`, `:8000`, `127.0.0.1:8000` or `[::1]:8000`. Without a host, every address of the machine.
 *
 * @throws CamemError `INVALID_CONFIG`
 */
export function parseListenAddress(text: string, label: string): ListenAddress {
  const match = /^(?:(\[[0-9a-f:.]+\]|[^:[\]\s]*):)?(\d{1,5})$/i.exec(text.trim());
  const port = Number(match?.[2]);
  if (match && port <= 65_535) return { hostname: (match[1] ?? "").replace(/[[\]]/g, "") || "0.0.0.0", port };
  throw new CamemError(
    "INVALID_CONFIG",
    `${label} is ${JSON.stringify(text)}; it must be a port or an address, such as :8000 or 127.0.0.1:8000`,
    { property: label },
  );
}
