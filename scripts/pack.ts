/**
 * Builds everything and packs it: `camem`, and a package with the native libraries of each platform, which installers choose by
 * `os`, `cpu` and `libc`. The argument is the folder for the tarballs; by default the current one.
 */

import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import manifest from "../package.json" with { type: "json" };
import { buildRelease } from "./native.ts";

const root = join(import.meta.dirname, "..");

interface Platform {
  /** The folder below `native`. */
  readonly folder: string;
  readonly cpu: "x64" | "arm64";
  readonly libc: "glibc" | "musl";
}

const platforms: readonly Platform[] = [
  { folder: "linux-x64", cpu: "x64", libc: "glibc" },
  { folder: "linux-arm64", cpu: "arm64", libc: "glibc" },
  { folder: "linux-x64-musl", cpu: "x64", libc: "musl" },
  { folder: "linux-arm64-musl", cpu: "arm64", libc: "musl" },
];

const packageName = ({ folder }: Platform) => `camem-${folder}`;

function writeManifest(folder: string, content: object): void {
  writeFileSync(join(folder, "package.json"), `${JSON.stringify(content, null, 2)}\n`);
}

/** The native libraries of a platform. */
function stagePlatform(folder: string, platform: Platform): void {
  const { cpu, libc } = platform;
  const { version, license } = manifest;
  const description = `The native libraries of camem for Linux on ${cpu} with ${libc}`;
  cpSync(join(root, "native", platform.folder), folder, { recursive: true });
  cpSync(join(root, "LICENSE"), join(folder, "LICENSE"));
  writeFileSync(join(folder, "README.md"), `${description}. Install \`camem\`, which depends on it.\n`);
  writeManifest(folder, {
    name: packageName(platform),
    version,
    description,
    license,
    os: ["linux"],
    cpu: [cpu],
    libc: [libc],
  });
}

/** What users of the checkout's package.json do not need. */
const onlyInCheckout = ["workspaces", "scripts", "devDependencies"];

/** The package that users install. */
function stageMain(folder: string): void {
  for (const path of manifest.files) {
    const pattern = new Bun.Glob(path);
    const matches = path.includes("*") ? [...pattern.scanSync(root)] : [path];
    for (const match of matches) cpSync(join(root, match), join(folder, match), { recursive: true });
  }
  const kept = Object.entries(manifest).filter(([key]) => !onlyInCheckout.includes(key));
  const versions = platforms.map((platform) => [packageName(platform), manifest.version]);
  const imports = platforms.map((platform) => [`#native/${platform.folder}/*`, `${packageName(platform)}/*`]);
  writeManifest(folder, {
    ...Object.fromEntries(kept),
    imports: Object.fromEntries(imports),
    optionalDependencies: Object.fromEntries(versions),
  });
}

function pack(name: string, staged: string, target: string): string {
  const command = [process.execPath, "pm", "pack", "--destination", target, "--quiet", "--ignore-scripts"];
  const { success, stderr } = Bun.spawnSync(command, { cwd: staged });
  if (!success) throw new Error(`packing ${name} failed: ${stderr}`);
  return join(target, `${name}-${manifest.version}.tgz`);
}

/** Returns the paths of the tarballs. */
async function packAll(target: string): Promise<string[]> {
  await buildRelease();
  mkdirSync(target, { recursive: true });
  const staging = mkdtempSync(join(tmpdir(), "camem-pack-"));
  try {
    const stage = (name: string, fill: (folder: string) => void) => {
      const folder = join(staging, name);
      mkdirSync(folder);
      fill(folder);
      return pack(name, folder, target);
    };
    return [
      stage("camem", stageMain),
      ...platforms.map((platform) =>
        stage(packageName(platform), (folder) => stagePlatform(folder, platform)),
      ),
    ];
  } finally {
    rmSync(staging, { recursive: true });
  }
}

for (const path of await packAll(resolve(process.argv[2] ?? "."))) console.log(path);
