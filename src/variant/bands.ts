/** Ranges of keys that variants of the library see. */
import type { VisibleRanges } from "./variant.ts";

/** Adds [start, end), of which all queries see [fullStart, fullEnd), in up to three parts. */
export function addBand(
  ranges: VisibleRanges,
  start: number,
  fullStart: number,
  fullEnd: number,
  end: number,
): void {
  const last = Math.min(fullEnd, end);
  const [from, to] = fullStart < last ? [fullStart, last] : [end, end];
  if (start < from) ranges.add(start, from, false);
  if (from < to) ranges.add(from, to, true);
  if (to < end) ranges.add(to, end, false);
}

/** The document of a position. */
export function documentAt(starts: ArrayLike<number>, position: number): number {
  let document = 0;
  while (document + 1 < starts.length && starts[document + 1] <= position) document++;
  return document;
}
