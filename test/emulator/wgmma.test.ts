import { describe, expect, test } from "bun:test";
import { available } from "./cuda.ts";
import { bytesOf, encode, type FormatName, formats } from "./numbers.ts";
import { kernelOf, run } from "./rig.ts";

/** Where an operand's elements lie: the canonical layouts of the PTX ISA. */
interface Layout {
  readonly span: 16 | 32 | 64 | 128;
  readonly alongMn: boolean;
  /** Of the two distances, whether the one along K is the larger. */
  readonly kOutside?: boolean;
}

interface Placed extends Layout {
  readonly bytes: number;
  readonly leading: number;
  readonly stride: number;
}

/** Lays an operand of `count` rows of M or N out, for one product (32 bytes of K). */
function layOut(layout: Layout, count: number): Placed {
  const { span, alongMn, kOutside = false } = layout;
  const atom = 8 * span;
  if (!alongMn) {
    const groups = count / 8;
    // Without a swizzle each 16 bytes of K are an atom of their own.
    if (span === 16) {
      const [leading, stride] = kOutside ? [groups * atom, atom] : [atom, 2 * atom];
      return { ...layout, bytes: 2 * groups * atom, leading, stride };
    }
    return { ...layout, bytes: groups * atom, leading: 0, stride: atom };
  }
  const spans = Math.ceil((count * 2) / span);
  const [alongK, alongSpans] = kOutside ? [spans * atom, atom] : [atom, 2 * atom];
  const [leading, stride] = span === 16 ? [alongK, alongSpans] : [alongSpans, alongK];
  return { ...layout, bytes: 2 * spans * atom, leading, stride };
}

/** Byte of element (mn, k) in shared memory, for an operand that starts at `start`. */
function placeOf(at: Placed, start: number, elementBytes: number, mn: number, k: number): number {
  const { span, alongMn, leading, stride } = at;
  let byte: number;
  if (!alongMn) {
    const along = k * elementBytes;
    byte = Math.floor(mn / 8) * stride + (mn % 8) * span + (along % 16);
    byte += Math.floor(along / 16) * (span === 16 ? leading : 16);
  } else {
    const along = mn * 2;
    const [spans, groups] = span === 16 ? [stride, leading] : [leading, stride];
    byte = Math.floor(along / span) * spans + (along % span);
    byte += Math.floor(k / 8) * groups + (k % 8) * span;
  }
  byte += start;
  return byte ^ (((byte >> 7) & (span / 16 - 1)) << 4);
}

interface Case {
  readonly kind: FormatName;
  readonly width: number;
  readonly widths?: readonly number[];
  readonly a: Layout;
  readonly b: Layout;
}

function valueOfA(m: number, k: number): number {
  return ((m * 5 + k * 3) % 11) - 5;
}

function valueOfB(k: number, n: number): number {
  return ((n * 7 + k * 2 + (n >> 3)) % 13) - 6;
}

/** Elements of the operands. */
interface Values {
  readonly a: (m: number, k: number) => number;
  readonly b: (k: number, n: number) => number;
}

const small: Values = { a: valueOfA, b: valueOfB };

/** The two products' operands as they lie in shared memory, then a as registers. */
function operandsOf({ kind, width }: Case, a: Placed, b: Placed, of: Values): Uint32Array {
  const size = bytesOf(kind);
  const depth = 32 / size;
  const format = formats[kind];
  const shared = 2 * (a.bytes + b.bytes);
  const memory = new Uint8Array(shared + 128 * 32);
  const put = (byte: number, value: number) => {
    const bits = encode(value, format);
    for (let i = 0; i < size; i++) memory[byte + i] = bits >> (8 * i);
  };
  for (let turn = 0; turn < 2; turn++)
    for (let k = 0; k < depth; k++) {
      for (let m = 0; m < 64; m++)
        put(placeOf(a, turn * a.bytes, size, m, k), of.a(m, k + turn * depth));
      for (let n = 0; n < width; n++)
        put(placeOf(b, 2 * a.bytes + turn * b.bytes, size, n, k), of.b(k + turn * depth, n));
    }
  const each = 4 / size;
  for (let t = 0; t < 128; t++)
    for (let i = 0; i < 8; i++) {
      const [turn, word] = [i >> 2, i & 3];
      const row = (t >> 5) * 16 + ((t & 31) >> 2) + (word & 1) * 8;
      const column = (t % 4) * each + (word >> 1) * 4 * each + turn * depth;
      for (let e = 0; e < each; e++) put(shared + t * 32 + i * 4 + e * size, of.a(row, column + e));
    }
  return new Uint32Array(memory.buffer);
}

