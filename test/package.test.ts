/** The packed tarballs install in an empty folder without a compiler or an install script, and work there. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { denoPath } from "../scripts/deno-path.ts";
import { buildLinkedEngine } from "./engine/linked.ts";
import { freePort } from "./run/run-fixture.ts";

const root = join(import.meta.dir, "..");
const folder = mkdtempSync(join(tmpdir(), "camem-package-"));
const project = join(folder, "project");
/** A PATH with nothing but Bun. */
const bin = join(folder, "bin");
const installed = join(project, "node_modules/camem");
const platformPackage = `camem-linux-${process.arch}`;
const version: string = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version;
const tarballOf = (name: string) => join(folder, `${name}-${version}.tgz`);
const oldestGlibc = 28;

function run(cwd: string, ...command: string[]): string {
  // The environment of a user has only Bun: no Node, Zig, AscendCL or configuration.
  const env = { ...process.env, PATH: bin, CAMEM_BACKEND: "", CAMEM_ACL_LIBRARY: "" };
  const result = Bun.spawnSync(command, { cwd, env });
  const output = `${result.stdout}${result.stderr}`;
  if (result.exitCode !== 0) throw new Error(`${command.join(" ")} ended with ${result.exitCode}: ${output}`);
  return output;
}

beforeAll(async () => {
  mkdirSync(bin);
  symlinkSync(process.execPath, join(bin, "bun"));
  run(root, process.execPath, "scripts/pack.ts", folder);
  mkdirSync(project);
  await Bun.write(join(project, "package.json"), '{ "name": "newcomer", "private": true, "type": "module" }');
  run(project, process.execPath, "add", "--ignore-scripts", tarballOf("camem"), tarballOf(platformPackage));
}, 600_000);

afterAll(() => rmSync(folder, { recursive: true }));

/** Unpacks a tarball into a folder of its own, and returns that. */
function unpacked(name: string): string {
  const target = mkdtempSync(join(folder, `${name}-`));
  run(target, "/usr/bin/env", "PATH=/usr/bin:/bin", "tar", "xzf", tarballOf(name), "--strip-components=1");
  return target;
}

test("a package for each platform has the shim, the preload library and the emulator, built for glibc 2.28 or musl", () => {
  for (const platform of ["linux-x64", "linux-arm64", "linux-x64-musl", "linux-arm64-musl"]) {
    const packed = unpacked(`camem-${platform}`);
    const [os, cpu, libc = "glibc"] = platform.split("-");
    const manifest = JSON.parse(readFileSync(join(packed, "package.json"), "utf8"));
    expect(manifest).toMatchObject({ version, os: [os], cpu: [cpu], libc: [libc] });
    for (const library of ["libcamem.so", "libcamem_preload.so", "emulator/libascendcl.so"]) {
      const content = readFileSync(join(packed, library), "latin1");
      expect(content.includes("libc.so\0")).toBe(libc === "musl");
      if (libc === "musl") continue;
      const minors = [...content.matchAll(/GLIBC_2\.(\d+)/g)].map((match) => Number(match[1]));
      expect(minors.length).toBeGreaterThan(0);
      expect(Math.max(...minors)).toBeLessThanOrEqual(oldestGlibc);
    }
  }
});

test("package contains only what users need and depends only on typebox and yaml", () => {
  const entries = readdirSync(installed).filter((name) => !name.startsWith("."));
  expect(entries.toSorted()).toEqual([
    ...["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md"],
    ...["bench", "dist", "docs", "package.json", "src", "types"],
  ]);
  expect(readdirSync(join(installed, "bench"))).toEqual(["results"]);
  const packages = readdirSync(join(project, "node_modules")).filter((name) => !name.startsWith("."));
  expect(packages.toSorted()).toEqual(["camem", platformPackage, "typebox", "yaml"]);
});

