/** The page at `/camem`: static files, the same for everybody. They request their data from the other routes. */

import { type AccessOptions, createPlaceCheck } from "./access.ts";
import type { PageFileName } from "./page-files.js";
import type { Routes } from "./route.ts";

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
  // An update of the package takes effect at once.
  "cache-control": "no-cache",
};

const scripts = [
  "page.js",
  "client.js",
  "dom.js",
  "format.js",
  "memory-views.js",
  "model-view.js",
] as const satisfies readonly PageFileName[];

function answer(body: string, type: string): Response {
  return new Response(body, { headers: { ...headers, "content-type": `${type}; charset=utf-8` } });
}

const textOf = async (name: PageFileName) => (await import("./page-files.js")).pageFiles[name];

/** The attribute tells the script to ask for a token before its first request. */
async function markup(needsToken: boolean): Promise<string> {
  const text = await textOf("page.html");
  return needsToken ? text.replace("<html ", '<html data-access="token" ') : text;
}

/**
 * A browser sends no token for an address in its address bar, so these routes need none; the other checks apply to them. The files
 * belong to a published package and contain no data. The routes that they request their data from need the token.
 */
export function pageRoutes(options: AccessOptions): Routes {
  const check = createPlaceCheck(options);
  const fileRoute = (name: PageFileName, type: string) => ({
    GET: async () => answer(await textOf(name), type),
    check,
  });
  return {
    "/camem": { GET: async () => answer(await markup(options.token !== undefined), "text/html"), check },
    "/camem/page.css": fileRoute("page.css", "text/css"),
    ...Object.fromEntries(scripts.map((name) => [`/camem/${name}`, fileRoute(name, "text/javascript")])),
  };
}
