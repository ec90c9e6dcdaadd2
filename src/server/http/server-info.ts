/** What a JavaScript runtime's server says about a request. */

/** The part of a `Bun.serve` server that the handler uses. */
export interface ListeningServer {
  /** The address of the client. */
  requestIP(request: Request): {
    /** An IPv4 or IPv6 address. */
    readonly address: string;
  } | null;
  /** The address of the server; its protocol is `unix:` for a Unix socket. */
  readonly url?: URL;
  /** Sets the idle timeout of a request; 0 for none. */
  timeout?(request: Request, seconds: number): void;
}

/** The second argument of a `Deno.serve` handler, as far as `createHandler` uses it. */
export interface ConnectionInfo {
  /** The client. */
  readonly remoteAddr: {
    /** `tcp`, or `unix` for a Unix socket. */
    readonly transport: string;
    /** An IPv4 or IPv6 address. */
    readonly hostname?: string;
  };
}

/** The server of `Bun.serve`, or what `Deno.serve` passes with each request: the second argument of their handlers. */
export type ServerInfo = ListeningServer | ConnectionInfo;

export const noServer =
  "the handler was not given the server: call it as handler(request, server) with the server of Bun.serve, " +
  "or as handler(request, info) with what Deno.serve passes";

/** A framework may pass something else as the server. */
const hasConnection = (server: ServerInfo | undefined): server is ConnectionInfo =>
  typeof (server as Partial<ConnectionInfo> | undefined)?.remoteAddr === "object";

/** True for a Unix socket; undefined where the server does not say. */
export function isUnixSocket(server: ServerInfo | undefined): boolean | undefined {
  if (hasConnection(server)) return server.remoteAddr.transport === "unix";
  return server?.url && server.url.protocol === "unix:";
}

/** The client's address, or why it is unknown. A framework may pass on a copy of a request. */
export function clientAddress(
  request: Request,
  server: ServerInfo | undefined,
): { readonly address: string } | { readonly why: string } {
  if (hasConnection(server)) {
    const { hostname } = server.remoteAddr;
    return hostname === undefined ? { why: "its client has no address" } : { address: hostname };
  }
  if (typeof server?.requestIP !== "function") return { why: noServer };
  return (
    server.requestIP(request) ?? {
      why: "the server does not know this request: pass the request itself, not a copy, while its client is connected",
    }
  );
}

/** Lets a request wait, and its answer pause, for as long as they need. Deno has no idle timeout. */
export function disableIdleTimeout(request: Request, server: ServerInfo | undefined): void {
  if (!hasConnection(server)) server?.timeout?.(request, 0);
}
