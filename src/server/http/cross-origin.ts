/** Pages of other origins: which may read the routes, and how a browser learns it (CORS). */

import { custom, optional } from "../../options/schemas.ts";

const isOrigin = (value: unknown) =>
  typeof value === "string" && /^https?:/.test(value) && URL.parse(value)?.origin === value;

export const crossOriginProperties = {
  /**
   * Origins whose pages may read the routes, such as `https://dash.example`. Only reading: a browser may change an engine only from
   * the server's own page. By default none.
   */
  corsOrigins: optional(
    custom<readonly string[]>(
      'an array of origins such as "https://dash.example"',
      (value) => Array.isArray(value) && value.every(isOrigin),
    ),
  ),
};

export class CrossOrigin {
  readonly #origins: ReadonlySet<string>;

  constructor(origins: readonly string[] = []) {
    this.#origins = new Set(origins);
  }

  /** True when a page of a listed origin sent the request. */
  isListed({ headers }: Request): boolean {
    return this.#origins.has(headers.get("origin") ?? "");
  }

  /** True for the question whether a page of a listed origin may read. A browser sends it without the token. */
  isPreflight(request: Request): boolean {
    return (
      request.method === "OPTIONS" &&
      this.isListed(request) &&
      request.headers.has("access-control-request-method")
    );
  }

  /** Lets the page read the answer. */
  expose(request: Request, response: Response): Response {
    if (this.#origins.size === 0) return response;
    response.headers.append("vary", "Origin");
    if (!this.isListed(request)) return response;
    response.headers.set("access-control-allow-origin", request.headers.get("origin") ?? "");
    response.headers.set("access-control-expose-headers", "retry-after");
    if (!this.isPreflight(request)) return response;
    response.headers.set("access-control-allow-methods", "GET, HEAD");
    response.headers.set("access-control-allow-headers", "authorization");
    response.headers.set("access-control-max-age", "600");
    return response;
  }
}
