import { selectBackend } from "../scripts/backend.ts";
import { openLibrary } from "./support/runtime.ts";

// Tests run with two emulated devices. The emulator reads the C environment, which process.env does not change.
const { setenv } = openLibrary("libc.so.6", {
  setenv: { args: ["ptr", "ptr", "i32"], returns: "i32" },
});
setenv(Buffer.from("CAMEM_EMULATOR_DEVICES\0"), Buffer.from("2\0"), 0);

const { backend, reason } = await selectBackend();
console.log(`camem is tested on: ${backend} (${reason})`);
