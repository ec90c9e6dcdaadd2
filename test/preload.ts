import { dlopen } from "bun:ffi";
import { selectBackend } from "../scripts/backend.ts";

// Tests run with two emulated devices. The emulator reads the C environment, which process.env does not change.
const { setenv } = dlopen("libc.so.6", { setenv: { args: ["ptr", "ptr", "i32"], returns: "i32" } }).symbols;
setenv(Buffer.from("CAMEM_EMULATOR_DEVICES\0"), Buffer.from("2\0"), 0);

const { backend, reason } = await selectBackend();
console.log(`camem is tested on: ${backend} (${reason})`);