test("package contains every file that its documents link to", () => {
  const documents = ["*.md", "docs/*.md", "bench/results/*.md"].flatMap((pattern) => [
    ...new Bun.Glob(pattern).scanSync(installed),
  ]);
  expect(documents.length).toBeGreaterThan(10);
  for (const path of documents) {
    const links = readFileSync(join(installed, path), "utf8").matchAll(/\]\(([^)\s#]+)/g);
    const files = [...links].map(([, link = ""]) => link).filter((link) => !/^[a-z]+:/.test(link));
    const missing = files.filter((file) => !existsSync(join(installed, dirname(path), file)));
    expect(missing, path).toEqual([]);
  }
});

test("package imports and sleeps on the emulator", async () => {
  await Bun.write(
    join(project, "main.ts"),
    `import { CaMemAllocator } from "camem";
    await using allocator = CaMemAllocator.getInstance({ backend: "emulator" });
    const weights = allocator.malloc(3_000_000, { tag: "weights" });
    weights.fill(7);
    const { offloadedBytes } = await allocator.sleep();
    await allocator.wakeUp();
    console.log(offloadedBytes, weights.read(2_999_999, 1)[0]);`,
  );
  expect(run(project, process.execPath, "main.ts")).toBe("4194304 7\n");
});

test("package runs on Deno, with the page", async () => {
  await Bun.write(
    join(project, "deno.ts"),
    `import { CaMemAllocator } from "camem";
    import { createHandler, SleepController } from "camem/server";
    const allocator = CaMemAllocator.getInstance({ backend: "emulator" });
    allocator.malloc(3_000_000, { tag: "weights" });
    const engine = new SleepController(allocator);
    const handler = createHandler({ engine, loopbackOnly: true });
    const server = Deno.serve({ port: 0, onListen: () => {} }, (request, info) => handler(request, info)!);
    const answer = async (path: string, method: string) =>
      (await fetch(\`http://localhost:\${server.addr.port}\${path}\`, { method })).text();
    console.log(await answer("/sleep", "POST"), (await answer("/camem", "GET")).includes("<html"));
    await server.shutdown();
    await engine.close();
    await allocator.close();`,
  );
  const flags = [
    "--check",
    "--node-modules-dir=manual",
    "--allow-ffi",
    "--allow-read",
    "--allow-env",
    "--allow-net",
  ];
  const output = run(project, denoPath, "run", "--quiet", "--no-prompt", ...flags, "deno.ts");
  expect(output).toBe('{"status":"sleeping","level":1} true\n');
});

test("camem/server imports without side effects and puts an engine to sleep", async () => {
  await Bun.write(
    join(project, "server.ts"),
    `import { createHandler, SleepController } from "camem/server";
    const { CaMemAllocator } = await import("camem");
    await using allocator = CaMemAllocator.getInstance({ backend: "emulator" });
    allocator.malloc(3_000_000, { tag: "weights" });
    await using controller = new SleepController(allocator);
    const handler = createHandler({ engine: controller, token: "secret" });
    const headers = { authorization: "Bearer secret" };
    const response = await handler(new Request("http://localhost/sleep", { method: "POST", headers }));
    console.log(await response?.text(), controller.status.state);`,
  );
  expect(run(project, process.execPath, "server.ts")).toBe('{"status":"sleeping","level":1} asleep\n');
});

test("camem run puts an engine that knows nothing of camem to sleep, and wakes it for a request", async () => {
  const engine = buildLinkedEngine();
  const [port, enginePort] = [freePort(), freePort()];
  const options = ["--listen", `127.0.0.1:${port}`, "--upstream", `http://127.0.0.1:${enginePort}`];
  const main = join(installed, "src/cli/main.ts");
  const child = Bun.spawn(
    [
      process.execPath,
      main,
      "run",
      ...options,
      "--ready-path",
      "/health",
      "--",
      engine,
      "--port",
      `${enginePort}`,
    ],
    {
      cwd: project,
      env: {
        ...process.env,
        PATH: bin,
        LD_LIBRARY_PATH: join(project, "node_modules", platformPackage, "emulator"),
        CAMEM_EMULATOR_DEVICES: "2",
      },
      stdio: ["ignore", "ignore", "ignore"],
    },
  );
  const url = `http://127.0.0.1:${port}`;
  const post = (path: string, body = "") =>
    fetch(`${url}${path}`, { method: "POST", body }).catch(() => undefined);
  while (!(await post("/sleep"))?.ok) await Bun.sleep(50);
  expect(await (await fetch(`${url}/is_sleeping`)).json()).toEqual({ is_sleeping: true });
  const answer = await post("/v1/completions", '{"prompt":"once","max_tokens":4}');
  expect(await answer?.text()).toContain("text_completion");
  expect(await (await fetch(`${url}/is_sleeping`)).json()).toEqual({ is_sleeping: false });
  child.kill("SIGTERM");
  await child.exited;
  rmSync(dirname(engine), { recursive: true });
}, 120_000);

test("package contains the page", async () => {
  await Bun.write(
    join(project, "page.ts"),
    `import { createHandler, SleepController } from "camem/server";
    const { CaMemAllocator } = await import("camem");
    await using allocator = CaMemAllocator.getInstance({ backend: "emulator" });
    await using controller = new SleepController(allocator);
    const handler = createHandler({ engine: controller, token: "secret" });
    for (const path of ["/camem", "/camem/page.css", "/camem/page.js"]) {
      const response = await handler(new Request("http://localhost" + path));
      console.log(response?.status, (await response?.text())?.length !== 0);
    }`,
  );
  expect(run(project, process.execPath, "page.ts")).toBe("200 true\n".repeat(3));
});

test("types check in a strict project without types of Bun and Node", async () => {
  await Bun.write(
    join(project, "types.ts"),
    `import { CaMemAllocator, CamemError, type SleepReport, loadSafetensors } from "camem";
    import { type AdminHandler, admitRequest, createHandler, IdleSleep, type Lease, ModelPool, SleepController } from "camem/server";
    const allocator = CaMemAllocator.getInstance({ backend: "emulator" });
    export const report: SleepReport = await allocator.sleep({ level: 1 });
    export const load = () => loadSafetensors("x", { allocator, tag: "weights" });
    export const address: number = allocator.malloc(1).ptr;
    export const isOurs = (error: unknown): error is CamemError => error instanceof CamemError;
    const engine = new SleepController(allocator, { whenAsleep: "wake" });
    export const handler: AdminHandler = createHandler({ engine: new ModelPool([engine]), loopbackOnly: true });
    export const idle = new IdleSleep(engine, { ladder: [{ after: "5m", level: 1 }] });
    export const lease: Lease | Response = await admitRequest(engine, new Request("http://localhost/"));`,
  );
  const options = ["--strict", "--noEmit", "--module", "nodenext", "--target", "es2022"];
  const tsc = [process.execPath, join(root, "node_modules/typescript/lib/tsc.js"), ...options, "types.ts"];
  expect(run(project, ...tsc)).toBe("");
}, 60_000);

test("code in the README runs unchanged on the backend that it names", async () => {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const code = /```ts\n(.*?)```/s.exec(readme)?.[1] ?? "";
  expect(code).toContain("allocator.close()");
  await Bun.write(
    join(project, "readme.ts"),
    code.replace("getInstance()", 'getInstance({ backend: "emulator" })'),
  );
  copyFileSync(join(root, "examples/tiny-llama/model/model.safetensors"), join(project, "model.safetensors"));
  expect(run(project, process.execPath, "readme.ts")).toMatch(/^freed \d+ bytes in [\d.]+ ms/);
});

test("server of docs/server.md runs unchanged", async () => {
  const page = readFileSync(join(root, "docs/server.md"), "utf8");
  const code = [...page.matchAll(/```ts\n(.*?)```/gs)].map((match) => match[1] ?? "");
  const server = code.find((text) => text.includes("camem/server")) ?? "";
  await Bun.write(
    join(project, "server.ts"),
    `${server.replace("getInstance()", 'getInstance({ backend: "emulator" })').replace("Bun.serve({", "Bun.serve({ port: 0,")}
    const answer = async (path: string, init?: RequestInit) => (await fetch(new URL(path, server.url), init)).text();
    console.log(await answer("/sleep", { method: "POST" }), await answer("/is_sleeping"));
    console.log(await answer("/wake_up", { method: "POST" }), await answer("/"));
    await server.stop();
    admin.close();
    idle.close();
    await engine.close();
    await allocator.close();`,
  );
  const output = run(project, process.execPath, "server.ts");
  expect(output).toContain('"status":"sleeping","level":1} {"is_sleeping":true}');
  expect(output).toContain('"status":"awake"');
  expect(output).toContain("run the model here");
}, 60_000);

test("Node.js says that Bun or Deno is needed", async () => {
  const node = Bun.which("node");
  if (node === null) return console.log("there is no Node.js: its refusal is not tested");
  for (const [entry, name] of [
    ["camem", "CaMemAllocator"],
    ["camem/server", "SleepController"],
    ["camem/metrics", "registerMetrics"],
  ]) {
    await Bun.write(join(project, "node.mjs"), `import { ${name} } from "${entry}"; console.log(${name});`);
    const { exitCode, stderr } = Bun.spawnSync([node, "node.mjs"], { cwd: project });
    expect(exitCode).not.toBe(0);
    expect(stderr.toString()).toContain(
      "Error: camem needs Bun or Deno to call native libraries; this is Node.js",
    );
  }
});

test("camem has no import side effects", async () => {
  await Bun.write(
    join(project, "import.ts"),
    `await import("camem"); await import("camem/server");
    const loaded = await Bun.file("/proc/self/maps").text();
    console.log(loaded.includes("libcamem") ? "loaded a library" : "imported");`,
  );
  expect(run(project, process.execPath, "import.ts")).toBe("imported\n");
});

test("camem/metrics imports without prom-client and names it when used", async () => {
  await Bun.write(
    join(project, "metrics.ts"),
    `import { registerMetrics } from "camem/metrics";
    const engine = [];
    const failure = await registerMetrics({}, { engine, allocator: {} }).catch((error) => error);
    console.log(failure.code, failure.message);`,
  );
  expect(run(project, process.execPath, "metrics.ts")).toMatch(/^LIBRARY_NOT_FOUND .*bun add prom-client\n$/);
});

test("camem command runs from the package", () => {
  const output = run(
    project,
    process.execPath,
    "x",
    "--no-install",
    "camem",
    "doctor",
    "--backend",
    "emulator",
  );
  expect(output).toContain("ready");
});

/** A newcomer's server: hono and elysia on a port each, one engine behind both. */
const newcomer = `
import { CaMemAllocator } from "camem";
import { admitRequest, createHandler, SleepController } from "camem/server";
import { Elysia } from "elysia";
import { Hono } from "hono";

const allocator = CaMemAllocator.getInstance();
const weights = allocator.malloc(3_000_000, { tag: "weights" });
weights.fill(7);
const engine = new SleepController(allocator, { whenAsleep: "wake", whenOperatorAsleep: "wake" });
const admin = createHandler({ engine, loopbackOnly: true, health: true });

const hono = new Hono();
hono.use(async (c, next) => (await admin(c.req.raw, c.env)) ?? next());
hono.get("/byte", async (c) => {
  const lease = await admitRequest(engine, c.req.raw, { server: c.env });
  if (lease instanceof Response) return lease;
  using _running = lease;
  return c.text(String(weights.read(0, 1)[0]));
});
const first = Bun.serve({ port: 0, fetch: hono.fetch });
const second = new Elysia()
  .onRequest(({ request, server }) => admin(request, server ?? undefined))
  .get("/", () => "elysia")
  .listen(0);
console.log(JSON.stringify([first.port, second.server.port]));`;

test("newcomer packs, adds, compiles, mounts in hono and elysia, asks the doctor, and sends requests", async () => {
  // What `bun add hono elysia` would install.
  const modules = join(root, "node_modules");
  for (const name of readdirSync(modules))
    if (!existsSync(join(project, "node_modules", name)))
      symlinkSync(join(modules, name), join(project, "node_modules", name));
  await Bun.write(join(project, "newcomer.ts"), newcomer);
  const program = join(folder, "newcomer");
  run(project, process.execPath, "build", "--compile", "--minify", "--outfile", program, "newcomer.ts");
  const camem = (...args: string[]) => run(project, process.execPath, "x", "--no-install", "camem", ...args);
  expect(JSON.parse(camem("doctor", "--backend", "emulator", "--json"))).toMatchObject({ ready: true });

  const env = { PATH: bin, CAMEM_BACKEND: "emulator", TMPDIR: folder };
  const child = Bun.spawn([program], { cwd: "/", env, stdout: "pipe" });
  try {
    const { value = "" } = await child.stdout.pipeThrough(new TextDecoderStream()).getReader().read();
    const [hono, elysia] = JSON.parse(value).map((port: number) => `http://127.0.0.1:${port}`);
    const curl = (...args: string[]) => run("/", Bun.which("curl") ?? "curl", "-sS", ...args);
    expect(curl("-X", "POST", `${hono}/sleep?level=1`)).toBe('{"status":"sleeping","level":1}');
    expect(curl(`${elysia}/is_sleeping`)).toBe('{"is_sleeping":true}');
    expect(curl(`${hono}/byte`)).toBe("7");
    expect(curl(`${elysia}/is_sleeping`)).toBe('{"is_sleeping":false}');
    expect(curl("-d", '{"level": 1}', `${elysia}/sleep`)).toContain("sleeping");
    expect(curl(`${elysia}/`)).toBe("elysia");
    expect(curl(`${hono}/camem`)).toContain("<!doctype html>");
    expect(camem("status", hono)).toContain("default: asleep at level 1, by operator");
    // The progress follows, on the standard error.
    expect(camem("wake", elysia)).toStartWith("awake\n");
  } finally {
    child.kill();
    await child.exited;
  }
}, 60_000);
