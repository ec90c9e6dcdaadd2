/** The page at `/camem`: three files that are the same for everybody. What they show they ask the other routes for. */

import { type AccessCheck, type AccessOptions, createAccess } from "./access.ts";

const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join("; ");

const headers = {
  "content-security-policy": contentSecurityPolicy,
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  // An update of the package is seen at once.
  "cache-control": "no-cache",
};

function answer(body: string, type: string): Response {
  return new Response(body, { headers: { ...headers, "content-type": `${type}; charset=utf-8` } });
}

const textOf = (name: string) => Bun.file(new URL(`./page/${name}`, import.meta.url)).text();

/** The page knows whether it has to ask for a token before it asks for anything else. */
async function markup(asksForToken: boolean): Promise<string> {
  const text = await textOf("page.html");
  return asksForToken ? text.replace("<html ", '<html data-access="token" ') : text;
}

interface PageRoute {
  readonly GET: () => Promise<Response>;
  readonly check: AccessCheck;
}

/**
 * A browser sends no token with an address that somebody types. So the page goes to everybody whom `loopbackOnly` lets in, also
 * without one: it is part of a published package, holds no data, and tells no more than the 401 of every other route. The data it
 * shows comes from the routes that ask for the token.
 */
export function pageRoutes({ token, loopbackOnly }: AccessOptions): Record<string, PageRoute> {
  const check = loopbackOnly ? createAccess({ loopbackOnly }) : () => undefined;
  return {
    "/camem": { GET: async () => answer(await markup(token !== undefined), "text/html"), check },
    "/camem/page.css": { GET: async () => answer(await textOf("page.css"), "text/css"), check },
    "/camem/page.js": { GET: async () => answer(await textOf("page.js"), "text/javascript"), check },
  };
}
