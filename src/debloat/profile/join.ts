/** What two profiles hold of the same kind, together. */
import { joinRanges, type Ranges } from "../elf/ranges.ts";
import type { CubinId, ProfiledLibrary } from "./types.ts";

/** Names of both lists, sorted by code unit, each once. */
export function joinNames(a: readonly string[], b: readonly string[]): string[] {
  return [...new Set([...a, ...b])].sort();
}

/** Images of both lists, sorted, each once. */
export function joinCubins(a: readonly CubinId[], b: readonly CubinId[]): CubinId[] {
  const byKey = new Map([...a, ...b].map((cubin) => [keyOf(cubin), cubin]));
  return [...byKey.values()].sort((x, y) => x.bytes - y.bytes || x.crc32 - y.crc32);
}

/** Functions of both lists, sorted by address, each once. */
export function joinFunctions(
  a: ProfiledLibrary["functions"],
  b: ProfiledLibrary["functions"],
): ProfiledLibrary["functions"] {
  const byAddress = new Map<number, number>();
  for (const [vaddr, bytes] of [...a, ...b])
    byAddress.set(vaddr, Math.max(bytes, byAddress.get(vaddr) ?? 0));
  return [...byAddress].sort((x, y) => x[0] - y[0]);
}

/** Pages of both lists; nothing is known where one of them was not watched. */
export function joinPages(
  a: ProfiledLibrary["devicePages"],
  b: ProfiledLibrary["devicePages"],
): Ranges | undefined {
  return a && b ? joinRanges([...a, ...b]) : undefined;
}

/** What tells images apart. */
export function keyOf({ bytes, crc32 }: CubinId): string {
  return `${bytes}:${crc32}`;
}
