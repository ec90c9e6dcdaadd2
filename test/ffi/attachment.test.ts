/** Attaching and detaching as the C ABI sees it, in a process of its own: what fails here would hang. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { emulatorLibraryPath, shimPath } from "../../src/ffi/index.ts";

const program = `
import { dlopen } from "bun:ffi";
import { symbols } from ${JSON.stringify(join(import.meta.dir, "../../src/ffi/symbols.gen.ts"))};
const shim = dlopen(${JSON.stringify(shimPath)}, symbols).symbols;
const library = Buffer.from(${JSON.stringify(emulatorLibraryPath)} + "\\0");
const failure = new Uint8Array(4096);
const closing = new BigUint64Array(1);
const done = new Uint32Array(2);
const poll = (number) => shim.camem_detach_poll(number, done, failure);
shim.camem_attach(library, failure);
shim.camem_detach(closing);
const first = closing[0];
while (shim.camem_attach(library, failure) !== 0) await Bun.sleep(1);
console.log("poll of an old closing:", poll(first), done[0]);
shim.camem_detach(closing);
for (done[0] = 0; done[0] === 0; await Bun.sleep(1)) poll(closing[0]);
console.log("closed");
`;

test("camem_detach_poll returns when another attachment has opened AscendCL again", () => {
  const child = Bun.spawnSync([process.execPath, "-e", program], { timeout: 20_000 });
  expect(child.stdout.toString()).toBe("poll of an old closing: 0 1\nclosed\n");
}, 30_000);
