/** Runs one scenario and writes its findings to a file: `child.ts <scenario> <context as JSON> <file>`. */

import { scenarios } from "./scenarios/index.ts";

const [name = "", context = "", output = ""] = process.argv.slice(2);
const scenario = scenarios[name];
if (scenario === undefined) throw new Error(`there is no scenario "${name}"`);
const findings = await scenario.measure(JSON.parse(context));
await Bun.write(output, JSON.stringify(findings));
