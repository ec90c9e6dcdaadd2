import { selectBackend } from "../scripts/backend.ts";

const { backend, reason } = await selectBackend();
console.log(`camem is tested on: ${backend} (${reason})`);
