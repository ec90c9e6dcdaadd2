/** Programs that `bun build` makes contain camem whole: its native libraries and its page. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const folder = mkdtempSync(join(tmpdir(), "camem-bundle-"));
/** Files that programs copy out of themselves. */
const temporary = join(folder, "temporary");
const sources = join(folder, "sources");

const app = `
import { CaMemAllocator } from ${JSON.stringify(join(root, "src/index.ts"))};
import { createHandler, SleepController } from ${JSON.stringify(join(root, "src/server/index.ts"))};
async function main() {
  await using allocator = CaMemAllocator.getInstance({ backend: "emulator" });
  const weights = allocator.malloc(1000, { tag: "weights" });
  weights.fill(5);
  await allocator.sleep();
  await allocator.wakeUp();
  await using controller = new SleepController(allocator);
  const handler = createHandler({ engine: controller, token: "secret" });
  const page = [];
  for (const path of ["", "/page.css", "/page.js", "/client.js", "/dom.js", "/format.js", "/memory-views.js", "/model-view.js"])
    page.push(await (await handler(new Request("http://localhost/camem" + path))).text());
  console.log(weights.read(0, 1)[0], page.filter((text) => text.length > 100).length);
}
main();`;

/** Two Workers attach at once to the memory of the main thread. */
const withWorkers = `
import { CaMemAllocator } from ${JSON.stringify(join(root, "src/index.ts"))};
const allocator = CaMemAllocator.getInstance({ backend: "emulator" });
const workers = [1, 2].map(() => new Worker(process.argv[2] ?? new URL("./worker.ts", import.meta.url).href));
await Promise.all(workers.map((worker) => new Promise((resolve) => (worker.onmessage = resolve))));
console.log(allocator.usage().kv_cache.mappedBytes);
process.exit(0);`;

const worker = `
import { CaMemAllocator } from ${JSON.stringify(join(root, "src/index.ts"))};
CaMemAllocator.getInstance({ backend: "emulator" }).malloc(2 ** 21, { tag: "kv_cache" });
postMessage("allocated");`;

function run(...command: string[]) {
  const env = { ...process.env, CAMEM_BACKEND: "", CAMEM_ACL_LIBRARY: "", TMPDIR: temporary };
  const { exitCode, stdout, stderr } = Bun.spawnSync(command, { cwd: "/", env });
  return { exitCode, output: `${stdout}`, errors: `${stderr}` };
}

function build(...args: string[]): void {
  const { exitCode, errors } = run(process.execPath, "build", ...args.filter((argument) => argument !== ""));
  if (exitCode !== 0) throw new Error(errors);
}

const source = (name: string) => join(sources, name);

beforeAll(async () => {
  await Bun.write(join(temporary, "exists"), "");
  await Bun.write(source("app.ts"), app);
  await Bun.write(source("main.ts"), withWorkers);
  await Bun.write(source("worker.ts"), worker);
});

afterAll(() => rmSync(folder, { recursive: true }));

test.each(["", "--minify", "--minify --bytecode"])(
  "program of bun build --compile %s contains the libraries and the page",
  (options) => {
    const program = join(folder, "app");
    build("--compile", ...options.split(" "), "--outfile", program, source("app.ts"));
    expect(run(program)).toEqual({ exitCode: 0, output: "5 8\n", errors: "" });
  },
);

test.each(["", "--minify"])("bundle of bun build --target=bun %s contains them", (options) => {
  const outdir = join(folder, `out${options}`);
  build("--target=bun", ...options.split(" "), "--outdir", outdir, source("app.ts"));
  expect(run(process.execPath, join(outdir, "app.js"))).toEqual({ exitCode: 0, output: "5 8\n", errors: "" });
});

test("Workers of a compiled program share its memory", () => {
  const program = join(folder, "workers");
  build("--compile", "--outfile", program, source("main.ts"), source("worker.ts"));
  expect(run(program)).toEqual({ exitCode: 0, output: `${2 * 2 ** 21}\n`, errors: "" });
});

test("command line tool of bun build --compile contains the library to preload", () => {
  const program = join(folder, "camem");
  build("--compile", "--outfile", program, join(root, "src/cli/main.ts"));
  const { exitCode, output } = run(program, "run", "--", "printenv", "LD_PRELOAD");
  expect({ exitCode, path: output.trim() }).toEqual({
    exitCode: 0,
    path: expect.stringMatching(new RegExp(`^${temporary}/.*/libcamem_preload\\.so$`)),
  });
});

test("compiled program leaves one private copy of each library for the next run", () => {
  const [owned = ""] = readdirSync(temporary).filter((name) => name !== "exists");
  const copies = join(temporary, owned);
  expect(statSync(copies).mode & 0o777).toBe(0o700);
  const files = readdirSync(copies).flatMap((hash) => readdirSync(join(copies, hash)));
  expect(files.toSorted()).toEqual(["libascendcl.so", "libcamem.so", "libcamem_preload.so"]);
});

test("compiled program refuses a folder for its libraries that others can write to", async () => {
  const program = join(folder, "app");
  const open = join(folder, "open");
  await Bun.write(join(open, "exists"), "");
  const [owned = ""] = readdirSync(temporary).filter((name) => name !== "exists");
  Bun.spawnSync(["mkdir", "-m", "777", join(open, owned)]);
  const env = { ...process.env, TMPDIR: open };
  const { exitCode, stderr } = Bun.spawnSync([program], { cwd: "/", env });
  expect(exitCode).toBe(1);
  expect(`${stderr}`).toContain("is not a folder that only this user can write to; set TMPDIR");
});

test("bundle without its files names them and --external camem", () => {
  const outdir = join(folder, "incomplete");
  build("--target=bun", "--outdir", outdir, source("app.ts"));
  for (const name of readdirSync(outdir)) if (name.endsWith(".so")) rmSync(join(outdir, name));
  const { exitCode, errors } = run(process.execPath, join(outdir, "app.js"));
  expect(exitCode).toBe(1);
  expect(errors).toContain("LIBRARY_NOT_FOUND");
  expect(errors).toContain(`at ${outdir}/lib`);
  expect(errors).toContain("--external camem");
});
