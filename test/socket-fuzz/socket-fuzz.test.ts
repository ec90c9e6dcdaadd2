/** A short run over fixed seeds; `bun run fuzz:socket` runs longer. */

import { beforeAll, expect, test } from "bun:test";
import { servedCalls } from "../../src/ffi/symbols.gen.ts";
import { Random } from "../fuzz/random.ts";
import { buildControlProgram, startControlProgram } from "../support/control-program.ts";
import { RawClient } from "./client.ts";
import { fuzzSocket } from "./driver.ts";
import { requests } from "./messages.ts";

const buildTimeoutMs = 300_000;

beforeAll(buildControlProgram, buildTimeoutMs);

test("an engine answers or closes the connection, and loses nothing, whatever is sent to its socket", async () => {
  const { replies, closed, statuses, grownFiles } = await fuzzSocket(1, 3_000);
  expect(replies).toBeGreaterThan(1_000);
  expect(closed).toBeGreaterThan(10);
  // Some messages succeed, and some are refused as malformed.
  expect(statuses[0]).toBeGreaterThan(100);
  expect(statuses[1]).toBeGreaterThan(100);
  expect(grownFiles).toBe(0);
}, 60_000);

test("the messages of the fuzzer have the form that the server expects", async () => {
  await using engine = await startControlProgram(["default=2"]);
  const client = await RawClient.open(engine.path, 5_000);
  if (client === undefined) throw new Error("the engine does not greet");
  const random = new Random(1, 0);
  for (const [number, call] of servedCalls.entries()) {
    const parts = requests[call].map((part) =>
      typeof part === "object" ? { ...part, content: random.bytes(part.entryBytes) } : part,
    );
    const words = parts.flatMap((part) =>
      typeof part === "object" ? [1, ...new Uint8Array(Math.ceil(part.entryBytes / 8))] : [1],
    );
    const content = new BigUint64Array(words.map(BigInt));
    client.write(new Uint8Array(new Uint32Array([content.byteLength, number]).buffer));
    client.write(new Uint8Array(content.buffer));
    const status = await client.reply(5_000);
    const malformed = 1;
    const isRefused = status === malformed && !["camem_tag_find", "camem_plan_submit"].includes(call);
    expect([call, isRefused]).toEqual([call, false]);
  }
  client.close();
});
