/** The environment in which a program's device memory can sleep. */

import { CamemError, formatValue } from "../errors.ts";
import { libraryPath } from "../ffi/library-files.ts";
import { checkLibrary } from "./program.ts";

/** What a call of the engine does that touches sleeping memory: it wakes it, waits for somebody else to, or fails. */
type OnTouch = "wake" | "hold" | "fail";

export interface PreloadOptions {
  /** The name of the engine in `camem status`. */
  readonly name: string;
  readonly onTouch: OnTouch;
  /** Rules for the memory of the program, such as `written=host: immutable`. */
  readonly rules: readonly string[];
  /** By default the library of this package. */
  readonly library?: string;
}

/**
 * The variables with which to start the program. Libraries that LD_PRELOAD already names stay, behind this one.
 *
 * @throws CamemError `LIBRARY_NOT_FOUND` or `LIBRARY_INVALID`
 */
export function preloadEnvironment(
  { name, onTouch, rules, library = libraryPath("preload") }: PreloadOptions,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Record<string, string> {
  checkLibrary(library);
  // The dynamic loader has no way to quote these.
  if (/[\s:]/.test(library))
    throw new CamemError(
      "LIBRARY_INVALID",
      `the library ${formatValue(library)} has a space or a colon in its path, which LD_PRELOAD cannot name; install camem elsewhere`,
    );
  const others = (environment["LD_PRELOAD"] ?? "")
    .split(/[\s:]+/)
    .filter((path) => path !== "" && path !== library);
  return {
    LD_PRELOAD: [library, ...others].join(":"),
    CAMEM_ENGINE_NAME: name,
    CAMEM_ON_TOUCH: onTouch,
    ...(rules.length > 0 && { CAMEM_RULES: rules.join("\n") }),
  };
}
