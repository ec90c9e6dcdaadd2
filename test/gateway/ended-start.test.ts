/** An engine that ends in the last moment of its start, when nobody waits for its end yet. */

import { expect, mock, test } from "bun:test";
import { join } from "node:path";
import { CommandEngine } from "../../src/gateway/command-engine.ts";
import type { EngineSource } from "../../src/gateway/engine-source.ts";
import { EntryAllocator } from "../../src/gateway/entry-allocator.ts";
import { parseGatewayFile } from "../../src/gateway/gateway-config.ts";
import type { EngineConnection } from "../../src/run/attachable-allocator.ts";
import { codeOf } from "../support/device.ts";

const server = `Bun.serve({ hostname: "127.0.0.1", port: Number(process.env.PORT), fetch: () => new Response("") })`;

test("EntryAllocator.wakeUp() rejects when the engine ended while it started", async () => {
  const source: EngineSource = {
    upstream: undefined,
    canStop: true,
    retryInMs: 0,
    onEnd: undefined,
    start: async () => {
      await allocator.noteEnd();
      return undefined;
    },
    stop: async () => undefined,
    kill: () => undefined,
  };
  const deviceMemory = () => undefined;
  const allocator = new EntryAllocator({
    name: "one",
    source,
    devices: [0],
    memoryBytes: undefined,
    deviceMemory,
  });
  expect(await codeOf(() => allocator.wakeUp())).toBe("ENGINE_UNAVAILABLE");
  expect(allocator.isRunning).toBe(false);
});

test("CommandEngine.start() rejects when the engine ended while its socket was found", async () => {
  const file = `engines:\n  one:\n    command: ["${process.execPath}", -e, '${server}', "$\{PORT}"]`;
  const [config] = parseGatewayFile(`listen: 127.0.0.1:0\n${file}`, "camem.yaml", process.env).engines;
  if (config?.origin.kind !== "command") throw new Error("the file has no command");
  let pid = 0;
  const close = mock(async () => undefined);
  const connection = { close } as unknown as EngineConnection;
  const engine = new CommandEngine({
    config,
    origin: config.origin,
    stopDeadlineMs: 1000,
    environment: {},
    library: join(import.meta.dir, `../../native/linux-${process.arch}/libcamem.so`), // does nothing here
    report: (line) => {
      pid = Number(/pid (\d+)/.exec(line)?.[1] ?? pid);
    },
    connect: async () => {
      process.kill(pid, "SIGKILL");
      await Bun.sleep(200); // its end is noticed meanwhile
      return connection;
    },
  });
  engine.onEnd = () => undefined;
  expect(await codeOf(() => engine.start(new AbortController().signal))).toBe("ENGINE_UNAVAILABLE");
  expect(engine.upstream).toBeUndefined();
  expect(close).toHaveBeenCalledTimes(1);
  await engine.stop();
});

test("CommandEngine ends a program that lives on when its memory cannot be reached any more", async () => {
  const file = `engines:\n  one:\n    command: ["${process.execPath}", -e, '${server}', "$\{PORT}"]`;
  const [config] = parseGatewayFile(`listen: 127.0.0.1:0\n${file}`, "camem.yaml", process.env).engines;
  if (config?.origin.kind !== "command") throw new Error("the file has no command");
  const reports: string[] = [];
  const { promise: gone, resolve: lose } = Promise.withResolvers<unknown>();
  const connection = { close: async () => undefined, gone } as unknown as EngineConnection;
  const engine = new CommandEngine({
    config,
    origin: config.origin,
    stopDeadlineMs: 1000,
    environment: {},
    library: join(import.meta.dir, `../../native/linux-${process.arch}/libcamem.so`), // does nothing here
    report: (line) => reports.push(line),
    connect: async () => connection,
  });
  const ended = Promise.withResolvers<void>();
  engine.onEnd = async () => ended.resolve();
  await engine.start(new AbortController().signal);
  lose(undefined);
  await ended.promise;
  expect(reports.join("\n")).toContain("one: its memory cannot be reached any more; ending it");
});
