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
