import { CheckpointError } from "./errors.ts";
import { storedBytes, type StoredTensor } from "./stored.ts";

/** Rows or columns [from, to) of a matrix. */
export type Range = readonly [from: number, to: number];

/** Some rows of a stored tensor, by its first axis; one range of them stays in the mapping. */
export function rowsOf(stored: StoredTensor, ranges: readonly Range[]): StoredTensor {
  const [rows, ...rest] = stored.shape;
  const count = ranges.reduce((sum, [from, to]) => sum + to - from, 0);
  const { name, format, read } = stored;
  const first = (ranges[0][0] * storedBytes(stored)) / rows;
  return {
    name,
    format,
    shape: [count, ...rest],
    ...(read && ranges.length === 1 && { read: (into, at) => read(into, first + at) }),
    get bytes() {
      const all = stored.bytes;
      const rowBytes = all.length / rows;
      const parts = ranges.map(([from, to]) => all.subarray(from * rowBytes, to * rowBytes));
      return parts.length === 1 ? parts[0] : Buffer.concat(parts);
    },
  };
}

/** Some columns of a stored matrix, copied. Errors: CheckpointError where they cut a block. */
export function columnsOf(path: string, stored: StoredTensor, [from, to]: Range): StoredTensor {
  const [rows, columns] = stored.shape;
  const { format } = stored;
  const { blockElements, blockBytes, name } = format;
  if (from % blockElements !== 0 || to % blockElements !== 0) {
    const what = `columns ${from} to ${to} of ${stored.name} cut its blocks of ${blockElements}`;
    const fix = `use fewer ranks, or weights that are not ${name}.`;
    throw new CheckpointError(path, what, fix);
  }
  const bytesOf = (elements: number) => (elements / blockElements) * blockBytes;
  return {
    name: stored.name,
    format,
    shape: [rows, to - from],
    get bytes() {
      const all = stored.bytes;
      const width = bytesOf(to - from);
      const out = new Uint8Array(rows * width);
      for (let row = 0; row < rows; row++) {
        const at = row * bytesOf(columns) + bytesOf(from);
        out.set(all.subarray(at, at + width), row * width);
      }
      return out;
    },
  };
}
