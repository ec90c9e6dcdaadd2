/** `bun run docs`: builds the static site in `site/` from the README, docs/ and TSDoc. Exits with 1 on any warning. */

import { join } from "node:path";
import { Application, Converter, type DocumentReflection, type TypeDocOptions } from "typedoc";

const root = join(import.meta.dir, "../..");

/** The pages beside the README, in the order of the navigation. */
const pages = [
  "docs/guide.md",
  "docs/configuration.md",
  "docs/server.md",
  "docs/metrics.md",
  "docs/deploy.md",
  "docs/testing.md",
  "docs/troubleshooting.md",
  "docs/performance.md",
  "docs/promises.md",
  "bench/results/latest.md",
  "CHANGELOG.md",
  "ARCHITECTURE.md",
  "CONTRIBUTING.md",
];

const options: TypeDocOptions = {
  name: "camem",
  tsconfig: join(root, "tsconfig.types.json"),
  entryPoints: ["src/index.ts", "src/server/index.ts", "src/metrics/index.ts"].map((path) =>
    join(root, path),
  ),
  readme: join(root, "README.md"),
  projectDocuments: pages.map((path) => join(root, path)),
  out: join(root, "site"),
  includeVersion: true,
  searchInDocuments: true,
  sort: ["source-order"],
  sortEntryPoints: false,
  excludeExternals: true,
  excludeInternal: true,
  excludePrivate: true,
  // There is no repository address that sources could link to.
  disableSources: true,
  disableGit: true,
  // `tsc` has checked the types already, with the version of TypeScript that the project uses.
  skipErrorChecking: true,
  validation: { invalidLink: true, invalidPath: true, notDocumented: true, notExported: true },
  kindSortOrder: ["Document", "Module", "Class", "Function", "Interface", "TypeAlias", "Variable"],
};

/** A page is named after its first heading, not after its file. */
function nameAfterHeading(page: DocumentReflection): void {
  const heading = /^# (.+)$/m.exec(page.content.map(({ text }) => text).join(""))?.[1];
  if (heading !== undefined) page.name = heading.replaceAll("`", "");
}

async function build(): Promise<number> {
  const app = await Application.bootstrap(options);
  app.converter.on(Converter.EVENT_CREATE_DOCUMENT, (_context, page) => nameAfterHeading(page));
  const project = await app.convert();
  if (project === undefined) return 1;
  app.validate(project);
  await app.generateOutputs(project);
  return app.logger.hasErrors() || app.logger.hasWarnings() ? 1 : 0;
}

process.exitCode = await build();
