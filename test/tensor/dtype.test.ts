import { describe, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import {
  decode,
  type DType,
  dtypeBytes,
  dtypeCode,
  dtypes,
  encode,
  isFloat,
  isFp8,
  requireDType,
} from "../../src/tensor/dtype.ts";
import { seeded } from "../support/random.ts";

type Small = "f16" | "bf16" | "f8e4m3" | "f8e5m2";

/** The formats as their standards state them, apart from the code under test. */
const formats = {
  f16: { exponentBits: 5, mantissaBits: 10, infinity: 0x7c00, finite: 0x7bff, saturates: false },
  bf16: { exponentBits: 8, mantissaBits: 7, infinity: 0x7f80, finite: 0x7f7f, saturates: false },
  f8e4m3: { exponentBits: 4, mantissaBits: 3, infinity: NaN, finite: 0x7e, saturates: true },
  f8e5m2: { exponentBits: 5, mantissaBits: 2, infinity: 0x7c, finite: 0x7b, saturates: true },
} as const;
const smalls = Object.keys(formats) as Small[];

function codesOf(dtype: DType, values: number[]): Uint8Array | Uint16Array {
  const bytes = new Uint8Array(values.length * dtypeBytes(dtype));
  encode(dtype, values, bytes);
  return dtypeBytes(dtype) === 2 ? new Uint16Array(bytes.buffer) : bytes;
}

function valuesOf(dtype: Small, codes: number[]): Float64Array {
  const wide = dtypeBytes(dtype) === 2;
  const bytes = wide ? new Uint8Array(new Uint16Array(codes).buffer) : new Uint8Array(codes);
  return decode(dtype, bytes);
}

/** The value of a finite code without sign, exactly. */
function valueOf(dtype: Small, code: number): number {
  const { exponentBits, mantissaBits } = formats[dtype];
  const bias = 2 ** (exponentBits - 1) - 1;
  const exponent = code >> mantissaBits;
  const mantissa = code % 2 ** mantissaBits;
  const whole = exponent === 0 ? mantissa : mantissa + 2 ** mantissaBits;
  return whole * 2 ** (Math.max(exponent, 1) - bias - mantissaBits);
}

/** f64 as an exact integer count of 2^-1074. */
function exact(x: number): bigint {
  const bits = new BigUint64Array(new Float64Array([x]).buffer)[0];
  const exponent = (bits >> 52n) & 0x7ffn;
  const mantissa = bits & ((1n << 52n) - 1n);
  return exponent === 0n ? mantissa : (mantissa | (1n << 52n)) << (exponent - 1n);
}

/** Nearest code to a finite x >= 0 by bisection over exact integers, ties to the even code. */
function nearest(dtype: Small, x: number): number {
  const { finite, infinity, saturates } = formats[dtype];
  const wanted = exact(x);
  let low = 0;
  let high: number = finite;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (exact(valueOf(dtype, middle)) <= wanted) low = middle;
    else high = middle - 1;
  }
  const below = exact(valueOf(dtype, low));
  if (below === wanted) return low;
  const step = exact(valueOf(dtype, finite)) - exact(valueOf(dtype, finite - 1));
  const above = low === finite ? below + step : exact(valueOf(dtype, low + 1));
  const twice = 2n * wanted - below - above;
  const up = twice > 0n || (twice === 0n && low % 2 === 1);
  if (!up) return low;
  return low === finite ? (saturates ? finite : infinity) : low + 1;
}

function neighbour(x: number, by: bigint): number {
  const bits = new BigUint64Array(new Float64Array([x]).buffer);
  bits[0] += by;
  return new Float64Array(bits.buffer)[0];
}

