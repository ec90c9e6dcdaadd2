/**
 * A server whose memory sleeps and wakes while it answers; process-exit.test.ts starts it and sends SIGTERM. With the argument
 * "handler" it closes everything on the signal and exits by itself.
 */

import assert from "node:assert/strict";
import { CaMemAllocator } from "camem";
import { accounting, MiB, nothingHeld, onEmulator } from "../support/device.ts";

const allocator = CaMemAllocator.getInstance();
allocator.malloc(8 * MiB, { tag: "weights" }).fill(5);
let requests = 0;

const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch: async () => {
    requests++;
    await allocator.sleep();
    await allocator.wakeUp();
    return new Response("awake");
  },
});

/** Sends one request after the other until the server is gone. */
async function ask(): Promise<void> {
  while (true) {
    const answer = await fetch(server.url).catch(() => undefined);
    if (answer === undefined) return;
    await answer.text().catch(() => undefined);
  }
}

if (process.argv[2] === "handler") {
  process.on("SIGTERM", async () => {
    await server.stop(true);
    await allocator.close();
    if (onEmulator) assert.deepEqual(accounting(), nothingHeld);
    process.stdout.write("nothing held\n");
    process.exit(0);
  });
}

void ask();
void ask();
while (requests < 4) await Bun.sleep(1);
process.stdout.write("ready\n");
