/**
 * Writes `shim/preload/operators.txt`, the names of the `aclnn*` operators at which the preload library holds calls
 * back: `bun scripts/operators.ts <folder of headers>...`. An operator is a pair of functions; the second gives the
 * work to a stream, and has the parameters workspace, size, executor and stream. Names that are in the file stay.
 */

import { join } from "node:path";

const list = join(import.meta.dir, "../shim/preload/operators.txt");
const launch =
  /\b(aclnn[A-Z]\w*)\s*\(\s*void\s*\*\s*\w+,\s*uint64_t\s+\w+,\s*aclOpExecutor\s*\*\s*\w+,\s*(?:const\s+)?aclrtStream\s+\w+\s*\)/g;

/** Operators that the headers below a folder declare. */
async function operatorsIn(folder: string): Promise<string[]> {
  const names: string[] = [];
  for await (const path of new Bun.Glob("**/*aclnn*.h").scan({ cwd: folder, absolute: true })) {
    const text = await Bun.file(path).text();
    for (const [, name = ""] of text.matchAll(launch)) {
      if (text.includes(`${name}GetWorkspaceSize`)) names.push(name);
    }
  }
  return names;
}

const folders = process.argv.slice(2);
if (folders.length === 0) throw new TypeError("name at least one folder with headers of operators");
const known = (await Bun.file(list).exists()) ? (await Bun.file(list).text()).split("\n") : [];
const found = (await Promise.all(folders.map(operatorsIn))).flat();
const names = [...new Set([...known, ...found])].filter((name) => name !== "").sort();
await Bun.write(list, `${names.join("\n")}\n`);
console.log(
  `${names.length} operators, ${names.length - known.filter((name) => name !== "").length} of them new`,
);
