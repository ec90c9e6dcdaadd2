/** `bun run soak [--cycles N] [--total 256MiB]`: exits with 1 when memory or open files have grown. */

import { parseArgs } from "node:util";
import { selectBackend } from "../../scripts/backend.ts";
import { formatSize, parseSize } from "../../src/options/sizes.ts";

const { values } = parseOptions();

function parseOptions() {
  try {
    return parseArgs({
      options: {
        cycles: { type: "string", default: "10000" },
        total: { type: "string", default: "256MiB" },
      },
    });
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    console.error("usage: bun run soak [--cycles <n>] [--total <size>]");
    process.exit(2);
  }
}

const cycles = Number(values.cycles);
const totalBytes = parseSize(values.total);
if (!Number.isSafeInteger(cycles) || cycles < 10 || totalBytes === undefined || totalBytes < 2 ** 24) {
  console.error(
    `--cycles is ${values.cycles} and --total ${values.total}; they must be 10 or more, and 16MiB or more`,
  );
  process.exit(2);
}
const { backend, reason } = await selectBackend();
console.log(`soaking on: ${backend} (${reason}), ${cycles} cycles of ${formatSize(totalBytes)}`);
const { soak } = await import("./soak.ts");
const startedMs = performance.now();
const result = await soak(cycles, totalBytes, (done) => {
  if (process.stderr.isTTY) process.stderr.write(`\r${done} of ${cycles}`);
});
console.log(
  JSON.stringify({ ...result, seconds: Math.round((performance.now() - startedMs) / 1000) }, null, 1),
);
const flat = Math.abs(result.residentBytesPer1000Cycles) < 2 ** 20;
const same =
  result.accountingIdentical && result.freeBytesEqual && result.openFilesBefore === result.openFilesAfter;
process.exitCode = flat && same ? 0 : 1;
