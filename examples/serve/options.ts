import { parseArgs } from "node:util";
import { type IdleRung, parseDuration } from "camem/server";
import { type DemoOptions, parseBackend, parseKvCacheBytes, UsageError } from "../tiny-llama/options.ts";

export const usage = `Usage: bun run serve [options]

Serves a small language model with sleep mode: OpenAI's completions and vLLM's sleep endpoints.

  --models <names>       comma-separated; each is a copy of the example model    (default: tiny-llama,tiny-llama-twin)
  --port <number>        0 takes a free one                                      (default: 8000)
  --host <address>       where to listen                                         (default: 127.0.0.1)
  --admin-port <number>  the sleep endpoints on a listener of their own          (default: the same listener)
  --admin-socket <path>  the sleep endpoints on a Unix socket, for servers behind a proxy
  --idle <ladder>        sleep when idle, such as 5m:1,1h:2   ($CAMEM_IDLE)      (default: never)
  --residency <time>     how long a model that woke serves before it makes room for others  (default: 1s)
  --wake-operator-sleep  a request also ends a sleep by POST /sleep              (default: it waits for POST /wake_up)
  --when-paused <what>   hold or refuse requests to a paused model               (default: hold)
  --kv-cache <size>      size of each model's key-value cache                    (default: 64MiB)
  --log                  print a line for each request
  --backend <name>       ascend or emulator              (default: the NPU if there is one, otherwise the emulator)
  --help                 print this text

The sleep endpoints accept requests from this machine only. If CAMEM_TOKEN is set in the environment, they accept every request
that sends this secret: Authorization: Bearer <secret>. With CAMEM_API_KEY, OpenAI's routes require that key in the same way.

Examples:
  bun run serve
  bun run serve --port 9000 --idle 5m:1,1h:2 --log
  CAMEM_TOKEN=secret bun run serve --host 0.0.0.0 --admin-port 8001`;

export interface ServeOptions {
  readonly models: readonly string[];
  readonly hostname: string;
  readonly port: number;
  readonly adminPort: number | undefined;
  readonly adminSocket: string | undefined;
  readonly token: string | undefined;
  readonly apiKey: string | undefined;
  readonly idle: readonly IdleRung[];
  readonly residency: string;
  readonly wakeOperatorSleep: boolean;
  readonly whenPaused: "hold" | "refuse";
  readonly kvCacheBytes: number;
  readonly log: boolean;
}

interface CommandLine {
  readonly options: ServeOptions;
  readonly backend: DemoOptions["backend"];
  readonly help: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;

export function parseCommandLine(args: readonly string[], environment: Environment): CommandLine {
  const values = parseValues(args);
  if (values["admin-port"] !== undefined && values["admin-socket"] !== undefined)
    throw new UsageError("give --admin-port or --admin-socket, not both.");
  if (values["admin-port"] !== undefined && values["admin-port"] === values.port && values.port !== "0")
    throw new UsageError(`--admin-port is ${values.port}, where --port listens too; give another port.`);
  return {
    options: {
      models: parseModels(values.models),
      hostname: values.host,
      port: parsePort("--port", values.port),
      adminPort:
        values["admin-port"] === undefined ? undefined : parsePort("--admin-port", values["admin-port"]),
      adminSocket: values["admin-socket"],
      token: parseSecret("CAMEM_TOKEN", environment),
      apiKey: parseSecret("CAMEM_API_KEY", environment),
      idle:
        values.idle === undefined
          ? parseLadder("CAMEM_IDLE", environment["CAMEM_IDLE"] ?? "")
          : parseLadder("--idle", values.idle),
      residency: parseTime("--residency", values.residency),
      wakeOperatorSleep: values["wake-operator-sleep"],
      whenPaused: parseWhenPaused(values["when-paused"]),
      kvCacheBytes: parseKvCacheBytes(values["kv-cache"]),
      log: values.log,
    },
    backend: parseBackend(values.backend),
    help: values.help,
  };
}

function parseValues(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        models: { type: "string", default: "tiny-llama,tiny-llama-twin" },
        port: { type: "string", default: "8000" },
        host: { type: "string", default: "127.0.0.1" },
        "admin-port": { type: "string" },
        "admin-socket": { type: "string" },
        idle: { type: "string" },
        residency: { type: "string", default: "1s" },
        "wake-operator-sleep": { type: "boolean", default: false },
        "when-paused": { type: "string", default: "hold" },
        "kv-cache": { type: "string", default: "64MiB" },
        log: { type: "boolean", default: false },
        backend: { type: "string" },
        help: { type: "boolean", default: false },
      },
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function parseModels(text: string): string[] {
  const names = text.split(",").map((name) => name.trim());
  if (names.every((name) => /^[\w.-]{1,60}$/.test(name)) && new Set(names).size === names.length)
    return names;
  throw new UsageError(`--models is "${text}": give names of letters, digits, ".", "_" and "-", each once.`);
}

function parsePort(option: string, text: string): number {
  const port = Number(text);
  if (/^\d+$/.test(text) && port <= 65_535) return port;
  throw new UsageError(`${option} is "${text}": give a number from 0 to 65535.`);
}

function parseWhenPaused(text: string): ServeOptions["whenPaused"] {
  if (text === "hold" || text === "refuse") return text;
  throw new UsageError(`--when-paused is "${text}": give hold or refuse.`);
}

function parseSecret(name: string, environment: Environment): string | undefined {
  const text = environment[name];
  if (text === undefined || text === "") return undefined;
  if (/^[!-~]+$/.test(text)) return text;
  throw new UsageError(`${name} is not printable ASCII without spaces: choose another secret.`);
}

function parseTime(option: string, text: string): string {
  if (parseDuration(text) !== undefined) return text;
  throw new UsageError(`${option} has "${text}": give a time such as 30s, 5m or 1h.`);
}

function parseLadder(option: string, text: string): IdleRung[] {
  if (text.trim() === "") return [];
  const rungs = text.split(",").map((rung): IdleRung => {
    const match = /^\s*([^:]+):([12])\s*$/.exec(rung);
    if (match?.[1] === undefined)
      throw new UsageError(`${option} has "${rung}": give a time and a level, 1 or 2, such as 5m:1.`);
    return { after: parseTime(option, match[1]), level: match[2] === "1" ? 1 : 2 };
  });
  const [first, second] = rungs;
  const inOrder = (a: IdleRung, b: IdleRung) =>
    a.level < b.level && (parseDuration(a.after) ?? 0) < (parseDuration(b.after) ?? 0);
  if (rungs.length > 2 || (first && second && !inOrder(first, second)))
    throw new UsageError(`${option} is "${text}": give level 1 first and level 2 later, such as 5m:1,1h:2.`);
  return rungs;
}
