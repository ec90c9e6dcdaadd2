import Type, { type Static } from "typebox";
import { CamemError } from "../errors.ts";
import { closedObject, Milliseconds, optional, required, unchecked } from "../options/schemas.ts";
import { validate } from "../options/validate.ts";
import { checkRules } from "../process/rules.ts";
import type { ListenAddress } from "../proxy/listen.ts";
import type { IdleRung } from "../server/engine/idle-sleep.ts";
import { accessProperties } from "../server/http/access.ts";

const OnTouchSchema = Type.Union([Type.Literal("wake"), Type.Literal("hold"), Type.Literal("fail")], {
  description: "wake, hold or fail",
});

const Name = Type.String({
  pattern: "^[\\w.:/-]{1,128}$",
  description: "a name of letters, digits and . : / _ -",
});

const Path = Type.String({ pattern: "^/", description: "a path such as /health" });

const RunOptions = closedObject({
  /** The program and its arguments. */
  command: required(
    Type.Unsafe<readonly [string, ...string[]]>(
      Type.Array(Type.String(), { minItems: 1, description: "a program and its arguments" }),
    ),
  ),
  /** The engine's name; by default the file name of the program. */
  name: optional(Name),
  /** Where the proxy listens; by default there is none. */
  listen: optional(unchecked<ListenAddress>()),
  /** The address of the engine's own server; required with `listen`. */
  upstream: optional(unchecked<URL>()),
  /** When the engine sleeps by itself; by default never. Needs `listen`, since only the proxy sees requests. */
  idle: optional(unchecked<readonly IdleRung[]>()),
  /** A path of the engine that answers 2xx once it is ready; by default any HTTP answer counts. */
  readyPath: optional(Path),
  /** The longest time until the engine is ready, in milliseconds; by default 10 minutes. */
  readyDeadlineMs: optional(Milliseconds),
  /** The longest that a request is held, in milliseconds; by default 30,000. */
  holdDeadlineMs: optional(Milliseconds),
  /** The longest that a sleep waits for requests in flight, in milliseconds; by default 30,000. */
  drainDeadlineMs: optional(Milliseconds),
  /** How long the engine has to end after the first SIGTERM, SIGINT or SIGHUP, in milliseconds; by default 30,000. */
  stopDeadlineMs: optional(Milliseconds),
  /** What requests and the engine's own calls do while its memory sleeps; by default `wake`. */
  onTouch: optional(OnTouchSchema),
  /** Rules for the engine's memory, in order. */
  rules: optional(Type.Unsafe<readonly string[]>(Type.Array(Type.String(), { description: "rules" }))),
  ...accessProperties,
});

/** Options of {@link EngineRun}. */
export interface RunOptions extends Static<typeof RunOptions> {}

/** The names that users of `camem run` write. */
const labels = { name: "--name", readyPath: "--ready-path", onTouch: "--on-touch" };

/** @throws CamemError `INVALID_CONFIG` */
export function checkRunOptions(options: RunOptions): void {
  validate(RunOptions, options, "camem run", "INVALID_CONFIG", { labels });
  const { listen, upstream, idle, rules = [] } = options;
  checkRules(rules);
  const missing = (name: string, by: string, why: string) =>
    new CamemError("INVALID_CONFIG", `${name} is missing; ${by} needs it: ${why}`, { property: name });
  if (listen !== undefined && upstream === undefined)
    throw missing(
      "--upstream",
      "--listen",
      "the address of the engine's own server, such as http://127.0.0.1:8080",
    );
  if (listen === undefined && upstream !== undefined)
    throw missing("--listen", "--upstream", "where the proxy listens, such as :8000");
  if (listen === undefined && idle !== undefined && idle.length > 0)
    throw missing("--listen", "--idle", "only the proxy knows when the engine has no request");
  if (listen !== undefined && upstream !== undefined && isItself(listen, upstream))
    throw new CamemError(
      "INVALID_CONFIG",
      `--upstream is ${upstream.origin}, where --listen listens too; give the engine a port of its own`,
      { property: "--upstream" },
    );
}

function isItself({ hostname, port }: ListenAddress, upstream: URL): boolean {
  const upstreamPort = Number(upstream.port) || (upstream.protocol === "https:" ? 443 : 80);
  const isLocal = /^(localhost|127\..*|\[::1?\]|0\.0\.0\.0)$/.test(upstream.hostname);
  return port !== 0 && port === upstreamPort && (isLocal || upstream.hostname === hostname);
}