describe.each(smalls)("%s", (dtype) => {
  const { finite, infinity, saturates } = formats[dtype];
  const patterns = 2 ** (8 * dtypeBytes(dtype));
  const sign = patterns / 2;
  const all = Array.from({ length: patterns }, (_, code) => code);

  test("decodes every pattern exactly and encodes it back", () => {
    const values = valuesOf(dtype, all);
    const back = codesOf(dtype, [...values]);
    for (const code of all) {
      const magnitude = code % sign;
      if (magnitude <= finite) {
        const value = code < sign ? valueOf(dtype, magnitude) : -valueOf(dtype, magnitude);
        if (!Object.is(values[code], value)) throw new Error(`code ${code} read ${values[code]}`);
        if (back[code] !== code) throw new Error(`code ${code} came back as ${back[code]}`);
      } else if (magnitude === infinity) {
        expect(values[code]).toBe(code < sign ? Infinity : -Infinity);
        expect(back[code] % sign).toBe(saturates ? finite : infinity);
      } else {
        expect(values[code]).toBeNaN();
        expect(valuesOf(dtype, [back[code]])[0]).toBeNaN();
      }
    }
  });

  test("rounds midpoints to even and their neighbours to nearest", () => {
    const values: number[] = [];
    for (let code = 0; code < finite; code++) {
      const middle = (valueOf(dtype, code) + valueOf(dtype, code + 1)) / 2;
      values.push(middle, neighbour(middle, 1n), neighbour(middle, -1n));
      // A hair that f32 would round away: twice rounded, it would land on the midpoint.
      values.push(middle * (1 + 2 ** -40), middle * (1 - 2 ** -40));
    }
    const codes = codesOf(dtype, values);
    const negative = codesOf(
      dtype,
      values.map((x) => -x),
    );
    for (let i = 0; i < values.length; i++) {
      const wanted = nearest(dtype, values[i]);
      if (codes[i] !== wanted) throw new Error(`${values[i]} gave ${codes[i]}, not ${wanted}`);
      if (negative[i] !== wanted + sign) throw new Error(`-${values[i]} gave ${negative[i]}`);
    }
  });

  test("agrees with an exact search for random numbers of every size", () => {
    const random = seeded(7);
    const values: number[] = [];
    for (let i = 0; i < 20_000; i++)
      values.push((1 + random.next()) * 2 ** random.integer(-160, 140));
    const largest = valueOf(dtype, finite);
    values.push(0, 5e-324, Number.MIN_VALUE * 3, Number.MAX_VALUE, largest, largest * 1.0001);
    const step = largest - valueOf(dtype, finite - 1);
    for (const edge of [largest + step / 2, largest + step])
      values.push(edge, neighbour(edge, -1n), neighbour(edge, 1n));
    const codes = codesOf(dtype, values);
    for (let i = 0; i < values.length; i++) expect(codes[i]).toBe(nearest(dtype, values[i]));
  });

  test("keeps NaN, infinities and the sign of zero", () => {
    const [nan, up, down, zero, minus] = codesOf(dtype, [NaN, Infinity, -Infinity, 0, -0]);
    expect(valuesOf(dtype, [nan])[0]).toBeNaN();
    expect(up).toBe(saturates ? finite : infinity);
    expect(down).toBe(sign + (saturates ? finite : infinity));
    expect([zero, minus]).toEqual([0, sign]);
  });
});

test("f32 rounds to nearest even and overflows to infinity", () => {
  const bytes = new Uint8Array(16);
  encode("f32", [1 + 2 ** -24, 1 + 3 * 2 ** -24, 3.5e38, -1e-50], bytes);
  expect([...decode("f32", bytes)]).toEqual([1, 1 + 2 ** -22, Infinity, -0]);
});

test("integers cut towards zero and saturate, NaN is 0", () => {
  const data = [1.9, -1.9, 1e30, -1e30, NaN, Infinity, -Infinity, 127, 200];
  const cut = (dtype: DType) => {
    const bytes = new Uint8Array(data.length * dtypeBytes(dtype));
    encode(dtype, data, bytes);
    return [...decode(dtype, bytes)];
  };
  expect(cut("i8")).toEqual([1, -1, 127, -128, 0, 127, -128, 127, 127]);
  expect(cut("u8")).toEqual([1, 0, 255, 0, 0, 255, 0, 127, 200]);
  const most = 2 ** 31 - 1;
  expect(cut("i32")).toEqual([1, -1, most, -most - 1, 0, most, -most - 1, 127, 200]);
  expect(cut("bool")).toEqual(data.map(() => 1));
  const wide = [1, -1, 2 ** 63, -(2 ** 63), 0, 2 ** 63, -(2 ** 63), 127, 200];
  expect(cut("i64")).toEqual(wide);
});

test("i64 takes bigints, exactly", () => {
  const bytes = new Uint8Array(24);
  encode("i64", [2n ** 62n + 1n, -(2n ** 63n), 2n ** 70n], bytes);
  expect([...new BigInt64Array(bytes.buffer)]).toEqual([
    2n ** 62n + 1n,
    -(2n ** 63n),
    2n ** 63n - 1n,
  ]);
  expect(() => encode("f32", [1n], new Uint8Array(4))).toThrow(OptionError);
});

test("names, codes and sizes are those of params/types.h", async () => {
  const header = await Bun.file(`${import.meta.dir}/../../kernels/params/types.h`).text();
  for (const dtype of dtypes)
    expect(header).toContain(`#define FB_${dtype.toUpperCase()} ${dtypeCode(dtype)}\n`);
  expect(dtypes.map(dtypeBytes)).toEqual([4, 2, 2, 1, 1, 1, 4, 8, 1, 1]);
  expect(() => requireDType("dtype", "f64")).toThrow(
    /dtype must be one of f32, .* \(got "f64"\)\. Fix: /,
  );
});

test("fp8 are the floats of one byte", () => {
  const floats = dtypes.filter(isFloat);
  expect(floats).toEqual(["f32", ...smalls]);
  expect(dtypes.filter(isFp8)).toEqual(floats.filter((dtype) => dtypeBytes(dtype) === 1));
});

test("unaligned bytes work, wrong sizes are refused", () => {
  const bytes = new Uint8Array(new ArrayBuffer(9), 1);
  encode("f32", [1.5, -2], bytes);
  expect([...decode("f32", bytes)]).toEqual([1.5, -2]);
  expect(() => encode("f32", [1], bytes)).toThrow(OptionError);
  expect(() => decode("f32", bytes.subarray(1))).toThrow(OptionError);
});
