import { describe, expect, test } from "bun:test";
import { roundTo } from "../../src/tensor/dtype.ts";
import { coordinates, difference, expectState } from "./compare.ts";
import { mergeOracle, oracle, type OracleInput } from "./oracle.ts";
import { seeded } from "./random.ts";
import { expectedOf, limitsOf } from "./tolerance.ts";

const random = seeded(5);
const normals = (count: number) => Float64Array.from({ length: count }, () => random.normal());

function problem(queries: number, keys: number, over: Partial<OracleInput> = {}): OracleInput {
  return {
    queryHeads: 4,
    kvHeads: 2,
    keyDim: 8,
    valueDim: 16,
    q: normals(queries * 4 * 8),
    k: normals(keys * 2 * 8),
    v: normals(keys * 2 * 16),
    ...over,
  };
}

const close = (a: ArrayLike<number>, b: ArrayLike<number>, within = 1e-12) => {
  const limits = new Float64Array(b.length).fill(within);
  const { firstBad } = difference(a, b, limits, 1);
  if (firstBad >= 0) throw new Error(`[${firstBad}] ${a[firstBad]} is not ${b[firstBad]}`);
};

describe("the oracle", () => {
  test("of one key returns its value and its logit", () => {
    const input = problem(1, 1, { scale: 0.5 });
    const { out, lse } = oracle(input);
    for (let head = 0; head < 4; head++) {
      const kvHead = head >> 1;
      close(out.slice(head * 16, head * 16 + 16), input.v.slice(kvHead * 16, kvHead * 16 + 16));
      let product = 0;
      for (let d = 0; d < 8; d++) product += input.q[head * 8 + d] * input.k[kvHead * 8 + d];
      expect(lse[head]).toBeCloseTo(product / 2, 12);
    }
  });

  test("of equal scores returns the mean and log(count)", () => {
    const { out, lse } = oracle(
      problem(1, 7, { q: new Float64Array(32), v: new Float64Array(224).fill(3) }),
    );
    close(out, new Float64Array(64).fill(3));
    close(lse, new Float64Array(4).fill(Math.log(7)));
  });

  test("aligns causal to the bottom right and leaves rows without keys at 0 and -inf", () => {
    const input = problem(5, 3, { causal: true });
    const { out, lse } = oracle(input);
    expect([...lse.slice(0, 8)]).toEqual(new Array(8).fill(-Infinity));
    expect([...out.slice(0, 128)]).toEqual(new Array(128).fill(0));
    close(out.slice(128, 144), input.v.slice(0, 16));
    const last = oracle({ ...input, causal: false });
    close(out.slice(4 * 64), last.out.slice(4 * 64));
  });

  test("reads a window as causal keys at most windowLeft back", () => {
    const input = problem(6, 9, { causal: true, windowLeft: 2 });
    const bits = new Uint8Array(7);
    for (let query = 0; query < 6; query++)
      for (let key = query + 1; key <= query + 3; key++) {
        const bit = query * 9 + key;
        bits[bit >> 3] |= 1 << (bit & 7);
      }
    const masked = oracle({ ...input, causal: false, windowLeft: -1, mask: { bits, mode: "all" } });
    close(oracle(input).out, masked.out);
    const visible = (query: number, _: number, key: number) => key > query && key <= query + 3;
    close(oracle({ ...input, causal: false, windowLeft: -1, visible }).out, masked.out);
  });

  test("a tail mask leaves all keys before the tail visible", () => {
    const input = problem(3, 8);
    const none = oracle({ ...input, mask: { bits: new Uint8Array(2), mode: "tail" } });
    const cut = { k: input.k.slice(0, 80), v: input.v.slice(0, 160) };
    close(none.out, oracle({ ...input, ...cut }).out);
  });

  test("a sink is one more key without value, and raw states leave it out", () => {
    const input = problem(2, 5);
    const sinks = [0.3, -1, 2, 0];
    const plain = oracle(input);
    const { out, lse } = oracle({ ...input, sinks });
    for (let row = 0; row < 8; row++) {
      const total = Math.log(Math.exp(plain.lse[row]) + Math.exp(sinks[row % 4]));
      expect(lse[row]).toBeCloseTo(total, 12);
      const part = Math.exp(plain.lse[row] - total);
      expect(out[row * 16]).toBeCloseTo(plain.out[row * 16] * part, 12);
    }
    close(oracle({ ...input, sinks, finalize: false }).out, plain.out);
  });

  test("rotation depends on the distance only, in both pairings", () => {
    const frequencies = Float64Array.of(1, 0.1, 0.01);
    for (const interleaved of [false, true]) {
      const rope = { frequencies, first: 0, interleaved };
      const input = problem(1, 1, { rope });
      const near = oracle({ ...input, queryPositions: [0] });
      const far = oracle({ ...input, queryPositions: [5] });
      expect(Math.abs(near.lse[0] - far.lse[0])).toBeGreaterThan(1e-3);
      const unrotated = oracle({ ...input, rope: undefined });
      close(near.lse, unrotated.lse);
    }
  });

  test("a factor of rotated queries is its root on cosines and sines of both", () => {
    const frequencies = Float64Array.of(1, 0.1);
    const rope = { frequencies, first: 2, interleaved: false };
    const input = problem(2, 6);
    const longer = (x: Float64Array) => x.map((value, i) => (isTurned(i) ? 1.5 * value : value));
    const isTurned = (i: number) => i % input.keyDim >= 2 && i % input.keyDim < 6;
    const both = oracle({ ...input, rope, q: longer(input.q), k: longer(input.k) });
    close(oracle({ ...input, rope: { ...rope, factor: 2.25 } }).out, both.out);
  });

  test("scales, soft cap, ALiBi and base 2 mean what they say", () => {
    const input = problem(2, 6);
    const scaled = oracle({ ...input, kScale: () => 2, vScale: () => 3 });
    const by = oracle({ ...input, k: input.k.map((x) => 2 * x), v: input.v.map((x) => 3 * x) });
    close(scaled.out, by.out);
    close(
      oracle({ ...input, lseBase: "2" }).lse,
      oracle(input).lse.map((x) => x / Math.LN2),
    );
    close(oracle({ ...input, softCap: 1e6 }).out, oracle(input).out, 1e-9);
    const steep = oracle({ ...input, alibiSlopes: [1e3, 1e3, 1e3, 1e3] });
    close(steep.out.slice(0, 16), input.v.slice(5 * 32, 5 * 32 + 16));
  });

  test("merging the states of two halves gives the whole", () => {
    const input = problem(3, 10);
    const half = (from: number, to: number) =>
      oracle({
        ...input,
        k: input.k.slice(from * 16, to * 16),
        v: input.v.slice(from * 32, to * 32),
      });
    const merged = mergeOracle([half(0, 4), half(4, 10)], 16);
    const whole = oracle(input);
    close(merged.out, whole.out);
    close(merged.lse, whole.lse);
  });
});

