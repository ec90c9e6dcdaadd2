/** The list of routes at `/`, and the answer for paths that do not exist. */

import { OpenAiError } from "./openai.ts";

/** Wildcards, redirects, and the files of the page, which no client asks for by hand. */
const isHidden = (path: string) => /^\/camem\/.*[*.]|.\/$/.test(path);

/** The path of a request, also where a missing or malformed Host header leaves it without a valid URL. */
export const pathOf = ({ url }: Request): string => /^(?:https?:\/\/[^/?#]*)?([^?#]*)/.exec(url)?.[1] || "/";

const lettersOf = (path: string) => path.toLowerCase().replace(/[^a-z0-9]/g, "");

export class Directory {
  readonly #paths: readonly string[];

  constructor(paths: readonly string[]) {
    this.#paths = paths.filter((path) => !isHidden(path)).toSorted();
  }

  get response(): Response {
    return new Response(`${this.#paths.join("\n")}\n\ndocs/server.md describes these routes.\n`);
  }

  notFound(request: Request): Response {
    const pathname = pathOf(request);
    const similar = this.#paths.find((path) => lettersOf(path) === lettersOf(pathname));
    const hint = similar === undefined ? "/ lists the routes" : `use ${similar}`;
    return new OpenAiError(404, `there is nothing at ${pathname}; ${hint}`).response;
  }
}
