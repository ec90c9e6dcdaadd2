import { CamemError, formatSize } from "camem";
import { chooseBackend } from "../tiny-llama/backend.ts";
import { readConfig } from "../tiny-llama/config.ts";
import { KvCache } from "../tiny-llama/kv-cache.ts";
import { UsageError } from "../tiny-llama/options.ts";
import { modelDirectory } from "./engine.ts";
import { parseCommandLine, type ServeOptions, usage } from "./options.ts";
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
  const choice = backend === undefined ? await chooseBackend() : { backend, reason: "chosen with --backend" };
  process.env["CAMEM_BACKEND"] = choice.backend;
  console.log(`Backend: ${choice.backend}; ${choice.reason}`);
  const server = await ExampleServer.start(options);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => void stop(server));
  stopAfterScriptRunner(server);
  console.log(greeting(server, options));
}

/** `npm run` and `bun run` pass on no signal when they are killed. */
function stopAfterScriptRunner(server: ExampleServer): void {
  if (process.env["npm_lifecycle_event"] === undefined) return;
  const runner = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid === runner) return;
    clearInterval(timer);
    void stop(server);
  }, 500);
}

/** A second signal ends the process at once, since `once` has removed the handlers. */
async function stop(server: ExampleServer): Promise<void> {
  await server.stop();
  process.exit(0);
}

function greeting(
  { url, adminUrl }: ExampleServer,
  { models, token, apiKey, wakeOperatorSleep }: ServeOptions,
): string {
  const [model = ""] = models;
  const authorization = token === undefined ? "" : '-H "Authorization: Bearer $CAMEM_TOKEN" ';
  const key = apiKey === undefined ? "" : '-H "Authorization: Bearer $CAMEM_API_KEY" ';
  const isSocket = adminUrl.protocol === "unix:";
  const admin = isSocket ? "http://engine/" : adminUrl.href;
  const options = `${isSocket ? `--unix-socket ${adminUrl.pathname} ` : ""}${authorization}`;
  const completion = JSON.stringify({ model, prompt: "Call me Ishmael.", max_tokens: 60 });
  return `Serving ${models.join(" and ")} at ${url}

  curl ${key}${url}v1/completions -d '${completion}'
  curl ${url}metrics | grep device_free
  curl ${options}-X POST '${admin}sleep?level=1&model=${model}'
  curl ${options}${admin}camem/usage
  curl ${options}-X POST '${admin}wake_up?model=${model}'

${isSocket ? "" : `${admin}camem shows memory and transitions. `}${wakeOperatorSleep ? "A request wakes" : "POST /wake_up wakes"} a sleeping model. Ctrl-C stops the server.`;
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
