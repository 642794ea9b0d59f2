import { describe, expect, test } from "bun:test";
import { available } from "./cuda.ts";
import { bytesOf, decode, encode, type FormatName, formats } from "./numbers.ts";
import { kernelOf, run } from "./rig.ts";

/** Matrix i, row, column to a number that distinguishes them. */
function element(matrix: number, row: number, column: number): number {
  return matrix * 1000 + row * 100 + column;
}

/** The two elements of matrix `i` that a lane holds, as the PTX ISA's figure says. */
function heldBy(lane: number, i: number, transposed: boolean): number {
  const at = (h: number) => {
    const [row, column] = [lane >> 2, (lane % 4) * 2 + h];
    return transposed ? element(i, column, row) : element(i, row, column);
  };
  return at(0) | (at(1) << 16);
}

/** Small whole numbers, so that sums are exact whatever their order. */
function small(i: number, span: number): number {
  return ((i * 7919 + (i >> 3)) % span) - (span >> 1);
}

describe.skipIf(!available)("matrices", () => {
  test.each([1, 2, 4])("%d from shared memory", async (count) => {
    const rows = new Uint16Array(32 * 8).map((_, i) => element(i >> 6, (i >> 3) & 7, i & 7));
    const kernel = await kernelOf("matrices.cu", "load_matrices", { FB_COUNT: count });
    const out = new Uint32Array(run({ kernel, bytes: 32 * 32, data: rows }));
    for (let lane = 0; lane < 32; lane++)
      for (let i = 0; i < count; i++) {
        expect(out[lane * 8 + i]).toBe(heldBy(lane, i, false));
        expect(out[lane * 8 + 4 + i]).toBe(heldBy(lane, i, true));
      }
  });

  test("one turned in registers", async () => {
    const held = (turned: boolean) => new Uint32Array(32).map((_, lane) => heldBy(lane, 0, turned));
    const kernel = await kernelOf("matrices.cu", "turn_matrix");
    expect(new Uint32Array(run({ kernel, bytes: 128, data: held(false) }))).toEqual(held(true));
  });

  test.each([1, 2, 4])("%d to shared memory", async (count) => {
    for (const transposed of [false, true]) {
      const data = new Uint32Array(128).map((_, i) => heldBy(i >> 2, i & 3, transposed));
      const kernel = await kernelOf("matrices.cu", "store_matrices", { FB_COUNT: count });
      const out = new Uint16Array(run({ kernel, bytes: 1024, data }));
      const rows = out.subarray(transposed ? 256 : 0).subarray(0, 64 * count);
      expect(rows).toEqual(rows.map((_, i) => element(i >> 6, (i >> 3) & 7, i & 7)));
    }
  });

  test.each(["bf16", "f16", "e4m3", "e5m2"] as FormatName[])("products of %s", async (name) => {
    const format = formats[name];
    const each = 4 / bytesOf(name);
    const depth = each * 8;
    const a = (row: number, k: number) => small(row * depth + k + 1, 13);
    const b = (k: number, column: number) => small(k * 8 + column + 2, 15);
    const c = (row: number, column: number) => small(row * 8 + column, 101);
    const pack = (value: (e: number) => number) => {
      let word = 0;
      for (let e = 0; e < each; e++) word |= encode(value(e), format) << ((32 / each) * e);
      return word;
    };
    const data = new Uint32Array(32 * 10);
    const sums = new Float32Array(data.buffer);
    for (let lane = 0; lane < 32; lane++) {
      const [g, t] = [lane >> 2, lane % 4];
      for (let i = 0; i < 4; i++) {
        const column = t * each + (i >> 1) * 4 * each;
        data[lane * 10 + i] = pack((e) => a(g + (i & 1) * 8, column + e));
        sums[lane * 10 + 6 + i] = c(g + (i >> 1) * 8, t * 2 + (i & 1));
      }
      for (let i = 0; i < 2; i++)
        data[lane * 10 + 4 + i] = pack((e) => b(t * each + i * 4 * each + e, g));
    }
    const kernel = await kernelOf("matrices.cu", `mma_${name}`);
    const out = new Float32Array(run({ kernel, bytes: 32 * 16, data }));
    for (let lane = 0; lane < 32; lane++)
      for (let i = 0; i < 4; i++) {
        const [row, column] = [(lane >> 2) + (i >> 1) * 8, (lane % 4) * 2 + (i & 1)];
        let want = c(row, column);
        for (let k = 0; k < depth; k++) want += a(row, k) * b(k, column);
        expect(out[lane * 4 + i]).toBe(want);
      }
    expect(decode(encode(-6, format), format)).toBe(-6);
  });
});
