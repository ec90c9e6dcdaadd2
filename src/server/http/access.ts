/** Who may use the administrative routes. */

import { createHash, timingSafeEqual } from "node:crypto";
import type { Static, TObject } from "typebox";
import { CamemError, formatValue } from "../../errors.ts";
import { Flag, optional, unchecked } from "../../options/schemas.ts";
import { CrossOrigin, crossOriginProperties } from "./cross-origin.ts";
import { RequestError } from "./replies.ts";
import { clientAddress, isUnixSocket, noServer, type ServerInfo } from "./server-info.ts";

export const accessProperties = {
  /** The bearer token that every request must send. */
  token: optional(unchecked<string>()),
  /**
   * True: accept requests from this machine only, and neither from a page of another origin nor through a proxy that adds
   * forwarding headers. A proxy on this machine without such headers, as nginx by default, looks like a local client, so it lets
   * everybody in: behind a proxy use `token`, or serve the routes on a Unix socket with `unixSocketOnly`.
   */
  loopbackOnly: optional(Flag),
  /**
   * True: accept requests only where the server listens on a Unix socket (`Bun.serve({ unix })`, `Deno.serve({ path })`). The
   * permissions of the socket's file decide who may connect; by default its owner only. No web page and no proxy of a TCP port
   * reaches it.
   */
  unixSocketOnly: optional(Flag),
  ...crossOriginProperties,
};

/** Who may use the routes. Give `token`, `loopbackOnly: true` or `unixSocketOnly: true`; a token may be given beside the others. */
export interface AccessOptions extends Static<TObject<typeof accessProperties>> {}

/** Throws unless the request may use the route. */
export type AccessCheck = (request: Request, server: ServerInfo | undefined) => void;

const digest = (text: string) => createHash("sha256").update(text).digest();

/** The text contains no part of the token. */
function tokenFault(token: unknown): string {
  if (typeof token !== "string") return formatValue(token);
  return token === "" ? "empty" : "not printable ASCII without spaces";
}

function tokenCheck(token: unknown): AccessCheck {
  if (typeof token !== "string" || !/^[\x21-\x7e]+$/.test(token))
    throw new CamemError(
      "INVALID_CONFIG",
      `token is ${tokenFault(token)}; it must be a secret such as crypto.randomUUID()`,
    );
  const expected = digest(token);
  return (request) => {
    const sent = /^bearer ([\x21-\x7e]+)$/i.exec(request.headers.get("authorization") ?? "")?.[1];
    // The digests have equal lengths, so the comparison reveals nothing about the token.
    if (sent !== undefined && timingSafeEqual(digest(sent), expected)) return;
    throw new RequestError(401, "UNAUTHORIZED", "send the token: Authorization: Bearer …", {
      headers: { "www-authenticate": "Bearer" },
    });
  };
}

const isLoopbackAddress = (address: string) => /^(::ffff:)?127\.\d+\.\d+\.\d+$|^::1$/.test(address);

const isLoopbackHost = (host: string) => /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/i.test(host);

/** Headers in which proxies name their client. */
const isProxyHeader = (name: string) => /^(forwarded|via|x-real-ip|x-forwarded-.*)$/.test(name);

const checkUnixSocket: AccessCheck = (_request, server) => {
  const isUnix = isUnixSocket(server);
  if (isUnix) return;
  const why = isUnix === undefined ? `, and ${noServer}` : "";
  throw new RequestError(403, "FORBIDDEN", `this route is served on a Unix socket only${why}`);
};

const checkLoopback =
  (origins: CrossOrigin): AccessCheck =>
  (request, server) => {
    const { headers } = request;
    const forbidden = (why: string) =>
      new RequestError(403, "FORBIDDEN", `only this machine may use this route, but ${why}`);
    const client = clientAddress(request, server);
    if ("why" in client) throw forbidden(client.why);
    if (!isLoopbackAddress(client.address)) throw forbidden("the request comes from another machine");
    if ([...headers.keys()].some(isProxyHeader)) throw forbidden("a proxy forwarded it");
    // A page of another origin may resolve its name to this machine, or post from a browser on this machine.
    const host = headers.get("host") ?? "";
    if (!isLoopbackHost(host)) throw forbidden("its Host header names another host");
    if (origins.isListed(request)) return;
    const origin = headers.get("origin");
    if (origin !== null && !["http://", "https://"].some((scheme) => origin === `${scheme}${host}`))
      throw forbidden("a page of another origin sent it");
    // Browsers send no Origin header for embedded content: an <img> must not put an engine to sleep by GET.
    if (!["same-origin", "none"].includes(headers.get("sec-fetch-site") ?? "none"))
      throw forbidden("a page of another origin caused it");
  };

/** Browsers send these headers, and no page can remove them. */
const isBrowserHeader = (name: string) => /^(sec-fetch-.+|(sec-)?purpose)$/.test(name);

/**
 * Refuses requests that a browser sends by itself or for another site, such as a prefetch, a prerender or a redirected
 * navigation. They look like the address bar's own requests, which may read but change nothing.
 *
 * @throws RequestError 403
 */
export function assertMayChangeState({ method, headers }: Request): void {
  const sent = [...headers.keys()].filter(isBrowserHeader);
  if (sent.length === 0) return;
  if (method === "POST" && headers.get("sec-fetch-site") === "same-origin") return;
  // The fetch of Node sends this header alone; a browser never does.
  if (method === "POST" && sent.join() === "sec-fetch-mode" && headers.get("sec-fetch-mode") === "cors")
    return;
  throw new RequestError(
    403,
    "FORBIDDEN",
    "a browser may change an engine only by a POST from a page of this server; use another client",
  );
}

/**
 * A request must pass the check of every option that is given.
 *
 * @throws CamemError `INVALID_CONFIG` without any: no route is open by default
 */
export function createAccess(options: AccessOptions): AccessCheck {
  const { token, loopbackOnly, unixSocketOnly } = options;
  if (token === undefined && !loopbackOnly && !unixSocketOnly)
    throw new CamemError(
      "INVALID_CONFIG",
      "the routes need access control: give token (a secret), loopbackOnly: true, or unixSocketOnly: true",
    );
  const checkPlace = createPlaceCheck(options);
  if (token === undefined) return checkPlace;
  const checkToken = tokenCheck(token);
  return (request, server) => {
    checkPlace(request, server);
    checkToken(request, server);
  };
}

/**
 * Checks where a request comes from, and no token.
 *
 * @throws CamemError `INVALID_CONFIG`
 */
export function createPlaceCheck({ loopbackOnly, unixSocketOnly, corsOrigins }: AccessOptions): AccessCheck {
  if (loopbackOnly && unixSocketOnly)
    throw new CamemError(
      "INVALID_CONFIG",
      "loopbackOnly and unixSocketOnly exclude each other: a Unix socket has no address",
    );
  if (unixSocketOnly) return checkUnixSocket;
  return loopbackOnly ? checkLoopback(new CrossOrigin(corsOrigins)) : () => undefined;
}
