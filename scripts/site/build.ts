/** `bun run docs`: builds the static site in `site/` from the README, docs/ and TSDoc. Exits with 1 on any warning. */

import { join } from "node:path";
import {
  Application,
  type Context,
  Converter,
  type DocumentReflection,
  ReflectionKind,
  type TypeDocOptions,
} from "typedoc";

const root = join(import.meta.dir, "../..");

/** The pages beside the README, in the order of the navigation. */
const pages = [
  "docs/engines.md",
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
  customCss: join(import.meta.dir, "site.css"),
  includeVersion: true,
  searchInDocuments: true,
  sort: ["kind", "source-order"],
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
  // Values that public types derive from. The types are documented by themselves.
  intentionallyNotExported: [
    "src/checkpoint/header.ts:elementBits",
    "src/options/schemas.ts:Level",
    "src/options/schemas.ts:Mode",
    "src/policy/tag-policies.ts:Action",
    "src/server/engine/controller-options.ts:Reason",
    "src/server/engine/controller-options.ts:WhenAsleepSchema",
  ],
  kindSortOrder: ["Document", "Module", "Function", "Class", "Interface", "TypeAlias", "Variable"],
};

/** A page is named after its first heading, not after its file. */
function nameAfterHeading(page: DocumentReflection): void {
  const heading = /^# (.+)$/m.exec(page.content.map(({ text }) => text).join(""))?.[1];
  if (heading !== undefined) page.name = heading.replaceAll("`", "");
}

/** Of an interface with a schema of the same name, only the interface is public: the modules export both as types. */
function removeSchemas({ project }: Context): void {
  for (const alias of project.getReflectionsByKind(ReflectionKind.TypeAlias)) {
    const siblings = alias.parent?.isDeclaration() || alias.parent?.isProject() ? alias.parent.children : [];
    const isSchema = siblings?.some(
      (each) => each.kind === ReflectionKind.Interface && each.name === alias.name,
    );
    if (isSchema) project.removeReflection(alias);
  }
}

async function build(): Promise<number> {
  const app = await Application.bootstrap(options);
  app.converter.on(Converter.EVENT_CREATE_DOCUMENT, (_context, page) => nameAfterHeading(page));
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, removeSchemas);
  const project = await app.convert();
  if (project === undefined) return 1;
  app.validate(project);
  await app.generateOutputs(project);
  return app.logger.hasErrors() || app.logger.hasWarnings() ? 1 : 0;
}

process.exitCode = await build();
