/** Import graphs: file names, each with the files it imports. */

export type Graph = ReadonlyMap<string, ReadonlySet<string>>;

/** Every file that `start` imports, directly or through others. */
export function reachable(graph: Graph, ...start: readonly string[]): Set<string> {
  const found = new Set<string>();
  const waiting = [...start];
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    for (const imported of graph.get(file) ?? []) {
      if (found.has(imported)) continue;
      found.add(imported);
      waiting.push(imported);
    }
  }
  return found;
}

/** The shortest chain of imports from `from` to `to`, both included. */
function shortestPath(graph: Graph, from: string, to: string): string[] {
  const paths = new Map([...(graph.get(from) ?? [])].map((file) => [file, [from, file]]));
  for (const [file, path] of paths) {
    if (file === to) return path;
    for (const next of graph.get(file) ?? []) if (!paths.has(next)) paths.set(next, [...path, next]);
  }
  throw new Error(`${from} does not reach ${to}`);
}

/** One message for each group of files that import each other. */
export function importCycles(graph: Graph): string[] {
  const reach = new Map([...graph.keys()].map((file) => [file, reachable(graph, file)]));
  const seen = new Set<string>();
  const messages: string[] = [];
  for (const [file, reached] of reach) {
    if (!reached.has(file) || seen.has(file)) continue;
    const group = [...reached].filter((other) => reach.get(other)?.has(file));
    for (const member of group) seen.add(member);
    const others = group.length > 2 ? ` (${group.length} files import each other: ${group.join(", ")})` : "";
    const cycle = shortestPath(graph, file, file).join(" → ");
    messages.push(`${cycle}: move what both need into a file that imports neither${others}`);
  }
  return messages;
}
