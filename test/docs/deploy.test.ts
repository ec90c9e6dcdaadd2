/**
 * Checks docs/deploy.md: its server runs, its manifests match that server, and the server answers the calls in its tables, sent
 * byte for byte like their programs send them.
 */

import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { EngineStatus } from "camem/server";

const root = join(import.meta.dir, "../..");
const folder = mkdtempSync(join(tmpdir(), "camem-deploy-"));
const page = readFileSync(join(root, "docs/deploy.md"), "utf8");
const key = "a-secret";

/** The reader's own part: an engine whose text is correct only if its weights are. */
const engineCode = `
import type { CaMemAllocator, DeviceBuffer } from "camem";
let weights: DeviceBuffer | undefined;
export async function load(allocator: CaMemAllocator): Promise<void> {
  weights ??= allocator.malloc(3_000_000, { tag: "weights" });
  weights.fill(7);
}
export async function complete(_lease: unknown, prompt: string): Promise<string> {
  // Longer than the grace period of the server.
  if (prompt === "slow") await new Promise<void>((resolve) => process.once("SIGTERM", () => setTimeout(resolve)));
  return prompt + " " + weights?.read(2_999_999, 1)[0];
}`;

interface Started {
  readonly ports: number[];
  readonly child: Bun.Subprocess<"ignore", "pipe", "inherit">;
}

let started: Started | undefined;

