/** npm ci installs exactly what package-lock.json lists, and refuses a lockfile that lacks anything. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import manifest from "../../package.json" with { type: "json" };

interface LockedPackage {
  readonly version?: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
}

const root = join(import.meta.dir, "../..");

/** As committed: `npm install` of npm 11 takes entries out that npm 10 needs. */
function committedLockfile(): string {
  const shown = Bun.spawnSync(["git", "show", "HEAD:package-lock.json"], { cwd: root, stderr: "ignore" });
  return shown.success ? shown.stdout.toString() : readFileSync(join(root, "package-lock.json"), "utf8");
}

const lockfile: { readonly packages: Readonly<Record<string, LockedPackage>> } = JSON.parse(
  committedLockfile(),
);
const packages = new Map(Object.entries(lockfile.packages));

/** The entry that Node would load for `name` from the package at `path`. */
function locked(path: string, name: string): LockedPackage | undefined {
  const here = packages.get(`${path === "" ? "" : `${path}/`}node_modules/${name}`);
  if (here !== undefined || path === "") return here;
  return locked(path.replace(/(^|\/)(?:node_modules\/)?(?:@[^/]+\/)?[^/]+$/, ""), name);
}

test("package-lock.json lists every dependency, also optional ones for other platforms", () => {
  const missing = [...packages].flatMap(([path, { dependencies, devDependencies, optionalDependencies }]) =>
    Object.keys({ ...dependencies, ...devDependencies, ...optionalDependencies })
      .filter((name) => locked(path, name)?.version === undefined)
      .map((name) => `${path || "the project"} needs ${name}`),
  );
  expect(missing).toEqual([]);
});

test("package-lock.json has the dependencies of package.json", () => {
  const { dependencies, devDependencies, peerDependencies } = manifest;
  expect(lockfile.packages[""]).toMatchObject({ dependencies, devDependencies, peerDependencies });
});

test("package-lock.json has a version that fits for every peer that it lists, as npm 10 demands", () => {
  const unfit = [...packages].flatMap(([path, { peerDependencies = {} }]) =>
    Object.entries(peerDependencies).flatMap(([name, range]) => {
      const version = path === "" ? undefined : locked(path, name)?.version;
      if (version === undefined || Bun.semver.satisfies(version, range)) return [];
      return [`${path} needs ${name} ${range}, not ${version}`];
    }),
  );
  expect(unfit).toEqual([]);
});
