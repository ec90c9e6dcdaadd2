import { dlopen } from "bun:ffi";
import { selectBackend } from "../scripts/backend.ts";

// The emulator has two devices in the tests. It reads the environment as C does, which assigning to process.env leaves alone.
const { setenv } = dlopen("libc.so.6", { setenv: { args: ["ptr", "ptr", "i32"], returns: "i32" } }).symbols;
setenv(Buffer.from("CAMEM_EMULATOR_DEVICES\0"), Buffer.from("2\0"), 0);

const { backend, reason } = await selectBackend();
console.log(`camem is tested on: ${backend} (${reason})`);
