import { all, either, bytes, literal, oneOf, optional, type Rule, times } from "./rule.ts";
import { integerRule, numberRule } from "./json-rules.ts";

/** Bounds of a number; absent ones are infinite. */
export interface NumberBounds {
  readonly least: number;
  readonly most: number;
  /** Whether the bound itself is outside. */
  readonly isAboveLeast: boolean;
  readonly isBelowMost: boolean;
}

const digit = bytes([0x30, 0x39]);

/** Integers within bounds, which are integers or infinite. */
export function integerRange(bounds: NumberBounds): Rule {
  const least = bounds.least + (bounds.isAboveLeast ? 1 : 0);
  const most = bounds.most - (bounds.isBelowMost ? 1 : 0);
  if (least === -Infinity && most === Infinity) return integerRule;
  return either(
    ...(most >= 0 ? [wholeRange(Math.max(0, least), most)] : []),
    ...(least < 0 ? [all(oneOf("-"), wholeRange(Math.max(1, -most), -least))] : []),
  );
}

/** Numbers within such bounds; with a bound they have no exponent. */
export function numberRange(bounds: NumberBounds): Rule {
  const { least, most, isAboveLeast, isBelowMost } = bounds;
  if (least === -Infinity && most === Infinity) return numberRule;
  const negative = {
    least: Math.max(0, -most),
    most: -least,
    // -0 is 0.
    isAboveLeast: most >= 0 || isBelowMost,
    isBelowMost: isAboveLeast,
  };
  const positive = {
    least: Math.max(0, least),
    most,
    isAboveLeast: least >= 0 && isAboveLeast,
    isBelowMost,
  };
  return either(
    ...(most >= 0 ? [decimalRange(positive)] : []),
    ...(least < 0 ? [all(oneOf("-"), decimalRange(negative))] : []),
  );
}

const fraction = all(oneOf("."), times(digit, 1, Infinity));
const zeros = times(oneOf("0"), 0, Infinity);
const noFraction = optional(all(oneOf("."), oneOf("0"), zeros));
const someFraction = all(oneOf("."), zeros, bytes([0x31, 0x39]), times(digit, 0, Infinity));

/** Numbers from 0 up without a sign. */
function decimalRange({ least, most, isAboveLeast, isBelowMost }: NumberBounds): Rule {
  if (least > most) return either();
  if (least === most)
    return isAboveLeast || isBelowMost ? either() : all(wholeRange(least, least), noFraction);
  return either(
    all(wholeRange(least, least), isAboveLeast ? someFraction : optional(fraction)),
    // Between the whole parts of both bounds everything may stand behind the point.
    ...(least + 1 < most ? [all(wholeRange(least + 1, most - 1), optional(fraction))] : []),
    ...(isBelowMost || most === Infinity ? [] : [all(wholeRange(most, most), noFraction)]),
  );
}

/** Whole numbers [least, most] without a sign, least 0 or more. */
function wholeRange(least: number, most: number): Rule {
  if (least > most) return either();
  const rules: Rule[] = [];
  for (let from = least; from <= most;) {
    const { length } = String(from);
    const last = 10 ** length - 1;
    if (most === Infinity && from === 10 ** (length - 1)) {
      // All numbers of this length and of any greater one.
      rules.push(all(bytes([0x31, 0x39]), times(digit, length - 1, Infinity)));
      break;
    }
    rules.push(...digitsBetween(String(from), String(Math.min(last, most))));
    from = last + 1;
  }
  return either(...rules);
}

/** Digit strings between two of the same length. */
function digitsBetween(low: string, high: string): Rule[] {
  if (low === high) return [literal(low)];
  const at = (text: string) => text.charCodeAt(0);
  const rest = low.length - 1;
  const [first, last] = [at(low), at(high)];
  if (first === last) {
    const inner = digitsBetween(low.slice(1), high.slice(1));
    return [all(literal(low[0]), either(...inner))];
  }
  const rules: Rule[] = [];
  const lowIsWhole = /^0*$/.test(low.slice(1));
  const highIsWhole = /^9*$/.test(high.slice(1));
  const from = lowIsWhole ? first : first + 1;
  const to = highIsWhole ? last : last - 1;
  if (from <= to) rules.push(all(bytes([from, to]), times(digit, rest, rest)));
  if (!lowIsWhole)
    rules.push(all(literal(low[0]), either(...digitsBetween(low.slice(1), "9".repeat(rest)))));
  if (!highIsWhole)
    rules.push(all(literal(high[0]), either(...digitsBetween("0".repeat(rest), high.slice(1)))));
  return rules;
}
