/**
 * The import graph of src, `import type` included: the rooms, from the roof down, with the rooms
 * that each one imports and how many imports lead there; then the circles between files. A room is
 * a folder directly below src; a file in src itself is a room of its own.
 *
 * Usage: bun run graph (exits with 1 if there is a circle)
 */
import { importsOf, type Source, sourcesOf } from "../test/support/sources.ts";
import { argumentsOf } from "./arguments.ts";

/** What each node imports: nodes by name. */
export type ImportGraph = ReadonlyMap<string, readonly string[]>;

/** Every source with the sources among them that it imports, each once. */
export function fileGraph(sources: readonly Source[]): ImportGraph {
  const known = new Set(sources.map(({ path }) => path));
  return new Map(
    sources.map((source) => {
      const names = importsOf(source).filter((name) => known.has(name) && name !== source.path);
      return [source.path, [...new Set(names)].sort()];
    }),
  );
}

/** Room of a file: the folder directly below src, or the file itself where there is none. */
export function roomOf(path: string): string {
  const parts = path.split("/");
  return parts.length > 2 ? parts[1] : path;
}

/**
 * Circles of a graph: every strongly connected component of more than one node, each sorted.
 * Tarjan, "Depth-first search and linear graph algorithms" (1972).
 */
export function circlesOf(graph: ImportGraph): string[][] {
  const order = new Map<string, number>();
  const open: string[] = [];
  const circles: string[][] = [];
  const visit = (node: string): number => {
    let low = order.size;
    order.set(node, low);
    open.push(node);
    for (const next of graph.get(node)!) {
      if (!order.has(next)) low = Math.min(low, visit(next));
      else if (open.includes(next)) low = Math.min(low, order.get(next)!);
    }
    if (low === order.get(node)) {
      const component = open.splice(open.indexOf(node));
      if (component.length > 1) circles.push(component.sort());
    }
    return low;
  };
  for (const node of graph.keys()) if (!order.has(node)) visit(node);
  return circles.sort();
}

/** Imports between places: how many imports of one place's files lead to files of another. */
export function arrowsOf(
  graph: ImportGraph,
  placeOf: (path: string) => string = roomOf,
): Map<string, Map<string, number>> {
  const arrows = new Map<string, Map<string, number>>();
  for (const [path, names] of graph) {
    const from = placeOf(path);
    const counts = arrows.get(from) ?? new Map<string, number>();
    arrows.set(from, counts);
    for (const place of names.map(placeOf))
      if (place !== from) counts.set(place, (counts.get(place) ?? 0) + 1);
  }
  return arrows;
}

/** Rooms in an order in which each one comes before all that it imports, as far as possible. */
function fromTheRoof(arrows: ReadonlyMap<string, ReadonlyMap<string, number>>): string[] {
  const sorted: string[] = [];
  const visited = new Set<string>();
  const visit = (room: string): void => {
    if (visited.has(room)) return;
    visited.add(room);
    for (const below of [...arrows.get(room)!.keys()].sort()) visit(below);
    sorted.push(room);
  };
  for (const room of [...arrows.keys()].sort()) visit(room);
  return sorted.reverse();
}

function main(): number {
  const graph = fileGraph(sourcesOf("src/**/*.ts"));
  const arrows = arrowsOf(graph);
  const rooms = fromTheRoof(arrows);
  const width = Math.max(...rooms.map((room) => room.length));
  for (const room of rooms) {
    const files = [...graph.keys()].filter((path) => roomOf(path) === room).length;
    const below = rooms.filter((other) => arrows.get(room)!.has(other));
    const list = below.map((other) => `${other} ${arrows.get(room)!.get(other)}`).join(", ");
    console.log(`${room.padEnd(width)} ${String(files).padStart(3)} files -> ${list || "nothing"}`);
  }
  const circles = circlesOf(graph);
  console.log(`\nrooms ${rooms.length}, files ${graph.size}, circles ${circles.length}`);
  for (const circle of circles) console.log(`  ${circle.join(" <-> ")}`);
  return circles.length === 0 ? 0 : 1;
}

if (import.meta.main) {
  argumentsOf("bun run graph");
  process.exitCode = main();
}
