/**
 * Sends messages from a seed to an engine's control socket, and prints what came of them:
 *
 *     bun run fuzz:socket --messages 100000 --seed 1
 */

import { parseArgs } from "node:util";
import { buildNative } from "../../scripts/native.ts";
import { buildControlProgram } from "../support/control-program.ts";
import { fuzzSocket } from "./driver.ts";

const { values } = parseArgs({
  options: { messages: { type: "string", default: "10000" }, seed: { type: "string", default: "1" } },
});

await buildNative();
await buildControlProgram();
const result = await fuzzSocket(Number(values.seed), Number(values.messages), (sent) =>
  console.log(`${sent} messages`),
);
console.log(JSON.stringify(result, null, 2));
