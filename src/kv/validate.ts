import { OptionError } from "../errors.ts";
import { requireList } from "../require.ts";

/** The largest int32: every packed length, position and token index stays at or below it. */
export const maxInt32 = 0x7fffffff;

/**
 * Copies `values` to int32, each an integer from `least` to `most`; OptionError names the bad one.
 */
export function integers(
  option: string,
  values: ArrayLike<number>,
  least = 0,
  most = maxInt32,
): Int32Array {
  const result = new Int32Array(requireList(option, values));
  for (let i = 0; i < result.length; i++) {
    const value = values[i];
    if (!Number.isInteger(value) || value < least || value > most)
      throw new OptionError(
        `${option}[${i}]`,
        value,
        `an integer from ${least} to ${most}`,
        `correct entry ${i} of ${option}.`,
      );
    result[i] = value;
  }
  return result;
}

/** Copies an indptr to int32: it starts at 0, never decreases and has at least one entry. */
export function indptr(option: string, values: ArrayLike<number>, entries?: number): Int32Array {
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
