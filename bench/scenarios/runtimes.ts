/** The same work on Bun and on Deno. */

import { join } from "node:path";
import { denoPath } from "../../scripts/deno-path.ts";
import { GiB, MiB, quickBytes, smallSegmentBytes } from "../layout.ts";
import { alternate, type Durations } from "../rounds.ts";
import type { Figure, Findings } from "../schema.ts";
import { type Context, Session, sizesThatFit } from "../session.ts";
import { compare, statistic } from "../statistics.ts";

const program = join(import.meta.dir, "../programs/runtime.ts");
const root = join(import.meta.dir, "../..");

const commands = {
  Bun: [process.execPath],
  Deno: [denoPath, "run", "--allow-all", "--no-check", "--no-prompt", "--quiet"],
} as const;

type RuntimeName = keyof typeof commands;

async function time(name: RuntimeName, sizeBytes: number, rounds: number): Promise<Durations> {
  const command = [...commands[name], program, String(sizeBytes), String(rounds)];
  const child = Bun.spawn(command, { cwd: root, stdout: "pipe", stderr: "inherit" });
  const [output, exitCode] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  if (exitCode !== 0) throw new Error(`the program on ${name} ended with ${exitCode}`);
  return JSON.parse(output);
}

/** The largest of the sizes that both runtimes have room for, one after the other. */
async function sizeFor(context: Context): Promise<number> {
  if (context.quick) return quickBytes;
  await using session = new Session(context, { retain: "none" });
  return sizesThatFit([512 * MiB, 2 * GiB], 2, session.allocator).sizes.at(-1) ?? quickBytes;
}

export async function runtimes(context: Context): Promise<Findings> {
  const sizeBytes = await sizeFor(context);
  const inner = context.quick ? 3 : 7;
  const parts = {
    Bun: () => time("Bun", sizeBytes, inner),
    Deno: () => time("Deno", sizeBytes, inner),
  };
  const measured = await alternate(parts, { rounds: context.quick ? 1 : 3, warmUp: false });
  const works = [
    { name: "call", operation: "memGetInfo", unit: "ns", sizeBytes: 0 },
    { name: "map", operation: "malloc and free", unit: "µs", sizeBytes: smallSegmentBytes },
    { name: "sleep", operation: "sleep", unit: "ms", sizeBytes },
  ] as const;
  const figures = works.flatMap(({ name, ...labels }): Figure[] => {
    const [bun, deno] = [measured.get("Bun", name), measured.get("Deno", name)];
    const own = { scenario: "runtimes", segments: 1, ...labels };
    return [
      { ...own, case: "Bun", value: statistic(bun) },
      { ...own, case: "Deno", value: statistic(deno), limit: compare("the same on Bun", deno, bun) },
    ];
  });
  return { figures, targets: [], notes: [] };
}
