/** What answers at a socket, and whose it is. */

import { afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, chownSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { RemoteAllocator } from "camem";
import { Greeting } from "../../src/ffi/symbols.gen.ts";
import { RawClient } from "../socket-fuzz/client.ts";
import { buildControlProgram, startControlProgram } from "../support/control-program.ts";
import { failureOf } from "../support/device.ts";
import { rejectionMessage } from "../support/rejection.ts";

const buildTimeoutMs = 300_000;
const isRoot = process.geteuid?.() === 0;
const nobody = 65534;

beforeAll(buildControlProgram, buildTimeoutMs);

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "camem-sockets-"));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** What connecting fails with. */
async function refusal(path: string, timeout = "5s"): Promise<string> {
  const { code, message } = await failureOf(() => RemoteAllocator.connect({ path }, { timeout }));
  return `${code}: ${message}`;
}

/** A server in another process, since connecting blocks, that sends `bytes` to whoever connects. */
async function serve(bytes: Uint8Array): Promise<AsyncDisposable & { readonly path: string }> {
  const path = join(folder, "fake.sock");
  const script = `
    const bytes = Buffer.from("${Buffer.from(bytes).toString("base64")}", "base64");
    const server = require("node:net").createServer((socket) => {
      socket.on("error", () => undefined);
      socket.write(bytes);
    });
    server.listen(${JSON.stringify(path)}, () => console.log("listening"));`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
  await child.stdout.getReader().read();
  return {
    path,
    async [Symbol.asyncDispose]() {
      child.kill();
      await child.exited;
    },
  };
}

/** The greeting of an engine, with a field replaced. */
async function greeting(field: keyof typeof Greeting.fields, value: number): Promise<Uint8Array> {
  await using engine = await startControlProgram(["default=2"]);
  const client = await RawClient.open(engine.path, 5_000);
  if (client === undefined) throw new Error("the engine does not greet");
  client.close();
  const bytes = Uint8Array.from(client.greeting);
  new DataView(bytes.buffer).setUint32(Greeting.fields[field].offset, value, true);
  return bytes;
}

describe("connect() refuses", () => {
  test("a path without a socket, and a file", async () => {
    expect(await refusal(join(folder, "1.sock"))).toMatch(/^ENGINE_NOT_FOUND: .*there is no such socket/);
    expect(await refusal(join(folder, "none", "1.sock"))).toMatch(/^ENGINE_NOT_FOUND/);
    writeFileSync(join(folder, "1.sock"), "");
    expect(await refusal(join(folder, "1.sock"))).toMatch(/^ENGINE_NOT_FOUND/);
  });

  test("the socket of a process that was killed", async () => {
    const engine = await startControlProgram(["default=2"], { folder });
    await engine.kill();
    expect(statSync(engine.path).isSocket()).toBe(true);
    expect(await refusal(engine.path)).toMatch(
      /^ENGINE_NOT_FOUND: .*the process that made the socket has ended/,
    );
  });

  test("a process that has the number of the one that made the socket, and another start time", async () => {
    await using server = await serve(await greeting("startTime", 1));
    expect(await refusal(server.path)).toMatch(
      /^ENGINE_NOT_FOUND: .*the process that made the socket has ended/,
    );
  });

  test("an engine of another version of camem", async () => {
    await using server = await serve(await greeting("fingerprint", 1));
    expect(await refusal(server.path)).toMatch(/^ENGINE_REFUSED: .*of another version of camem/);
  });

  test("a server that is no engine", async () => {
    await using server = await serve(Buffer.from("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"));
    expect(await refusal(server.path)).toMatch(/^ENGINE_REFUSED: .*it is no control socket/);
  });

  test("a server that says nothing, after the timeout", async () => {
    await using server = await serve(new Uint8Array());
    expect(await refusal(server.path, "50ms")).toMatch(/^ENGINE_GONE: .*it does not answer/);
  });

  test("an engine that has as many clients as it takes, until one leaves", async () => {
    await using engine = await startControlProgram(["default=2"]);
    const clients: (RawClient | undefined)[] = [];
    for (let count = 0; count < 32; count++) clients.push(await RawClient.open(engine.path, 5_000));
    expect(await refusal(engine.path)).toMatch(/^ENGINE_REFUSED: .*as many clients as it takes/);
    for (const client of clients) client?.close();
    await Bun.sleep(20);
    await using allocator = await RemoteAllocator.connect({ path: engine.path });
    expect(allocator.isSleeping).toBe(false);
  });

  test.skipIf(!isRoot)("an engine of another user", async () => {
    await using engine = await startControlProgram(["default=2"], { folder });
    const asNobody = () => {
      const script = `
        const { RemoteAllocator } = await import("camem");
        // Opens the library while it can be read for sure.
        await RemoteAllocator.connect({ path: "/none/1.sock" }).catch(() => undefined);
        process.setgid(${nobody});
        process.setuid(${nobody});
        const connecting = RemoteAllocator.connect({ path: ${JSON.stringify(engine.path)} });
        console.log(await connecting.then(() => "connected", ({ code, message }) => code + ": " + message));`;
      const { stdout } = Bun.spawnSync([process.execPath, "-e", script], { cwd: import.meta.dir });
      return String(stdout);
    };
    expect(asNobody()).toMatch(/^ENGINE_REFUSED: .*it belongs to another user/);
    // Without its folder's protection the engine itself refuses.
    chmodSync(folder, 0o755);
    chmodSync(engine.path, 0o666);
    expect(asNobody()).toMatch(/^ENGINE_REFUSED: .*it belongs to another user/);
  });
});

describe("an engine", () => {
  test("makes its socket for its user alone", async () => {
    await using engine = await startControlProgram(["default=2"], { folder });
    expect(statSync(engine.path).mode & 0o777).toBe(0o600);
  });

  test.each([0o755, 0o777])("makes no socket in a folder that others can use (%o)", async (mode) => {
    chmodSync(folder, mode);
    expect(await rejectionMessage(startControlProgram(["default=2"], { folder }))).toContain(
      "does not serve",
    );
  });

  test.skipIf(!isRoot)("makes no socket in a folder of another user", async () => {
    chownSync(folder, nobody, nobody);
    expect(await rejectionMessage(startControlProgram(["default=2"], { folder }))).toContain(
      "does not serve",
    );
  });

  test("has a socket in a folder whose path is longer than an address", async () => {
    const long = join(folder, "x".repeat(120));
    await using engine = await startControlProgram(["default=2"], { folder: long });
    await using allocator = await RemoteAllocator.connect({ path: engine.path });
    const { promise, resolve } = Promise.withResolvers<void>();
    allocator.subscribe(({ type }) => type === "touched" && resolve());
    await Bun.sleep(20);
    await engine.tell("touch");
    await promise;
  });
});