/** The sum of a row and a column that starts at `first`. */
function sumOf(depth: number, first: number, row: number, column: number): number {
  let sum = first;
  for (let k = 0; k < depth; k++) sum += valueOfA(row, k) * valueOfB(k, column);
  return sum;
}

function countWrong(
  out: Float32Array,
  { width }: Case,
  want: (row: number, column: number) => number,
): number {
  let wrong = 0;
  for (let t = 0; t < 128; t++)
    for (let i = 0; i < width / 2; i++) {
      const row = (t >> 5) * 16 + ((t & 31) >> 2) + ((i >> 1) & 1) * 8;
      const column = (i >> 2) * 8 + (t % 4) * 2 + (i & 1);
      if (out[t * (width / 2) + i] !== want(row, column)) wrong++;
    }
  return wrong;
}

async function check(what: Case, source: "shared" | "registers"): Promise<void> {
  const [depth, first] = [64 / bytesOf(what.kind), source === "shared" ? 0 : 1];
  const out = await runCase(what, source, small);
  expect(countWrong(out, what, (row, column) => sumOf(depth, first, row, column))).toBe(0);
}

async function runCase(
  what: Case,
  source: "shared" | "registers",
  values: Values,
): Promise<Float32Array> {
  const [a, b] = [layOut(what.a, 64), layOut(what.b, what.width)];
  const constants = {
    FB_KIND: what.kind,
    FB_FP8: bytesOf(what.kind) === 1 ? 1 : 0,
    FB_A_ALONG_M: what.a.alongMn ? 1 : 0,
    FB_B_ALONG_N: what.b.alongMn ? 1 : 0,
    FB_WIDTHS: (what.widths ?? [what.width]).map((width) => `X(${width})`).join(" "),
  };
  const kernel = await kernelOf("wgmma.cu", `${source}_${what.width}`, constants);
  const data = operandsOf(what, a, b, values);
  const numbers = [a.bytes, b.bytes, a.span, a.leading, a.stride, b.span, b.leading, b.stride];
  const shared = 2 * (a.bytes + b.bytes);
  const bytes = 128 * what.width * 2;
  return new Float32Array(run({ kernel, threads: 128, shared, bytes, data, numbers }));
}

const spans = [16, 32, 64, 128] as const;
const alongK = { span: 128, alongMn: false } as const;

describe.skipIf(!available)("wgmma", () => {
  const widths = Array.from({ length: 32 }, (_, i) => 8 * (i + 1));

  test.each(widths)("%d columns", async (width) => {
    const what = { kind: "bf16", width, widths, a: alongK, b: alongK } as const;
    await check(what, "shared");
    await check(what, "registers");
  });

  test.each(spans)("operands with a span of %d bytes", async (span) => {
    for (const aAlongM of [false, true])
      for (const bAlongN of [false, true])
        for (const kOutside of [false, true]) {
          const a = { span, alongMn: aAlongM, kOutside };
          const b = { span, alongMn: bAlongN, kOutside };
          const widths = [8, 64, 96, 256];
          for (const width of widths) {
            await check({ kind: "bf16", width, widths, a, b }, "shared");
            if (!aAlongM) await check({ kind: "bf16", width, widths, a, b }, "registers");
          }
        }
  });

  test.each(["f16", "e4m3", "e5m2"] as const)("products of %s", async (kind) => {
    for (const span of spans) {
      const [a, b] = [{ span, alongMn: false }, { ...alongK }];
      for (const width of [16, 80]) {
        await check({ kind, width, widths: [16, 80], a, b }, "shared");
        await check({ kind, width, widths: [16, 80], a, b }, "registers");
      }
    }
  });

  test("sums of fp8 products are cut off 13 bits below their largest", async () => {
    const what = { kind: "e4m3", width: 16, widths: [16, 80], a: alongK, b: alongK } as const;
    // To 1, which the sums start as, rows add one product of 2^-9 to 2^-15, or 32 of 2^-15.
    const values: Values = {
      a: (m, k) => (k >= 32 ? 0 : m >= 32 ? 2 ** -9 : k === 0 ? 2 ** -(3 + (m % 7)) : 0),
      b: () => 2 ** -6,
    };
    const out = await runCase(what, "registers", values);
    const want = (row: number) => (row < 32 && row % 7 <= 4 ? 1 + 2 ** -(9 + (row % 7)) : 1);
    expect(countWrong(out, what, want)).toBe(0);
  });
});
