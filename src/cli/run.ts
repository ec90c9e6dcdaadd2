/** `camem run` starts a program whose device memory can sleep. */

import { CamemError } from "../errors.ts";
import { resolveConfig } from "../options/allocator-options.ts";
import { millisecondsOf } from "../options/durations.ts";
import { misspeltVariables } from "../options/variables.ts";
import { parseListenAddress } from "../proxy/listen.ts";
import { parseUpstream } from "../proxy/upstream.ts";
import { connectToRun } from "../run/connect.ts";
import { EngineRun, type RunSurroundings } from "../run/engine-run.ts";
import { parseLadder } from "../run/ladder.ts";
import { checkRunOptions, type RunOptions } from "../run/run-options.ts";
import {
  accessFrom,
  type Command,
  CommandFailure,
  exitStatus,
  optionalOf,
  UsageError,
  usageOf,
} from "./command.ts";
import { passSignals } from "./signals.ts";

export const run: Command = {
  synopsis: "run [options] -- <program> [arguments]",
  purpose: "starts a program whose device memory can sleep, and ends with its exit code",
  details: [
    "It passes signals on. With --listen and --upstream it is also a proxy: requests wake the engine,",
    "and /sleep and /wake_up work. CAMEM_TOKEN protects them; without it only this machine may use them.",
  ],
  options: {
    listen: {
      type: "string",
      value: "<address>",
      description: "where the proxy listens, such as :8000; by default no proxy",
    },
    upstream: {
      type: "string",
      value: "<url>",
      description: "the address of the engine's own server; needed with --listen",
    },
    idle: {
      type: "string",
      value: "<ladder>",
      description: "when to sleep without requests, such as 5m:1,1h:2; by default never",
    },
    name: { type: "string", value: "<name>", description: "the engine's name; by default the program's" },
    "ready-path": {
      type: "string",
      value: "<path>",
      description: "answers 2xx once the engine is ready; by default any answer counts",
    },
    "ready-deadline": {
      type: "string",
      value: "<time>",
      description: "the longest time until the engine is ready; by default 10m",
    },
    "hold-deadline": {
      type: "string",
      value: "<time>",
      description: "the longest that a request is held; by default 30s",
    },
    "drain-deadline": {
      type: "string",
      value: "<time>",
      description: "the longest that a sleep waits for requests in flight; by default 30s",
    },
    "stop-deadline": {
      type: "string",
      value: "<time>",
      description: "how long the engine may take to end after a signal; by default 30s",
    },
    "on-touch": {
      type: "string",
      value: "<what>",
      description: "wake, hold or fail what uses sleeping memory; by default wake",
    },
    rule: {
      type: "string",
      value: "<rule>",
      multiple: true,
      description: "a rule for its memory, may be repeated; by default none",
    },
  },
  examples: [
    "run --listen :8000 --upstream http://127.0.0.1:8080 --idle 5m:1 -- python serve.py",
    "run --rule 'written=host: immutable' -- python serve.py",
  ],
  takesProgram: true,
  run: (values, operands, program) => {
    if (operands.length > 0)
      throw new UsageError(`write "--" before the program: camem run [options] -- ${operands.join(" ")}`);
    const options = usageOf(() => {
      const given = runOptions(values as Values, program);
      checkRunOptions(given);
      // Sleeps of the engine read these variables.
      resolveConfig({}, process.env);
      return given;
    });
    return start(options);
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

/** @throws CommandFailure when there is no such program, or it cannot be started; else as the constructor */
function startEngine(options: RunOptions, surroundings: RunSurroundings): EngineRun {
  try {
    return new EngineRun(options, surroundings);
  } catch (error) {
    if (!(error instanceof CamemError) || error.property !== "program") throw error;
    throw new CommandFailure(error.message, exitStatus.notStarted);
  }
}

async function start(options: RunOptions): Promise<number> {
  // Standard output belongs to the program.
  const report = (line: string) => console.error(`camem: ${line}`);
  for (const text of misspeltVariables(process.env)) report(`warning: ${text}`);
  const engine = startEngine(options, { connect: connectToRun, report });
  const stopPassing = passSignals((signal) => engine.signal(signal));
  if (engine.url !== undefined) report(`serving ${engine.name} at ${engine.url}`);
  try {
    return await engine.ended;
  } finally {
    stopPassing();
  }
}
