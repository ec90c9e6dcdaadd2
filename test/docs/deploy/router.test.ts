/** The recipe for vLLM's production-stack router of docs/deploy.md. */

import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { aiohttp, complete, requests } from "./clients.ts";
import { RouterModel } from "./router-model.ts";
import {
  asleep,
  DeployedServer,
  dropped,
  environmentOf,
  key,
  type Manifest,
  manifestsOf,
  ofKind,
  untilIdle,
  usageOf,
} from "./server.ts";

const server = new DeployedServer();
afterEach(() => server.end());
afterAll(() => server.remove());

describe("vLLM's production-stack router", () => {
  const manifests = manifestsOf("vLLM's production-stack router");
  const authorization = `Authorization: Bearer ${key}`;
  const requestId = "X-Request-Id: 7b0a2a6e-6a6f-4a55-9a3c-0f6f1f6f2b11";

  async function route(changes: Record<string, string> = {}) {
    const [port = 0] = await server.start({ CAMEM_TOKEN: key, ...changes });
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

  const labelled = { name: "vllm" };
  const [manifest] = ofKind(manifestsOf("Kubernetes"), "Deployment").spec.template.spec.containers;

  test("engine of the manifest sleeps idle, wakes for requests, and holds them after the router's sleep", async () => {
    const { port } = await route({ IDLE_AFTER: "50ms" });
    const router = new RouterModel(port, key, manifest, "/health");
    expect(await router.complete("qwen")).toBe(404);
    await router.podChanged();
    for (let cycle = 0; cycle < 2; cycle++) {
      await untilIdle(port);
      expect(await router.complete("qwen")).toBe(200);
    }
    expect(await router.operate("/sleep", [["level", "2"]])).toBe(200);
    const held = router.complete("qwen");
    await Bun.sleep(60);
    expect((await usageOf(port)).status).toMatchObject({ state: "asleep", level: 2, reason: "operator" });
    expect(await router.operate("/wake_up")).toBe(200);
    expect(await held).toBe(200);
    await untilIdle(port);
  });

  test.each([
    ["vllm", undefined, true],
    ["vllm", ["vllm", "serve", "--enable-sleep-mode"], true],
    ["vllm", ["bun", "server.ts"], false],
    ["engine", ["bun", "server.ts", "--enable-sleep-mode"], false],
  ] as const)("router asks a container named %s with the command %p", async (name, command, isWithheld) => {
    const { port } = await route();
    const router = new RouterModel(port, key, command ? { name, command } : { name }, "/health");
    await router.podChanged();
    await router.operate("/sleep");
    const answer = router.complete("qwen");
    if (isWithheld) expect(await answer).toBe(503);
    expect(await router.operate("/wake_up")).toBe(200);
    if (!isWithheld) expect(await answer).toBe(200);
    expect(await router.complete("qwen")).toBe(200);
  });

  test("router withholds a pod named vllm that sleeps at an event, also idle, until it wakes it", async () => {
    const { port } = await route({ IDLE_AFTER: "50ms" });
    const router = new RouterModel(port, key, labelled, "/health");
    await untilIdle(port);
    await router.podChanged();
    expect(await router.complete("qwen")).toBe(503);
    await server.end();
    const second = await route({ IDLE_AFTER: "never" });
    const other = new RouterModel(second.port, key, labelled, "/health");
    await other.podChanged();
    expect(await other.complete("qwen")).toBe(200);
    expect(await other.operate("/sleep")).toBe(200);
    expect(await other.complete("qwen")).toBe(503);
    expect((await usageOf(second.port)).status.reason).toBe("operator");
    expect(await other.operate("/wake_up")).toBe(200);
    expect(await other.complete("qwen")).toBe(200);
  });

  test("engine that refuses requests answers 503 for ever after an idle sleep, and never with IDLE_AFTER=never", async () => {
    const idle = await route({ WHEN_ASLEEP: "refuse", IDLE_AFTER: "50ms" });
    const router = new RouterModel(idle.port, key, manifest, "/health");
    await router.podChanged();
    await untilIdle(idle.port);
    for (let request = 0; request < 3; request++) expect(await router.complete("qwen")).toBe(503);
    expect((await usageOf(idle.port)).status.state).toBe("asleep");
    await server.end();
    const { port } = await route({ WHEN_ASLEEP: "refuse", IDLE_AFTER: "never" });
    const second = new RouterModel(port, key, labelled, "/health");
    await second.podChanged();
    await Bun.sleep(60);
    expect(await second.complete("qwen")).toBe(200);
  });

  test("router cannot wake a pod whose readiness fails during its sleep", async () => {
    const { port } = await route();
    const router = new RouterModel(port, key, manifest, "/ready");
    await router.podChanged();
    expect(await router.operate("/sleep")).toBe(200);
    expect(await router.complete("qwen")).toBe(503);
    expect(await router.operate("/wake_up")).toBe(400);
  });

  test("router passes the last of repeated tags, and a body whole", async () => {
    const { port, proxy } = await route();
    const router = new RouterModel(port, key, labelled, "/health");
    await router.podChanged();
    const repeated = [
      ["tags", "weights"],
      ["tags", "kv_cache"],
    ] as const;
    // The engine sees kv_cache alone.
    await router.operate("/sleep", repeated);
    expect((await usageOf(port)).tags.weights).toMatchObject({ state: "awake" });
    expect((await proxy("POST", "/sleep", '{"tags": ["weights", "kv_cache"]}')).status).toBe(200);
    expect((await usageOf(port)).tags.weights).toMatchObject({ state: "asleep" });
  });

  test("health check of static discovery wakes an idle engine, as the page warns", async () => {
    const { port } = await route({ IDLE_AFTER: "50ms" });
    await untilIdle(port);
    const check = requests(port)("POST", "/v1/completions", '{"model": "qwen", "prompt": "hello"}');
    expect((await check).status).toBe(200);
  });
});
