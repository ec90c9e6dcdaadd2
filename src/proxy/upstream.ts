import { CamemError, formatValue } from "../errors.ts";

/**
 * The base URL of an engine.
 *
 * @throws CamemError `INVALID_CONFIG` for anything but an http or https URL without query and credentials
 */
export function parseUpstream(text: string, label: string): URL {
  const url = URL.parse(text);
  const fits =
    url !== null &&
    /^https?:$/.test(url.protocol) &&
    `${url.search}${url.hash}${url.username}${url.password}` === "";
  if (fits) return url;
  throw new CamemError(
    "INVALID_CONFIG",
    `${label} is ${formatValue(text)}; it must be the engine's address, such as http://127.0.0.1:8080`,
    { property: label },
  );
}

/** Options of `fetch` by which it reaches an engine itself, whatever proxy the environment names (`http_proxy`). */
export const directly = { proxy: false } as unknown as BunFetchRequestInit;

/** The address of a path below the base URL, which may have a path of its own. */
export function addressOf(upstream: URL, pathAndQuery: string): string {
  return `${upstream.origin}${upstream.pathname.replace(/\/$/, "")}${pathAndQuery}`;
}
