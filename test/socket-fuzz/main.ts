/**
 * Sends messages from a seed to an engine's control socket, and prints what came of them:
 *
 *     bun run socket-fuzz --messages 100000 --seed 1
 */

import { parseArgs } from "node:util";
import { buildNative } from "../../scripts/native.ts";
import { buildControlProgram } from "../support/control-program.ts";
import { checkedEngine, fuzzSocket } from "./driver.ts";

const { values } = parseArgs({
  options: { messages: { type: "string", default: "10000" }, seed: { type: "string", default: "1" } },
});

await buildNative();
await buildControlProgram();
const progress = (sent: number) => console.log(`${sent} messages`);
const result = await fuzzSocket(Number(values.seed), Number(values.messages), checkedEngine, progress);
console.log(JSON.stringify(result, null, 2));
