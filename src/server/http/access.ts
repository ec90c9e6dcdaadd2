/** Who may use the administrative routes. */

import { createHash, timingSafeEqual } from "node:crypto";
import { CamemError, formatValue } from "../../errors.ts";
import { RequestError } from "./replies.ts";

/** What the handler uses of a `Bun.serve` server. */
export interface ServerInfo {
  requestIP(request: Request): { readonly address: string } | null;
  timeout?(request: Request, seconds: number): void;
}

export interface AccessOptions {
  /** The bearer token that every request has to bring. */
  readonly token?: string | undefined;
  /**
   * True: only from this machine, not from another site's page in a browser, and not through a proxy that says so. One on this
   * machine that adds no header, as nginx unless it is told to, passes for a local client: behind a proxy use `token`.
   */
  readonly loopbackOnly?: boolean | undefined;
}

/** Throws for whoever may not in. */
export type AccessCheck = (request: Request, server: ServerInfo | undefined) => void;

const digest = (text: string) => createHash("sha256").update(text).digest();

function tokenCheck(token: unknown): AccessCheck {
  if (typeof token !== "string" || !/^[\x21-\x7e]+$/.test(token))
    throw new CamemError(
      "INVALID_CONFIG",
      `token is ${typeof token === "string" ? "not printable ASCII without spaces" : formatValue(token)}; it must be a secret such as crypto.randomUUID()`,
    );
  const wanted = digest(token);
  return (request) => {
    const given = /^bearer ([\x21-\x7e]+)$/i.exec(request.headers.get("authorization") ?? "")?.[1];
    // Digests have one length, so that comparing them tells nothing of the token.
    if (given !== undefined && timingSafeEqual(digest(given), wanted)) return;
    throw new RequestError(401, "send the token: Authorization: Bearer …", null, {
      "www-authenticate": "Bearer",
    });
  };
}

const isLoopbackAddress = (address: string) => /^(::ffff:)?127\.\d+\.\d+\.\d+$|^::1$/.test(address);

const isLoopbackHost = (host: string) => /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/i.test(host);

/** What proxies add to say for whom they ask. */
const isProxyHeader = (name: string) => /^(forwarded|via|x-real-ip|x-forwarded-.*)$/.test(name);

const checkLoopback: AccessCheck = (request, server) => {
  const { headers } = request;
  const forbidden = (why: string) =>
    new RequestError(403, `only this machine may use this route, and ${why}`);
  const address = server?.requestIP(request)?.address;
  if (address === undefined) throw forbidden("where the request comes from is not known");
  if (!isLoopbackAddress(address)) throw forbidden("the request comes from elsewhere");
  if ([...headers.keys()].some(isProxyHeader)) throw forbidden("a proxy forwarded it");
  // A page of another site may have its name resolve to this machine, or post to it from a browser that runs here.
  const host = headers.get("host") ?? "";
  if (!isLoopbackHost(host)) throw forbidden("it asks for another host");
  const origin = headers.get("origin");
  if (origin !== null && !["http://", "https://"].some((scheme) => origin === `${scheme}${host}`))
    throw forbidden("a page of another origin sent it");
  // Browsers name no origin where a page merely embeds something: an <img> must not put an engine to sleep by GET.
  if (!["same-origin", "none"].includes(headers.get("sec-fetch-site") ?? "none"))
    throw forbidden("a page of another origin made a browser send it");
};

/**
 * A check that throws for whoever may not in. With both options, both have to hold.
 *
 * @throws CamemError `INVALID_CONFIG` with neither: nothing is open unless somebody has said to whom
 */
export function createAccess({ token, loopbackOnly }: AccessOptions): AccessCheck {
  if (loopbackOnly !== undefined && typeof loopbackOnly !== "boolean")
    throw new CamemError(
      "INVALID_CONFIG",
      `loopbackOnly is ${formatValue(loopbackOnly)}; it must be true or false`,
    );
  const checks = [
    ...(loopbackOnly ? [checkLoopback] : []),
    ...(token === undefined ? [] : [tokenCheck(token)]),
  ];
  if (checks.length === 0)
    throw new CamemError(
      "INVALID_CONFIG",
      "say who may put engines to sleep: give token (a secret) or loopbackOnly: true, or both",
    );
  return (request, server) => {
    for (const check of checks) check(request, server);
  };
}
