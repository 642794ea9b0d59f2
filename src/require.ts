import { OptionError } from "./errors.ts";

/** Throws an OptionError unless `value` is an integer in [least, most]. */
export function requireInteger(
  option: string,
  value: unknown,
  least: number,
  most = Number.MAX_SAFE_INTEGER,
  fix = `give ${option} a whole number in that range`,
): asserts value is number {
  if (Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most)
    return;
  const allowed =
    most === Number.MAX_SAFE_INTEGER
      ? `an integer of ${least} or more`
      : `an integer from ${least} to ${most}`;
  throw new OptionError(option, value, allowed, `${fix}.`);
}
