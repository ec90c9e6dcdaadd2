/** `camem run` starts a program whose device memory can sleep. */

import { millisecondsOf } from "../options/durations.ts";
import { parseListenAddress } from "../proxy/reverse-proxy.ts";
import { parseUpstream } from "../proxy/upstream.ts";
import { connectToRun } from "../run/connect.ts";
import { EngineRun } from "../run/engine-run.ts";
import { parseLadder } from "../run/ladder.ts";
import type { RunOptions } from "../run/run-options.ts";
import { accessFrom, type Command, optionalOf, UsageError } from "./command.ts";
import { passSignals } from "./signals.ts";

export const run: Command = {
  synopsis: "run [options] -- <program> [arguments]",
  description: [
    "starts a program whose device memory can sleep, passes signals on, and ends with its exit code;",
    "--listen :8000 --upstream http://127.0.0.1:8080   a proxy: requests wake the engine, /sleep and /wake_up work",
    "--idle 5m:1,1h:2         sleep at these levels after these times without requests",
    "--name <name>            the engine's name; by default the program's",
    "--ready-path /health     a path that answers 2xx once the engine is ready",
    "--ready-deadline 10m  --hold-deadline 30s  --drain-deadline 30s  --stop-deadline 30s",
    "--on-touch wake|hold|fail   what requests and the engine do while its memory sleeps",
    "--rule 'written=host: immutable'   a rule for its memory; may be repeated",
  ],
  options: {
    listen: { type: "string" },
    upstream: { type: "string" },
    idle: { type: "string" },
    name: { type: "string" },
    "ready-path": { type: "string" },
    "ready-deadline": { type: "string" },
    "hold-deadline": { type: "string" },
    "drain-deadline": { type: "string" },
    "stop-deadline": { type: "string" },
    "on-touch": { type: "string" },
    rule: { type: "string", multiple: true },
  },
  takesProgram: true,
  run: (values, operands, program) => {
    if (operands.length > 0)
      throw new UsageError(`write "--" before the program: camem run [options] -- ${operands.join(" ")}`);
    return start(runOptions(values as Values, program));
  },
};

interface Values {
  readonly listen?: string;
  readonly upstream?: string;
  readonly idle?: string;
  readonly name?: string;
  readonly "ready-path"?: string;
  readonly "ready-deadline"?: string;
  readonly "hold-deadline"?: string;
  readonly "drain-deadline"?: string;
  readonly "stop-deadline"?: string;
  readonly "on-touch"?: string;
  readonly rule?: readonly string[];
}

function runOptions(values: Values, [program, ...args]: readonly string[]): RunOptions {
  if (program === undefined) throw new UsageError('say which program, after "--"');
  const deadline = (name: keyof Values & `${string}-deadline`) =>
    optionalOf(values[name], (text) => millisecondsOf(text, `--${name}`));
  return {
    command: [program, ...args],
    name: values.name,
    listen: optionalOf(values.listen, (text) => parseListenAddress(text, "--listen")),
    upstream: optionalOf(values.upstream, (text) => parseUpstream(text, "--upstream")),
    idle: optionalOf(values.idle, (text) => parseLadder(text, "--idle")),
    readyPath: values["ready-path"],
    readyDeadlineMs: deadline("ready-deadline"),
    holdDeadlineMs: deadline("hold-deadline"),
    drainDeadlineMs: deadline("drain-deadline"),
    stopDeadlineMs: deadline("stop-deadline"),
    // The options of the run refuse anything else.
    onTouch: values["on-touch"] as RunOptions["onTouch"],
    rules: values.rule,
    ...accessFrom(process.env),
  };
}

async function start(options: RunOptions): Promise<number> {
  // Standard output belongs to the program.
  const report = (line: string) => console.error(`camem: ${line}`);
  const engine = new EngineRun(options, { connect: connectToRun, report });
  const stopPassing = passSignals((signal) => engine.signal(signal));
  if (engine.url !== undefined) report(`serving ${engine.name} at ${engine.url}`);
  try {
    return await engine.ended;
  } finally {
    stopPassing();
  }
}
