import { describe, expect, test } from "bun:test";
import { ropeFrequencies, ropeRates } from "../../src/ops/rope.ts";
import { available, emulated } from "./cuda.ts";
import { decode, type Format, formats, round } from "./numbers.ts";
import { type Constants, kernelOf, run } from "./rig.ts";

/**
 * Floats around every boundary: each 16-bit float pattern, and the middles between e4m3 numbers.
 */
function manyFloats(): Float32Array {
  const bits = new Uint32Array(2 * 65536 + 4 * 256);
  for (let i = 0; i < 65536; i++) {
    bits[2 * i] = i << 16;
    bits[2 * i + 1] = ((i * 40503) << 16) ^ (i * 2654435761); // any mantissa
  }
  const floats = new Float32Array(bits.buffer);
  for (let i = 0; i < 256; i++) {
    const value = decode(i & 127, i < 128 ? formats.e4m3 : formats.e5m2);
    const next = decode((i & 127) + 1, i < 128 ? formats.e4m3 : formats.e5m2);
    floats.set([value, (value + next) / 2, -(value + next) / 2, next], 131072 + 4 * i);
  }
  return floats;
}

function same(got: number, want: number): boolean {
  return Object.is(got, want) || (Number.isNaN(got) && Number.isNaN(want));
}

function countWrong(count: number, pair: (i: number) => [number, number]): string[] {
  const wrong: string[] = [];
  for (let i = 0; i < count; i++) {
    const [got, want] = pair(i);
    if (!same(got, want)) wrong.push(`${i}: ${got} instead of ${want}`);
  }
  return wrong.slice(0, 5);
}

