/** Narrow floating-point formats by their definition: sign, exponent, mantissa. */
export interface Format {
  readonly mantissa: number;
  readonly bias: number;
  readonly exponent: number;
  /** e4m3 has no infinities: only the pattern of all ones is not a number. */
  readonly finite?: boolean;
}

export const formats = {
  bf16: { mantissa: 7, bias: 127, exponent: 8 },
  f16: { mantissa: 10, bias: 15, exponent: 5 },
  e4m3: { mantissa: 3, bias: 7, exponent: 4, finite: true },
  e5m2: { mantissa: 2, bias: 15, exponent: 5 },
} as const satisfies Record<string, Format>;

export type FormatName = keyof typeof formats;

/** Bytes of one element. */
export function bytesOf(name: FormatName): number {
  return name === "bf16" || name === "f16" ? 2 : 1;
}

/** The number that a pattern of bits means. */
export function decode(bits: number, { mantissa, bias, exponent, finite }: Format): number {
  const sign = (bits >> (mantissa + exponent)) & 1 ? -1 : 1;
  const e = (bits >> mantissa) & (2 ** exponent - 1);
  const m = bits & (2 ** mantissa - 1);
  if (e === 2 ** exponent - 1) {
    if (finite ? m === 2 ** mantissa - 1 : m !== 0) return NaN;
    if (!finite) return sign * Infinity;
  }
  if (e === 0) return sign * m * 2 ** (1 - bias - mantissa);
  return sign * (1 + m / 2 ** mantissa) * 2 ** (e - bias);
}

/** The nearest representable number, ties to even; beyond the largest: infinity, or the largest. */
export function round(x: number, format: Format, saturate: boolean): number {
  if (Number.isNaN(x) || x === 0) return x;
  const { mantissa, bias, exponent, finite } = format;
  const top = 2 ** exponent - (finite ? 1 : 2);
  const largest = decode((top << mantissa) | (2 ** mantissa - (finite ? 2 : 1)), format);
  const magnitude = Math.abs(x);
  const step = 2 ** (Math.max(Math.floor(Math.log2(magnitude)), 1 - bias) - mantissa);
  const rounded = Number.isFinite(x) ? toEven(magnitude / step) * step : magnitude;
  return Math.sign(x) * (rounded <= largest ? rounded : saturate ? largest : Infinity);
}

function toEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  if (rest !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}

/** The pattern of bits of a number that the format holds exactly. */
export function encode(x: number, format: Format): number {
  const { mantissa, bias, exponent } = format;
  const sign = (x < 0 || Object.is(x, -0) ? 1 : 0) << (mantissa + exponent);
  const magnitude = Math.abs(x);
  if (magnitude === 0) return sign;
  const e = Math.max(Math.floor(Math.log2(magnitude)), 1 - bias);
  const m = magnitude / 2 ** (e - mantissa);
  return sign | (m < 2 ** mantissa ? m : ((e + bias) << mantissa) | (m - 2 ** mantissa));
}