describe("the comparison", () => {
  test("names the first bad coordinate and all figures", () => {
    const expected = expectedOf(problem(2, 5), "f32");
    const out = expected.out.slice();
    expectState({ out, lse: expected.lse }, expected, 4, 16);
    out[64 + 16 + 3] += 0.1;
    expect(() => expectState({ out }, expected, 4, 16)).toThrow(
      /out\[1,1,3\] of \[2,4,16\] is .* max abs 1\.000e-1, relative .* 1 - cosine/,
    );
    const lse = expected.lse.slice();
    lse[5] = NaN;
    expect(() => expectState({ out: expected.out, lse }, expected, 4, 16)).toThrow(/lse\[1,1\]/);
    expect(coordinates(23, [2, 3, 4])).toEqual([1, 2, 3]);
  });

  test("allows what f32 makes of a weight whose products cancel, and not a hundred times that", () => {
    const cancels = { queryHeads: 1, kvHeads: 1, q: normals(8).fill(1), v: normals(16) };
    const k = Float64Array.of(1, -1, 1, -1, 1, -1, 1, 2 ** -20 - 1);
    const input = problem(1, 1, { ...cancels, k, variant: { softmax: false } });
    const expected = expectedOf(input, "f32");
    const wrong = (by: number) => ({ out: expected.out.map((x, d) => x + by * cancels.v[d]) });
    expectState(wrong(2 ** -23), expected, 1, 16);
    expect(() => expectState(wrong(2 ** -17), expected, 1, 16)).toThrow(/limit/);
    // Of ordinary ones the floor is more, as before.
    const plain = problem(3, 40, { variant: { softmax: false } });
    const { out, limits } = expectedOf(plain, "f32");
    const floor = limitsOf(out, roundTo("f32", out), 16, "f32");
    expect(limits).toEqual(floor);
  });

  test("allows what rounding the output costs, and not four times that", () => {
    const input = problem(3, 40);
    const expected = expectedOf(input, "bf16");
    const rounded = oracle({ ...input, rounding: { output: "bf16" } });
    expectState(rounded, expected, 4, 16);
    const worse = { out: expected.out.map((x) => x * (1 + 2 ** -5)) };
    expect(() => expectState(worse, expected, 4, 16)).toThrow(/limit/);
  });
});
