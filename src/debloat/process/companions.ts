import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { locate } from "../../ffi/locate.ts";

/** The small libraries that go into other programs: zig/trace says what each does. */
export type Companion = "trace" | "pager" | "redirect";

/**
 * The path of one of them.
 * @throws LibraryError when it is in none of the places where flashbun's libraries are
 */
export function companionPath(companion: Companion): string {
  return locate(`libflashbun-${companion}.so`);
}

/** LD_PRELOAD with one more library, the first. */
export function preload(...libraries: string[]): string {
  const before = process.env["LD_PRELOAD"];
  return [...libraries, ...(before ? [before] : [])].join(":");
}

/** What an executable of `bun build --compile` holds lies below here, for its own process alone. */
const embedded = "/$bunfs/";

/**
 * A path that other processes can preload. LD_PRELOAD splits at spaces and colons: a library with
 * those in its path is copied, and one that only this process sees.
 */
export function preloadable(library: string, folder: string): string {
  if (!/[ :]/.test(library) && !library.startsWith(embedded)) return library;
  const copy = join(folder, library.slice(library.lastIndexOf("/") + 1));
  writeFileSync(copy, readFileSync(library));
  return copy;
}
