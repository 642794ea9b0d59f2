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
    throw unknownOption(name, option, given, known);
  }
}

/** The error for an option that is none, which says what it may have been meant for. */
export function unknownOption(
  name: string,
  option: string,
  given: unknown,
  known: readonly string[],
): OptionError {
  const near = nearest(option, known);
  const fix = near === undefined ? "remove or rename it." : `write ${near}, or remove it.`;
  const allowed = `one of the options ${known.join(", ")}`;
  return new OptionError(`${name}.${option}`, given, allowed, fix);
}

/** The name that another one is part of, or at most two letters away from. */
function nearest(name: string, known: readonly string[]): string | undefined {
  const [lower, lowers] = [name.toLowerCase(), known.map((each) => each.toLowerCase())];
  const isPart = (each: string) => each.includes(lower) || lower.includes(each);
  const part = lower.length < 3 ? -1 : lowers.findIndex((each) => each.length >= 3 && isPart(each));
  if (part >= 0) return known[part];
  const away = lowers.map((each) => lettersBetween(lower, each));
  const least = Math.min(...away);
  return least <= Math.min(2, lower.length / 3) ? known[away.indexOf(least)] : undefined;
}

/** Letters to insert, remove or replace, or neighbours to swap, from one word to another. */
function lettersBetween(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 2) return 3;
  let [older, before] = [[], Array.from({ length: b.length + 1 }, (_, j) => j)] as number[][];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      row[j] = Math.min(before[j] + 1, row[j - 1] + 1, before[j - 1] + same);
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwap) row[j] = Math.min(row[j], older[j - 2] + 1);
    }
    [older, before] = [before, row];
  }
  return before[b.length];
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
