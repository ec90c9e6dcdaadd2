/** Who may use the administrative routes. */

import { createHash, timingSafeEqual } from "node:crypto";
import type { Static, TObject } from "typebox";
import { CamemError, formatValue } from "../../errors.ts";
import { Flag, optional, unchecked } from "../../options/schemas.ts";
import { RequestError } from "./replies.ts";

/** The part of a `Bun.serve` server that the handler uses. */
export interface ServerInfo {
  /** The address of the client. */
  requestIP(request: Request): {
    /** An IPv4 or IPv6 address. */
    readonly address: string;
  } | null;
  /** Sets the idle timeout of a request; 0 for none. */
  timeout?(request: Request, seconds: number): void;
}

export const accessProperties = {
  /** The bearer token that every request must send. */
  token: optional(unchecked<string>()),
  /**
   * True: accept requests from this machine only, and neither from a page of another origin nor through a proxy that adds
   * forwarding headers. A proxy on this machine without such headers, as nginx by default, looks like a local client: behind a
   * proxy use `token`.
   */
  loopbackOnly: optional(Flag),
};

/** Who may use the routes. Give `token`, `loopbackOnly: true`, or both. */
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

const checkLoopback: AccessCheck = (request, server) => {
  const { headers } = request;
  const forbidden = (why: string) =>
    new RequestError(403, "FORBIDDEN", `only this machine may use this route, but ${why}`);
  const address = server?.requestIP(request)?.address;
  if (address === undefined) throw forbidden("the address of the client is unknown");
  if (!isLoopbackAddress(address)) throw forbidden("the request comes from another machine");
  if ([...headers.keys()].some(isProxyHeader)) throw forbidden("a proxy forwarded it");
  // A page of another origin may resolve its name to this machine, or post from a browser on this machine.
  const host = headers.get("host") ?? "";
  if (!isLoopbackHost(host)) throw forbidden("its Host header names another host");
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
 * With both options, a request must pass both checks.
 *
 * @throws CamemError `INVALID_CONFIG` with neither: no route is open by default
 */
export function createAccess({ token, loopbackOnly }: AccessOptions): AccessCheck {
  const checks = [
    ...(loopbackOnly ? [checkLoopback] : []),
    ...(token === undefined ? [] : [tokenCheck(token)]),
  ];
  if (checks.length === 0)
    throw new CamemError(
      "INVALID_CONFIG",
      "the routes need access control: give token (a secret), loopbackOnly: true, or both",
    );
  return (request, server) => {
    for (const check of checks) check(request, server);
  };
}
