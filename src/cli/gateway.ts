/** `camem gateway` serves several engines on shared devices. */

import { messageOf } from "../errors.ts";
import { gatewayJsonSchema } from "../gateway/file-schema.ts";
import { Gateway } from "../gateway/gateway.ts";
import { readGatewayFile } from "../gateway/gateway-config.ts";
import { findProgram } from "../process/program.ts";
import { connectSocket, connectToRun } from "../run/connect.ts";
import { accessFrom, type Command, UsageError } from "./command.ts";
import { passSignals } from "./signals.ts";

export const gateway: Command = {
  synopsis: "gateway <file> [options]",
  purpose: "serves the engines of a YAML file at one address",
  details: [
    "Engines start when they are needed, sleep to make room for each other, and start again when they",
    "have died. CAMEM_TOKEN protects the administrative routes; without it only this machine may use them.",
  ],
  options: {
    check: {
      type: "boolean",
      description: "says whether the file is valid and its programs exist, and serves nothing",
    },
    schema: { type: "boolean", description: "prints the JSON Schema of the file, for editors" },
  },
  examples: ["gateway camem.yaml", "gateway camem.yaml --check", "gateway --schema"],
  run: ({ schema, check }, operands) => {
    if (schema === true) return printSchema(operands);
    const [file, ...others] = operands;
    if (file === undefined || others.length > 0) throw new UsageError("give the gateway one file");
    return check === true ? checkFile(file) : serve(file);
  },
};

async function printSchema(operands: readonly string[]): Promise<number> {
  if (operands.length > 0) throw new UsageError("--schema takes no file");
  console.log(gatewayJsonSchema());
  return 0;
}

async function checkFile(file: string): Promise<number> {
  const { engines } = readGatewayFile(file);
  console.log(`${file} is valid: ${engines.map(({ name }) => name).join(", ")}`);
  for (const { name, origin } of engines) if (origin.kind === "command") warnWithout(name, origin.command[0]);
  return 0;
}

/** Warns when a program does not exist: the file may be for another machine. */
function warnWithout(engine: string, program: string): void {
  try {
    findProgram(program);
  } catch (error) {
    console.error(`camem: warning: ${engine}: ${messageOf(error)}`);
  }
}

async function serve(file: string): Promise<number> {
  const config = readGatewayFile(file);
  const report = (line: string) => console.error(`camem: ${line}`);
  const { hostBudgetBytes: hostBudget, spillFolder: spillDir } = config;
  const remote = { hostBudget, spillDir };
  const running = await Gateway.start(
    config,
    {
      report,
      connect: (runId) => connectToRun(runId, remote),
      connectSocket: (path) => connectSocket(path, remote),
    },
    accessFrom(process.env),
  );
  report(`serving ${config.engines.map(({ name }) => name).join(", ")} at ${running.url}`);
  const ending = Promise.withResolvers<void>();
  let count = 0;
  const stopPassing = passSignals((signal) => {
    if (!/^SIG(TERM|INT|HUP|QUIT)$/.test(signal)) return;
    ending.resolve();
    // Whoever asks again does not want to wait.
    if (++count > 1) running.kill();
  });
  await ending.promise;
  await running[Symbol.asyncDispose]();
  stopPassing();
  return 0;
}