describe.skipIf(!available)("values", () => {
  // The second is what GPUs before sm_89 run.
  const architectures: Constants[] = [{}, { FB_ARCH: 800 }];

  test.each(architectures)("floats become narrow numbers (%p)", async (constants) => {
    const floats = manyFloats();
    const kernel = await kernelOf("values.cu", "from_floats", constants);
    const count = floats.length / 2;
    const numbers = [count];
    const bytes = count * 16;
    const out = new Uint32Array(run({ kernel, threads: 128, bytes, data: floats, numbers }));
    const check = (format: Format, saturate: boolean, bits: (i: number) => number) =>
      countWrong(floats.length, (i) => [
        decode(bits(i), format),
        round(floats[i], format, saturate),
      ]);
    const word = (i: number, at: number) => out[(i >> 1) * 4 + at];
    expect(check(formats.bf16, false, (i) => (word(i, 0) >>> (16 * (i & 1))) & 0xffff)).toEqual([]);
    expect(check(formats.f16, false, (i) => (word(i, 1) >>> (16 * (i & 1))) & 0xffff)).toEqual([]);
    expect(check(formats.e4m3, true, (i) => (word(i, 2) >>> (8 * (i & 1))) & 0xff)).toEqual([]);
    expect(check(formats.e5m2, true, (i) => (word(i, 2) >>> (16 + 8 * (i & 1))) & 0xff)).toEqual(
      [],
    );
    const single = countWrong(count, (i) => {
      const [bf16, f16] = [word(2 * i, 0) & 0xffff, word(2 * i, 1) >>> 16];
      const [e4m3, e5m2] = [word(2 * i, 2) & 0xff, word(2 * i, 2) >>> 24];
      return [word(2 * i, 3), (bf16 ^ (f16 << 8) ^ e4m3 ^ e5m2) >>> 0];
    });
    expect(single).toEqual([]);
  });

  test.each(architectures)("narrow numbers become floats (%p)", async (constants) => {
    const kernel = await kernelOf("values.cu", "to_floats", constants);
    const buffer = run({ kernel, threads: 128, bytes: 4 * (131072 + 1024) });
    const floats = new Float32Array(buffer);
    const words = new Uint32Array(buffer);
    const exact = (at: number, format: Format) =>
      countWrong(65536, (i) => [floats[at + i], decode(i, format)]);
    expect(exact(0, formats.f16)).toEqual([]);
    expect(exact(65536, formats.bf16)).toEqual([]);
    const half = (at: number, side: number) =>
      decode((words[131072 + at] >>> (16 * side)) & 0xffff, formats.f16);
    for (const [at, format] of [formats.e4m3, formats.e5m2].entries()) {
      expect(countWrong(256, (i) => [half(4 * i + at, 0), decode(i, format)])).toEqual([]);
      expect(countWrong(256, (i) => [half(4 * i + at, 1), decode(255 - i, format)])).toEqual([]);
      expect(countWrong(256, (i) => [half(4 * i + 2 + at, 0), decode(i, format)])).toEqual([]);
      expect(countWrong(256, (i) => [half(4 * i + 2 + at, 1), decode(i, format)])).toEqual([]);
    }
  });

  test("products of pairs round once", async () => {
    const count = 4096;
    const data = new Uint32Array(2 * count).map((_, i) => (i * 2654435761) ^ (i << 7));
    const kernel = await kernelOf("values.cu", "products");
    const numbers = [count];
    const out = new Uint32Array(run({ kernel, threads: 128, bytes: 8 * count, data, numbers }));
    for (const [at, format] of [formats.f16, formats.bf16].entries()) {
      const wrong = countWrong(2 * count, (i) => {
        const part = (word: number) => decode((word >>> (16 * (i & 1))) & 0xffff, format);
        const pair = i >> 1;
        const product = part(data[2 * pair]) * part(data[2 * pair + 1]);
        return [part(out[2 * pair + at]), round(product, format, false)];
      });
      expect(wrong).toEqual([]);
    }
  });

  test("approximations are close", async () => {
    const data = new Float32Array(2000).map((_, i) =>
      i < 1000 ? i / 37 - 13 : 1.013 ** (i - 1500),
    );
    const kernel = await kernelOf("values.cu", "approximations");
    const numbers = [data.length];
    const bytes = data.length * 36;
    const out = new Float32Array(run({ kernel, threads: 128, bytes, data, numbers }));
    const exact = [
      (x: number) => 2 ** x,
      Math.log2,
      (x: number) => 1 / x,
      (x: number) => 1 / Math.sqrt(x),
      Math.tanh,
      Math.sqrt,
      (x: number) => 3 / x,
      (x: number) => Math.sin(Math.max(-3.14, Math.min(x, 3.14))),
      (x: number) => Math.cos(Math.max(-3.14, Math.min(x, 3.14))),
    ];
    const off = exact.map((f, k) => {
      let worst = 0;
      for (const [i, x] of data.entries()) {
        const want = Math.fround(f(x));
        if (Number.isFinite(want) && Math.abs(want) > 1e-30)
          worst = Math.max(worst, Math.abs(out[9 * i + k] - want) / Math.max(Math.abs(want), 0.5));
      }
      return worst < (k === 4 ? 2 ** -10 : 2 ** -20);
    });
    expect(off).toEqual(exact.map(() => true));
  });

  test("sines and cosines of many turns are close", async () => {
    const data = new Float32Array(4000).map((_, i) => (i - 2000) * (i < 3000 ? 0.013 : 97.31));
    const kernel = await kernelOf("values.cu", "angles");
    const [numbers, bytes] = [[data.length], data.length * 8];
    const out = new Float32Array(run({ kernel, threads: 128, bytes, data, numbers }));
    const wrong = [...data].flatMap((x, i) => {
      const off = Math.max(
        Math.abs(out[2 * i] - Math.sin(x)),
        Math.abs(out[2 * i + 1] - Math.cos(x)),
      );
      return off < 2 ** -20 ? [] : [`${x}: ${off}`];
    });
    expect(wrong).toEqual([]);
  });

  test("floats become whole numbers: truncated, saturated, 0 of NaN", async () => {
    const data = Float32Array.of(1.9, -1.9, 2147483520, 2147483648, 1e30, -2147483648, -1e30);
    const wanted = [1, -1, 2147483520, 2147483647, 2147483647, -2147483648, -2147483648];
    const kernel = await kernelOf("values.cu", "whole_numbers");
    const odd = Float32Array.of(...data, NaN, Infinity, -Infinity, -0.5);
    const [numbers, bytes] = [[odd.length], odd.length * 4];
    const out = new Int32Array(run({ kernel, threads: 128, bytes, data: odd, numbers }));
    expect([...out]).toEqual([...wanted, 0, 2147483647, -2147483648, 0]);
  });

  test("loads and stores of every size", async () => {
    const data = new Uint32Array(32 * 32).map((_, i) => i * 3 + 1);
    const kernel = await kernelOf("values.cu", "moves");
    const out = new Uint32Array(run({ kernel, bytes: 4096, data }));
    for (let t = 0; t < 32; t++) {
      const own = [...data.subarray(t * 32, t * 32 + 32)];
      const want = [...own.slice(0, 28), own[23], own[20], own[21], 0];
      expect([...out.subarray(t * 32, t * 32 + 32)]).toEqual(want);
    }
  });

  test("angles of rotation are right to 1e-5 at any position", async () => {
    const kernel = await kernelOf("values.cu", "rotation_angles");
    const frequencies = ropeFrequencies({ theta: 5e6 }, 128);
    const rates = ropeRates(frequencies);
    const pairs = frequencies.length;
    const places = [0, 1, 2, 1000, 131_071, 999_999, 1_000_000, 2 ** 31 - 1];
    const positions = [...places, ...places.map((place) => -place - 1)];
    const numbers = [pairs, positions.length];
    const data = new Int32Array([...rates, ...positions]);
    const bytes = 8 * pairs * positions.length;
    const out = new Float32Array(run({ kernel, threads: 128, bytes, data, numbers }));
    let worst = 0;
    positions.forEach((position, row) =>
      frequencies.forEach((frequency, pair) => {
        const at = 2 * (row * pairs + pair);
        const cos = Math.abs(out[at] - Math.cos(position * frequency));
        worst = Math.max(worst, cos, Math.abs(out[at + 1] - Math.sin(position * frequency)));
      }),
    );
    expect(worst).toBeLessThan(1e-5);
    const first = Array.from({ length: 2 * pairs }, (_, i) => (i % 2 === 0 ? 1 : 0));
    expect([...out.subarray(0, 2 * pairs)]).toEqual(first);
  });

  test("blocks wait for each other", async () => {
    const kernel = await kernelOf("values.cu", "counts");
    const blocks = 12;
    // The counters start as what run() fills in.
    const out = new Uint32Array(run({ kernel, grid: blocks, bytes: 16, zeroed: true }));
    expect([...out.subarray(0, 3)]).toEqual([blocks, 7, (blocks * (blocks - 1)) / 2]);
    expect(new Float32Array(out.buffer)[3]).toBe(blocks / 2);
  });

  test("special registers; one lane of each warp is elected, always the same", async () => {
    const kernel = await kernelOf("values.cu", "special");
    const out = new Uint32Array(run({ kernel, threads: 64, bytes: 1024, programmatic: true }));
    const column = (at: number) => Array.from({ length: 64 }, (_, t) => out[4 * t + at]);
    expect(column(0)).toEqual(Array.from({ length: 64 }, (_, t) => t % 32));
    expect(column(2)).toEqual(new Array(64).fill(1));
    expect(column(3)).toEqual(column(1));
    for (const first of [0, 32])
      expect(
        column(1)
          .slice(first, first + 32)
          .reduce((sum, one) => sum + one),
      ).toBe(1);
    if (!emulated) expect(column(1)[0]).toBe(1);
  });
});
