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

/** Throws an OptionError unless `value` is a number in [least, most]; infinities may be allowed. */
export function requireNumber(
  option: string,
  value: unknown,
  least = -Number.MAX_VALUE,
  most = Number.MAX_VALUE,
): asserts value is number {
  if (typeof value === "number" && value >= least && value <= most) return;
  const range =
    least > -Number.MAX_VALUE || most < Number.MAX_VALUE ? ` from ${least} to ${most}` : "";
  throw new OptionError(option, value, `a number${range}`, `give ${option} such a number.`);
}

/** Throws an OptionError unless `value` is a text. */
export function requireText(option: string, value: unknown): asserts value is string {
  if (typeof value === "string") return;
  throw new OptionError(option, value, "a text", `give ${option} as a string.`);
}

/** Throws an OptionError unless `value` is an object that holds no option but the known ones. */
export function requireOptions(
  name: string,
  value: unknown,
  known: readonly string[],
): asserts value is object {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    const allowed = `an object of ${known.join(", ")}`;
    throw new OptionError(name, value, allowed, `give ${name} as { ${known[0]}: ... }.`);
  }
  for (const option in value) {
    if (known.includes(option)) continue;
    const given = (value as Record<string, unknown>)[option];
    const one = `one of the options ${known.join(", ")}`;
    throw new OptionError(`${name}.${option}`, given, one, "remove or rename it.");
  }
}

/** Throws an OptionError unless a list has exactly `length` entries. */
export function requireLength(option: string, values: ArrayLike<unknown>, length: number): void {
  if (requireList(option, values) !== length)
    throw new OptionError(`${option}.length`, values.length, `${length}`, `resize ${option}.`);
}

/** Length of a list of numbers; OptionError if it is none. */
export function requireList(option: string, values: ArrayLike<unknown>): number {
  const length = (values as ArrayLike<unknown> | null | undefined)?.length;
  const isLength = Number.isInteger(length) && length! >= 0 && length! < 2 ** 31;
  if (isLength && typeof values === "object") return length!;
  throw new OptionError(option, values, "a list of numbers", "give an Int32Array or an array.");
}
