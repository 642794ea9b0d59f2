import { FlashbunError } from "../errors.ts";

/** What of a tensor's elements a line of text shows. */

/** A tensor, as far as this looks. */
interface Viewed {
  readonly shape: readonly number[];
  readonly elements: number;
  select(axis: number, index: number): Viewed;
  slice(axis: number, start: number, end: number): Viewed;
  toFloat64Array(): Float64Array;
}

const shownMost = 8;

/**
 * The first elements in row-major order: "1, 2.5, 3, ...". Reads no more than these; "(unread)"
 * where the device cannot give them, such as for want of memory that was frozen.
 */
export function firstValues(tensor: Viewed): string {
  try {
    return readFirst(tensor);
  } catch (error) {
    if (error instanceof FlashbunError) return "(unread)";
    throw error;
  }
}

function readFirst(tensor: Viewed): string {
  let view = tensor;
  let rowElements = view.elements / (view.shape[0] ?? 1);
  while (view.elements > shownMost && view.shape.length > 1 && rowElements > shownMost) {
    view = view.select(0, 0);
    rowElements /= view.shape[0];
  }
  if (view.elements > shownMost)
    view = view.slice(0, 0, Math.max(1, (shownMost / rowElements) | 0));
  const values = Array.from(view.toFloat64Array(), (value) => `${Number(value.toPrecision(6))}`);
  return [...values, ...(values.length < tensor.elements ? ["..."] : [])].join(", ");
}
