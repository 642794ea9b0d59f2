import { OptionError } from "../errors.ts";
import { requireList } from "../require.ts";

/** The largest int32: every packed length, position and token index stays at or below it. */
export const maxInt32 = 0x7fffffff;

/** A list of whole numbers: an array, an Int32Array, a BigInt64Array ... */
export type Integers = ArrayLike<number> | ArrayLike<bigint>;

/**
 * Copies the first `count` of `values` (default all) to int32, each an integer from `least` to
 * `most`; OptionError names the bad one.
 */
export function integers(
  option: string,
  values: Integers,
  least = 0,
  most = maxInt32,
  count = requireList(option, values),
): Int32Array {
  // Numbers that are int32 already only have to be in range.
  if (values instanceof Int32Array && inRange(values, least, most, count))
    return values.slice(0, count);
  const result = new Int32Array(count);
  for (let i = 0; i < result.length; i++) {
    const given = values[i];
    const value = typeof given === "bigint" ? Number(given) : given;
    if (!Number.isInteger(value) || value < least || value > most)
      throw new OptionError(
        `${option}[${i}]`,
        given,
        `an integer from ${least} to ${most}`,
        `correct entry ${i} of ${option}.`,
      );
    result[i] = value;
  }
  return result;
}

function inRange(values: Int32Array, least: number, most: number, count: number): boolean {
  for (let i = 0; i < count; i++) if (values[i] < least || values[i] > most) return false;
  return values.length >= count;
}

/** Copies an indptr to int32: it starts at 0, never decreases and has at least one entry. */
export function indptr(option: string, values: Integers, entries?: number): Int32Array {
  const result = integers(option, values);
  if (result.length === 0 || (entries !== undefined && result.length !== entries))
    throw new OptionError(
      `${option}.length`,
      result.length,
      entries === undefined ? "1 or more" : `${entries}`,
      "give one entry per row and one more for the end.",
    );
  if (result[0] !== 0)
    throw new OptionError(`${option}[0]`, result[0], "0", `start ${option} at 0.`);
  for (let i = 1; i < result.length; i++) {
    if (result[i] < result[i - 1])
      throw new OptionError(
        `${option}[${i}]`,
        result[i],
        `${result[i - 1]} (the entry before it) or more`,
        `make ${option} a running sum of lengths.`,
      );
  }
  return result;
}
