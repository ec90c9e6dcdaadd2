/** The environment variables whose names begin with CAMEM_. */

import { environmentNames } from "./allocator-options.ts";
import { nearestName } from "./nearest-name.ts";

/** The variables of the emulated device, which reads them itself. */
export const emulatorVariables: readonly string[] = [
  "DEVICES",
  "HBM",
  "POOL",
  "RUNTIME",
  "SHARED",
  "FAULTS",
  "TIMING",
].map((name) => `CAMEM_EMULATOR_${name}`);

/** The variables of the `camem` command, of examples/serve, and of engines in other processes. */
const otherVariables = ["CAMEM_TOKEN", "CAMEM_API_KEY", "CAMEM_IDLE", "CAMEM_SOCKET_DIR"];

/** The variables that `camem run` and the gateway set for the programs that they start. */
const programVariables = [
  "CAMEM_ENGINE_NAME",
  "CAMEM_ON_TOUCH",
  "CAMEM_RULES",
  "CAMEM_RUN_ID",
  "CAMEM_GATEWAY",
];

const known: readonly string[] = [
  ...Object.values(environmentNames),
  ...otherVariables,
  ...programVariables,
  ...emulatorVariables,
];

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * What to say of variables that camem does not have, and that so have no effect. Their values may be secrets.
 *
 * @returns texts by name
 */
export function unknownVariables(environment: Environment): ReadonlyMap<string, string> {
  const unknown = Object.keys(environment).filter((name) => /^CAMEM_/i.test(name) && !known.includes(name));
  return new Map(
    unknown.map((name) => {
      const nearest = nearestName(name.toUpperCase(), known);
      const advice = nearest === undefined ? "" : `; did you mean ${nearest}?`;
      return [name, `${name} is set, but camem has no such variable${advice}`];
    }),
  );
}

/** What {@link unknownVariables} says of those that are most likely misspelt. */
export function misspeltVariables(environment: Environment): readonly string[] {
  return [...unknownVariables(environment).values()].filter((text) => text.includes("did you mean"));
}

const warned = new Set<string>();

/** Warns once of each variable that is most likely misspelt. */
export function warnOfMisspeltVariables(environment: Environment): void {
  for (const text of misspeltVariables(environment)) {
    if (warned.has(text)) continue;
    warned.add(text);
    process.emitWarning(text, "CamemWarning");
  }
}