/** Runs the server of deploy.md. Port 0 takes a free port. */
async function start(env: Record<string, string>): Promise<Started> {
  const child = Bun.spawn([process.execPath, "server.ts"], {
    cwd: folder,
    env: { ...process.env, PORT: "0", ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  for await (const chunk of child.stdout) {
    output += new TextDecoder().decode(chunk);
    if (output.includes("\n")) break;
  }
  started = { ports: JSON.parse(output).ports, child };
  return started;
}

async function end(): Promise<number> {
  started?.child.kill("SIGTERM");
  const code = (await started?.child.exited) ?? 0;
  started = undefined;
  return code;
}

interface Answer {
  readonly status: number;
  readonly body: string;
}

/** Sends raw lines and a body, and reads one response. */
function send(port: number, lines: readonly string[], body = ""): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  let text = "";
  const socket = connect(port, "127.0.0.1", () => socket.write(`${lines.join("\r\n")}\r\n\r\n${body}`));
  socket.setEncoding("latin1");
  socket.on("error", reject);
  socket.on("data", (data) => {
    text += data;
    const [head = "", ...rest] = text.split("\r\n\r\n");
    const answer = rest.join("\r\n\r\n");
    const length = Number(/^content-length: (\d+)/im.exec(head)?.[1] ?? Number.NaN);
    if (rest.length === 0 || answer.length < length) return;
    socket.destroy();
    resolve({ status: Number(head.split(" ")[1]), body: answer });
  });
  socket.on("close", () => reject(new Error(`closed after ${JSON.stringify(text)}`)));
  return promise;
}

type Send = (method: string, path: string, body?: string) => Promise<Answer>;

const json = "Content-Type: application/json";

const client =
  (port: number, headersOf: (method: string, body: string) => readonly string[]): Send =>
  (method, path, body = "") =>
    send(port, [`${method} ${path} HTTP/1.1`, `Host: 127.0.0.1:${port}`, ...headersOf(method, body)], body);

/** Sends like Python's requests, which the router's discovery and the adapters of SGLang and verl use. */
const requests = (port: number, ...headers: string[]) =>
  client(port, (_method, body) => [
    "User-Agent: python-requests/2.32.3",
    "Accept-Encoding: gzip, deflate",
    "Accept: */*",
    "Connection: keep-alive",
    ...headers,
    ...(body === "" ? [] : [`Content-Length: ${body.length}`, json]),
  ]);

/** Sends like aiohttp, which the router's proxy and kvcached's controller use. */
const aiohttp = (port: number, ...headers: string[]) =>
  client(port, (method, body) => [
    ...headers,
    "Accept: */*",
    "Accept-Encoding: gzip, deflate",
    "User-Agent: Python/3.12 aiohttp/3.11.11",
    ...(method === "GET" ? [] : [`Content-Length: ${body.length}`]),
    ...(method === "GET" ? [] : [body === "" ? "Content-Type: application/octet-stream" : json]),
  ]);

/** Sends like Go's net/http, which llama-swap's wrapper and llmsnap use. */
const go = (port: number, ...headers: string[]) =>
  client(port, (method, body) => [
    "User-Agent: Go-http-client/1.1",
    ...(method === "GET" ? [] : [`Content-Length: ${body.length}`]),
    ...headers,
    "Accept-Encoding: gzip",
  ]);

async function complete(port: number, prompt: string): Promise<[number, string | undefined]> {
  const body = JSON.stringify({ model: "qwen", prompt });
  const response = await fetch(`http://127.0.0.1:${port}/v1/completions`, { method: "POST", body });
  const answer = (await response.json()) as { choices?: { text: string }[] };
  return [response.status, answer.choices?.[0]?.text];
}

interface EngineUsage {
  readonly status: EngineStatus;
  readonly tags: { readonly weights: object };
}

async function usageOf(port: number): Promise<EngineUsage> {
  const headers = { authorization: `Bearer ${key}` };
  const usage = (await (await fetch(`http://127.0.0.1:${port}/camem/usage`, { headers })).json()) as {
    engines: { qwen: EngineUsage };
  };
  return usage.engines.qwen;
}

const asleep = { mappedBytes: 0, hostBytes: 4 * 2 ** 20, state: "asleep" };
const dropped = { mappedBytes: 0, hostBytes: 0, discardedBytes: 4 * 2 ** 20, state: "asleep" };

// biome-ignore lint/suspicious/noExplicitAny: manifests are as deep as their authors want them
type Manifest = any;

/** The YAML blocks of the page under one heading, document by document. */
function manifestsOf(heading: string): Manifest[] {
  const section = page.split(/^## /m).find((text) => text.startsWith(heading)) ?? "";
  const blocks = [...section.matchAll(/```yaml\n(.*?)```/gs)];
  return blocks.flatMap((block) => Bun.YAML.parse(block[1] ?? "") as Manifest);
}

const ofKind = (manifests: readonly Manifest[], kind: string): Manifest =>
  manifests.find((manifest) => manifest.kind === kind);

const environmentOf = (container: Manifest) =>
  Object.fromEntries(
    container.env.flatMap(({ name, value }: Manifest) => (value === undefined ? [] : [[name, value]])),
  );

beforeAll(async () => {
  const code = /```ts\n(.*?)```/s.exec(page)?.[1] ?? "";
  await Bun.write(join(folder, "server.ts"), code);
  await Bun.write(join(folder, "engine.ts"), engineCode);
  mkdirSync(join(folder, "node_modules"));
  symlinkSync(root, join(folder, "node_modules/camem"));
});
afterEach(() => end());
afterAll(() => rmSync(folder, { recursive: true }));

describe("Kubernetes", () => {
  const manifests = manifestsOf("Kubernetes");
  const pod = ofKind(manifests, "Deployment").spec.template;
  const [container] = pod.spec.containers;
  const ports = new Map<string, number>(
    container.ports.map(({ name, containerPort }: Manifest) => [name, containerPort]),
  );

  /** The server with the environment of the manifest, and a way to send its probes. */
  async function deploy(changes: Record<string, string> = {}) {
    const environment = environmentOf(container);
    expect([environment["PORT"], environment["ADMIN_PORT"]]).toEqual([
      String(ports.get("http")),
      String(ports.get("admin")),
    ]);
    const server = await start({ ...environment, PORT: "0", ADMIN_PORT: "0", CAMEM_TOKEN: key, ...changes });
    const [http = 0, admin = 0] = server.ports;
    const real: Record<string, number> = { http, admin };
    const probe = async (name: "startupProbe" | "livenessProbe" | "readinessProbe") => {
      const { path, port } = container[name].httpGet;
      return (
        await send(real[port] ?? 0, [`GET ${path} HTTP/1.1`, "Host: 10.0.0.7", "User-Agent: kube-probe/1.31"])
      ).status;
    };
    const probes = async () => [
      await probe("startupProbe"),
      await probe("livenessProbe"),
      await probe("readinessProbe"),
    ];
    const operate = (path: string) =>
      fetch(`http://127.0.0.1:${admin}${path}`, {
        method: "POST",
        headers: { authorization: `Bearer ${key}` },
      });
    return { http, admin, probes, operate };
  }

  test("Kubernetes manifests name only files and ports that exist", () => {
    const [secret, service, policy] = ["Secret", "Service", "NetworkPolicy"].map((kind) =>
      ofKind(manifests, kind),
    );
    const { matchLabels } = ofKind(manifests, "Deployment").spec.selector;
    expect(pod.metadata.labels).toMatchObject(matchLabels);
    expect(pod.metadata.labels).toMatchObject(service.spec.selector);
    expect(pod.metadata.labels).toMatchObject(policy.spec.podSelector.matchLabels);
    expect(service.spec.ports.map(({ targetPort }: Manifest) => targetPort)).toEqual(["http"]);
    const [everybody, operators] = policy.spec.ingress;
    expect([everybody.from, everybody.ports]).toEqual([undefined, [{ port: ports.get("http") }]]);
    expect(operators.from).toHaveLength(1);
    expect(operators.ports).toEqual([{ port: ports.get("admin") }]);
    const { secretKeyRef } = container.env.find(({ name }: Manifest) => name === "CAMEM_TOKEN").valueFrom;
    expect([secretKeyRef.name, Object.keys(secret.stringData)]).toEqual([
      secret.metadata.name,
      [secretKeyRef.key],
    ]);
    const { requests: asked, limits } = container.resources;
    expect(limits["huawei.com/Ascend910"]).toBe(asked["huawei.com/Ascend910"]);
    expect(Number.parseInt(limits.memory, 10)).toBeGreaterThan(
      Number.parseInt(environmentOf(container)["CAMEM_HOST_BUDGET"], 10),
    );
    const [, seconds] = container.lifecycle.preStop.exec.command;
    expect(pod.spec.terminationGracePeriodSeconds).toBeGreaterThan(Number(seconds));
  });

  test("readiness probe fails only when an operator put the engine to sleep", async () => {
    const { http, admin, probes, operate } = await deploy();
    expect(await probes()).toEqual([200, 200, 200]);
    await operate("/sleep");
    expect((await usageOf(admin)).tags.weights).toMatchObject(asleep);
    expect(await probes()).toEqual([200, 200, 503]);
    await operate("/wake_up");
    expect(await probes()).toEqual([200, 200, 200]);
    expect(await complete(http, "hello")).toEqual([200, "hello 7"]);
  });

  test("readiness probe succeeds when the engine fell asleep idle, and the next request wakes it", async () => {
    const { http, admin, probes } = await deploy({ IDLE_AFTER: "1ms" });
    while ((await usageOf(admin)).status.state !== "asleep") await Bun.sleep(1);
    expect((await usageOf(admin)).status.reason).toBe("idle");
    expect(await probes()).toEqual([200, 200, 200]);
    expect(await complete(http, "hello")).toEqual([200, "hello 7"]);
  });

  test("readiness probe fails and liveness probe succeeds when a sleeping engine refuses requests", async () => {
    const { http, probes, operate } = await deploy({ WHEN_ASLEEP: "refuse" });
    await operate("/sleep");
    expect(await probes()).toEqual([200, 200, 503]);
    expect(await complete(http, "hello")).toEqual([503, undefined]);
  });

  test("Service port has no administrative route", async () => {
    const { http } = await deploy();
    for (const path of ["/sleep", "/wake_up", "/is_sleeping", "/camem", "/camem/usage", "/health"])
      expect((await fetch(`http://127.0.0.1:${http}${path}`)).status).toBe(404);
  });

  test("server exits on SIGTERM after its requests end, asleep or awake", async () => {
    const { http, admin } = await deploy();
    const slow = complete(http, "slow");
    while ((await usageOf(admin)).status.requests.running === 0) await Bun.sleep(1);
    expect(await Promise.all([slow, end()])).toEqual([[200, "slow 7"], 0]);
    const { operate } = await deploy();
    await operate("/sleep?level=2");
    expect(await end()).toBe(0);
  });
});

describe("vLLM's production-stack router", () => {
  const manifests = manifestsOf("vLLM's production-stack router");
  const authorization = `Authorization: Bearer ${key}`;
  const requestId = "X-Request-Id: 7b0a2a6e-6a6f-4a55-9a3c-0f6f1f6f2b11";

  async function route(changes: Record<string, string> = {}) {
    const { ports } = await start({ CAMEM_TOKEN: key, ...changes });
    const [port = 0] = ports;
    return { port, discover: requests(port, authorization), proxy: aiohttp(port, requestId, authorization) };
  }

  test("router selects the pods of the Deployment with their port and token", () => {
    const deployment = ofKind(manifestsOf("Kubernetes"), "Deployment");
    const [engine] = deployment.spec.template.spec.containers;
    const router = ofKind(manifests, "Deployment").spec.template.spec;
    const args = Object.fromEntries(
      router.containers[0].args.map((argument: string) => argument.replace(/^--/, "").split(/=(.*)/s)),
    );
    const [label, value] = args["k8s-label-selector"].split("=");
    expect(deployment.spec.template.metadata.labels[label]).toBe(value);
    expect(args["k8s-port"]).toBe(environmentOf(engine)["PORT"]);
    const keyOf = (container: Manifest, name: string) =>
      container.env.find((variable: Manifest) => variable.name === name).valueFrom;
    expect(keyOf(router.containers[0], "VLLM_API_KEY")).toEqual(keyOf(engine, "CAMEM_TOKEN"));
    expect(ofKind(manifests, "RoleBinding").subjects[0].name).toBe(router.serviceAccountName);
    expect(ofKind(manifests, "Role").rules[0].verbs).toContain("patch");
    // As the page says: under this name the router always routes, and a request wakes.
    expect(engine.name).not.toBe("vllm");
  });

  test("router discovers the engine, puts it to sleep and wakes it", async () => {
    const { port, discover, proxy } = await route();
    const models = await discover("GET", "/v1/models");
    expect(models.status).toBe(200);
    expect(JSON.parse(models.body).data.map(({ id }: { id: string }) => id)).toEqual(["qwen"]);
    const isSleeping = async () => {
      const answers = [await discover("GET", "/is_sleeping"), await proxy("GET", "/is_sleeping")];
      expect(answers.map(({ status }) => status)).toEqual([200, 200]);
      return answers.map(({ body }) => JSON.parse(body).is_sleeping);
    };
    expect(await isSleeping()).toEqual([false, false]);
    expect((await proxy("POST", "/sleep")).status).toBe(200);
    expect(await isSleeping()).toEqual([true, true]);
    expect((await usageOf(port)).tags.weights).toMatchObject(asleep);
    expect((await proxy("POST", "/wake_up")).status).toBe(200);
    expect(await isSleeping()).toEqual([false, false]);
    expect((await proxy("POST", "/sleep?level=2&mode=wait")).status).toBe(200);
    expect((await usageOf(port)).tags.weights).toMatchObject(dropped);
    expect((await proxy("POST", "/wake_up")).status).toBe(200);
    expect(await complete(port, "hello")).toEqual([200, "hello 7"]);
    // The proxy forwards the client's body unchanged.
    expect((await proxy("POST", "/sleep", '{"level": 1}')).status).toBe(200);
    expect((await usageOf(port)).status.level).toBe(1);
  });

  test("router takes the engine for awake when its key is missing", async () => {
    const { port } = await route();
    expect((await requests(port)("GET", "/is_sleeping")).status).toBe(401);
    expect((await requests(port)("GET", "/v1/models")).status).toBe(200);
  });
});

describe("llama-swap", () => {
  const [swap, snap] = manifestsOf("llama-swap").map(({ models }) => models.qwen);

  async function serveFor(environment: readonly string[]) {
    const env = Object.fromEntries(environment.map((variable) => variable.split("=")));
    const { ports } = await start({ ...env, PORT: "0" });
    return { port: ports[0] ?? 0 };
  }

  test("llama-swap configuration names one port throughout", () => {
    const port = swap.env.find((variable: string) => variable.startsWith("PORT=")).slice(5);
    for (const command of [swap.cmd, swap.cmdStop])
      expect(/--vllm-url (\S+)/.exec(command)?.[1]).toBe(`http://127.0.0.1:${port}`);
    expect(swap.env.some((variable: string) => variable.startsWith("CAMEM_TOKEN"))).toBe(false);
  });

  test("llama-swap wrapper wakes the engine and puts it to sleep without a token", async () => {
    const { port } = await serveFor(swap.env);
    const wrapper = go(port);
    const wake = async () => {
      expect((await wrapper("GET", "/health")).status).toBe(200);
      expect((await go(port, json)("POST", "/wake_up", "")).status).toBe(200);
      expect((await wrapper("GET", "/health")).status).toBe(200);
    };
    await wake();
    expect(await complete(port, "hello")).toEqual([200, "hello 7"]);
    expect((await go(port, json)("POST", "/sleep", '{"level":1}')).status).toBe(200);
    expect((await wrapper("GET", "/health")).status).toBe(200);
    expect((await usageOf(port)).tags.weights).toMatchObject(asleep);
    expect(await complete(port, "hello")).toEqual([503, undefined]);
    await wake();
    expect(await complete(port, "hello")).toEqual([200, "hello 7"]);
  });

  test("llama-swap proxy reaches completions and no administrative route", async () => {
    const { port } = await serveFor(swap.env);
    const proxied = go(port, "X-Forwarded-For: 127.0.0.1", json);
    expect((await proxied("POST", "/v1/completions", '{"prompt":"hello"}')).status).toBe(200);
    expect((await proxied("POST", "/sleep", '{"level":1}')).status).toBe(403);
    expect((await proxied("GET", "/camem")).status).toBe(403);
    expect((await usageOf(port)).status.state).toBe("awake");
  });

  test("llmsnap configuration names existing routes", async () => {
    expect(snap.proxy).toContain(":$" + "{PORT}");
    const { port } = await serveFor(snap.cmd.split(" ").filter((word: string) => word.includes("=")));
    const call = ({ endpoint, method }: Manifest) => go(port)(method, endpoint);
    expect((await go(port)("GET", snap.checkEndpoint)).status).toBe(200);
    for (const endpoint of snap.sleepEndpoints) expect((await call(endpoint)).status).toBe(200);
    expect((await usageOf(port)).tags.weights).toMatchObject(asleep);
    for (const endpoint of snap.wakeEndpoints) expect((await call(endpoint)).status).toBe(200);
    expect(await complete(port, "hello")).toEqual([200, "hello 7"]);
    expect((await go(port)("POST", "/reset_prefix_cache")).status).toBe(501);
  });
});

describe("kvcached and SGLang's clients", () => {
  test("server accepts the requests of kvcached's controller, with its level as text", async () => {
    const { ports } = await start({});
    const [port = 0] = ports;
    const call = aiohttp(port);
    expect((await call("POST", "/sleep", '{"level": "1"}')).status).toBe(200);
    expect((await usageOf(port)).tags.weights).toMatchObject(asleep);
    expect(JSON.parse((await call("GET", "/is_sleeping")).body).is_sleeping).toBe(true);
    expect((await call("POST", "/wake_up")).status).toBe(200);
    expect(JSON.parse((await call("GET", "/is_sleeping")).body).is_sleeping).toBe(false);
    expect((await call("POST", "/release_memory_occupation")).status).toBe(200);
    expect((await usageOf(port)).tags.weights).toMatchObject(asleep);
    expect((await call("POST", "/resume_memory_occupation")).status).toBe(200);
    expect(await complete(port, "hello")).toEqual([200, "hello 7"]);
  });

  test("server accepts the requests of SGLang's and verl's adapters", async () => {
    const { ports } = await start({});
    const [port = 0] = ports;
    const call = requests(port);
    for (const body of ["{}", '{"tags": ["weights"]}']) {
      const released = await call("POST", "/release_memory_occupation", body);
      expect([released.status, JSON.parse(released.body)]).toEqual([200, null]);
      expect((await usageOf(port)).tags.weights).toMatchObject(asleep);
      const resumed = await call("POST", "/resume_memory_occupation", body);
      expect([resumed.status, JSON.parse(resumed.body)]).toEqual([200, null]);
      expect(await complete(port, "hello")).toEqual([200, "hello 7"]);
    }
  });
});

test("server has every route in the tables of deploy.md except the metrics", async () => {
  const { ports } = await start({});
  const calls = [...page.matchAll(/^\|.*?`(GET|POST) ([^`]+)`/gm)].map(([, method = "", path = ""]) => [
    method,
    path,
  ]);
  expect(calls.length).toBeGreaterThan(15);
  const missing: string[] = [];
  for (const [method = "", path = ""] of calls) {
    const body = path === "/v1/completions" ? '{"prompt":"hello"}' : null;
    const { status } = await fetch(`http://127.0.0.1:${ports[0]}${path}`, { method, body });
    if (status === 404) missing.push(path);
    else expect([path, status]).toEqual([path, 200]);
    if (path.startsWith("/sleep") || path.startsWith("/release"))
      await fetch(`http://127.0.0.1:${ports[0]}/wake_up`, { method: "POST" });
  }
  expect(missing).toEqual(["/metrics"]);
});
