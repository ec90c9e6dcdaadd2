import { CamemError } from "camem";
import { selectBackend } from "../../scripts/backend.ts";
import { formatSize } from "../../src/options/sizes.ts";
import { readConfig } from "../tiny-llama/config.ts";
import { KvCache } from "../tiny-llama/kv-cache.ts";
import { modelDirectory } from "./engine.ts";
import { parseCommandLine, type ServeOptions, UsageError, usage } from "./options.ts";
import { ExampleServer } from "./server.ts";

async function main(args: readonly string[]): Promise<void> {
  const { options, backend, help } = parseCommandLine(args, process.env);
  if (help) {
    console.log(usage);
    return;
  }
  const neededBytes = KvCache.neededBytes(await readConfig(modelDirectory));
  if (options.kvCacheBytes < neededBytes)
    throw new UsageError(
      `--kv-cache is ${formatSize(options.kvCacheBytes)}, but the model needs at least ${formatSize(neededBytes)}.`,
    );
  if (backend !== undefined) process.env["CAMEM_BACKEND"] = backend;
  const choice = await selectBackend();
  console.log(
    `Backend: ${choice.backend}; ${backend === undefined ? choice.reason : "chosen with --backend"}`,
  );
  const server = await ExampleServer.start(options);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => void stop(server));
  console.log(greeting(server, options));
}

/** The second signal ends the process at once, as no handler is left. */
async function stop(server: ExampleServer): Promise<void> {
  await server.stop();
  process.exit(0);
}

function greeting({ url, adminUrl }: ExampleServer, { models, token }: ServeOptions): string {
  const [model = ""] = models;
  const authorization = token === undefined ? "" : '-H "Authorization: Bearer $CAMEM_TOKEN" ';
  const completion = JSON.stringify({ model, prompt: "Call me Ishmael.", max_tokens: 60 });
  return `Serving ${models.join(" and ")} at ${url}

  curl ${url}v1/completions -d '${completion}'
  curl ${url}metrics | grep device_free
  curl ${authorization}-X POST '${adminUrl}sleep?level=1&model=${model}'
  curl ${authorization}${adminUrl}camem/usage

${adminUrl}camem shows what happens. A request wakes a model that sleeps. Ctrl-C ends the server.`;
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (error instanceof UsageError) {
    console.error(`${error.message}\nRun with --help for all options.`);
    process.exitCode = 2;
  } else if (error instanceof CamemError || (error as { code?: unknown }).code === "EADDRINUSE") {
    console.error((error as Error).message);
    process.exitCode = 1;
  } else if ((error as { syscall?: unknown }).syscall === "listen") {
    console.error(`${(error as Error).message}: give --host an address of this machine.`);
    process.exitCode = 1;
  } else {
    throw error;
  }
}
