import { readFileSync } from "node:fs";
import { CompileError } from "../../errors.ts";
import { sourceName } from "../../variant/cuda-source.ts";
import type { Variant } from "../../variant/variant.ts";

/**
 * A compile error as the writer of a CUDA variant needs it: lines of the source become lines of the
 * file where it is written. Anything else is returned unchanged.
 */
export function atUsersLine(error: unknown, variant: Variant | undefined): unknown {
  if (!(error instanceof CompileError) || variant?.cuda === undefined) return error;
  const place = sourcePlace(variant.cuda);
  if (place === undefined) return error;
  const name = sourceName(variant).replace(/[^\w ]/g, "\\$&");
  // NVRTC writes name(3), clang name:3.
  const lines = new RegExp(`"?${name}"?(?:\\((\\d+)\\)|:(\\d+))`, "g");
  const map = (text: string) =>
    text.replace(lines, (_, inBraces: string | undefined, behindColon: string | undefined) => {
      const line = Number(inBraces ?? behindColon) - 1 + place.line;
      return `${place.file}:${line}`;
    });
  const hint = "Fix: correct the hook there; FLASHBUN_DUMP=DIR writes the whole text.";
  const mapped = new CompileError(`${map(error.message)}\n${hint}`, map(error.log));
  mapped.cause = error;
  return mapped;
}

/** Where the first line of a source is: found in the file, else where the variant was defined. */
function sourcePlace({ source, place }: NonNullable<Variant["cuda"]>) {
  if (place === undefined) return undefined;
  try {
    const text = readFileSync(place.file, "utf8");
    const definition = text.split("\n", place.line - 1).join("\n").length;
    // The definition is a line of the call: the source begins after it, or before it in a constant.
    const behind = text.indexOf(source, definition);
    const at = behind >= 0 ? behind : text.lastIndexOf(source, definition);
    if (at >= 0) return { file: place.file, line: text.slice(0, at).split("\n").length };
  } catch {
    // The file is gone, or there never was one: only the definition's line is known.
  }
  return place;
}
