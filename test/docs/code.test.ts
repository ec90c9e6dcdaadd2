/** Every TypeScript block of the documents type-checks. `test/package.test.ts` also runs those that are whole programs. */

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");
const folder = mkdtempSync(join(tmpdir(), "camem-code-"));

/** What a fragment may use without declaring it, as its page introduced it before. */
const context: Readonly<Record<string, string>> = {
  CaMemAllocator: 'import { CaMemAllocator } from "camem";',
  loadSafetensors: 'import { loadSafetensors } from "camem";',
  allocator: 'declare const allocator: import("camem").CaMemAllocator;',
  weights: 'declare const weights: ReadonlyMap<string, import("camem").Tensor>;',
  layers: 'declare const layers: readonly import("camem").DeviceBuffer[];',
  first: 'declare const first: readonly import("camem").DeviceBuffer[];',
  stream: "declare const stream: bigint;",
  compute: "declare function compute(...what: readonly unknown[]): void;",
  engine: 'declare const engine: import("camem/server").SleepController;',
  admin: 'declare const admin: import("camem/server").AdminHandler;',
  admitRequest: 'import { admitRequest } from "camem/server";',
  Deno: `declare const Deno: { serve(answer: (request: Request, info: DenoInfo) => Response | Promise<Response>): unknown };
interface DenoInfo { remoteAddr: { transport: "tcp"; hostname: string; port: number } }`,
};

/** The module that the reader of docs/deploy.md writes. */
const engineModule = `import type { CaMemAllocator } from "camem";
import type { Lease } from "camem/server";
export declare function load(allocator: CaMemAllocator, checkpoint: string): Promise<void>;
export declare function resetPrefixCache(): void;
export declare function complete(lease: Lease, prompt: string): Promise<string>;
`;

function isDeclared(name: string, code: string): boolean {
  return new RegExp(`(const|using) ${name}\\b|import \\{[^}]*\\b${name}\\b`).test(code);
}

function blocksOf(path: string): string[] {
  const page = readFileSync(join(root, path), "utf8");
  return [...page.matchAll(/^```ts\n(.*?)^```/gms)].map(([, code = ""]) => {
    const missing = Object.keys(context).filter(
      (name) => new RegExp(`\\b${name}\\b`).test(code) && !isDeclared(name, code),
    );
    return [...missing.map((name) => context[name]), code, "export {};\n"].join("\n");
  });
}

afterAll(() => rmSync(folder, { recursive: true }));

test("every TypeScript block of the documents type-checks", async () => {
  const pages = ["README.md", ...new Bun.Glob("docs/*.md").scanSync(root)];
  const blocks = pages.flatMap((path) =>
    blocksOf(path).map((code, index) => ({ name: `${path.replaceAll("/", "-")}-${index + 1}.ts`, code })),
  );
  expect(blocks.length).toBeGreaterThan(5);
  for (const { name, code } of blocks) await Bun.write(join(folder, name), code);
  await Bun.write(join(folder, "engine.ts"), engineModule);
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
  const paths = Object.fromEntries(
    ["", "/server", "/metrics"].map((entry) => [`camem${entry}`, [join(root, `src${entry}/index.ts`)]]),
  );
  const compilerOptions = { paths, noUnusedLocals: false };
  const config = { extends: join(root, "tsconfig.json"), compilerOptions, include: ["*.ts"], exclude: [] };
  await Bun.write(join(folder, "tsconfig.json"), JSON.stringify(config));
  const tsc = join(root, "node_modules/typescript/lib/tsc.js");
  const { stdout } = Bun.spawnSync([process.execPath, tsc, "--project", folder]);
  expect(stdout.toString()).toBe("");
}, 60_000);
