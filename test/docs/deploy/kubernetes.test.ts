/** The Kubernetes recipe of docs/deploy.md. */

import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { complete, send } from "./clients.ts";
import {
  asleep,
  DeployedServer,
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
    const [http = 0, admin = 0] = await server.start({
      ...environment,
      PORT: "0",
      ADMIN_PORT: "0",
      CAMEM_TOKEN: key,
      ...changes,
    });
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

  test("engine sleeps idle, wakes for requests, and sleeps and wakes for an operator", async () => {
    const { http, admin, probes, operate } = await deploy({ IDLE_AFTER: "50ms" });
    for (let cycle = 0; cycle < 2; cycle++) {
      await untilIdle(admin);
      expect((await usageOf(admin)).tags.weights).toMatchObject(asleep);
      expect(await probes()).toEqual([200, 200, 200]);
      expect(await complete(http, "hello")).toEqual([200, "hello 7"]);
    }
    await operate("/sleep");
    expect(await probes()).toEqual([200, 200, 503]);
    const held = complete(http, "held");
    await Bun.sleep(60);
    expect((await usageOf(admin)).status).toMatchObject({ state: "asleep", reason: "operator" });
    await operate("/wake_up");
    expect(await held).toEqual([200, "held 7"]);
    await untilIdle(admin);
  });

  test("engine that refuses requests and never sleeps idle stays awake until an operator's sleep", async () => {
    const { http, admin, probes, operate } = await deploy({ WHEN_ASLEEP: "refuse", IDLE_AFTER: "never" });
    await Bun.sleep(60);
    expect((await usageOf(admin)).status.state).toBe("awake");
    await operate("/sleep");
    expect(await complete(http, "hello")).toEqual([503, undefined]);
    expect(await probes()).toEqual([200, 200, 503]);
    await operate("/wake_up");
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
    expect(await Promise.all([slow, server.end()])).toEqual([[200, "slow 7"], 0]);
    const { operate } = await deploy();
    await operate("/sleep?level=2");
    expect(await server.end()).toBe(0);
  });
});
