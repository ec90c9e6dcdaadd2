/** Paths that an engine may read as one of the routes that are not for everybody. */

import { posix } from "node:path";

/**
 * True when `pathname` is not one of `paths` as it stands, but an engine may read it as one: it is encoded, has doubled or trailing
 * slashes, or other case. Such a request must not pass the access rules of these routes and reach the engine's own.
 */
export function isDisguised(pathname: string, paths: ReadonlySet<string>): boolean {
  if (paths.has(pathname)) return false;
  const segments = decoded(pathname)
    .replaceAll("\\", "/")
    .replace(/;[^/]*/g, "");
  const plain = posix
    .normalize(segments)
    .replace(/(?<=.)\/$/, "")
    .toLowerCase();
  return paths.has(plain);
}

/** Decodes as often as something changes, since an engine behind another proxy decodes twice. */
function decoded(pathname: string): string {
  let text = pathname;
  for (let round = 0; round < 4; round++) {
    const next = text.replace(/%([0-9a-f]{2})/gi, (_, digits) =>
      String.fromCharCode(Number.parseInt(digits, 16)),
    );
    if (next === text) break;
    text = next;
  }
  return text;
}
