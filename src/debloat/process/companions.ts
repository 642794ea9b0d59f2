import { copyFileSync } from "node:fs";
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

/** LD_PRELOAD splits at spaces and colons: a library with those in its path is copied. */
export function withoutSeparators(library: string, folder: string): string {
  if (!/[ :]/.test(library)) return library;
  const copy = join(folder, library.slice(library.lastIndexOf("/") + 1));
  copyFileSync(library, copy);
  return copy;
}
