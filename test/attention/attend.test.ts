import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { attend } from "../../src/attention/attend.ts";
import { Device } from "../../src/device/device.ts";
import { OptionError } from "../../src/errors.ts";
import { type AttentionState, mergeStates } from "../../src/ops/states.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { expectState } from "../support/compare.ts";
import { normals } from "../support/numbers.ts";
import { mergeOracle, oracle } from "../support/oracle.ts";
import { seeded } from "../support/random.ts";
import { targetsHere } from "../support/targets.ts";
import { expectedOf, limitsOf } from "../support/tolerance.ts";

const heads = { queryHeads: 10, kvHeads: 2, keyDim: 24, valueDim: 40 };

describe.each(await targetsHere())("attend and mergeStates on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  // GPUs take no f32 queries and round probabilities to the dtype of those they take.
  const dtype: DType = target.kind === "cpu" ? "f32" : "f16";
  const rounding = target.kind === "cpu" ? undefined : { probabilities: dtype };
  const plain = { outDtype: "f32" } as const;

  function problem(queries: number, keys: number) {
    const random = seeded(11);
    const { queryHeads, kvHeads, keyDim, valueDim } = heads;
    const data = {
      q: normals(random, queries * queryHeads * keyDim, dtype),
      k: normals(random, keys * kvHeads * keyDim, dtype),
      v: normals(random, keys * kvHeads * valueDim, dtype),
    };
    return {
      input: { ...heads, ...data, rounding },
      q: Tensor.from(device, data.q, [queries, queryHeads, keyDim], dtype),
      k: Tensor.from(device, data.k, [keys, kvHeads, keyDim], dtype),
      v: Tensor.from(device, data.v, [keys, kvHeads, valueDim], dtype),
    };
  }

  function read({ out, lse }: AttentionState) {
    return { out: out.toFloat64Array(), lse: lse.toFloat64Array() };
  }

  test("results go into tensors of the caller", () => {
    const { q, k, v } = problem(9, 50);
    const wanted = attend(q, k, v, { causal: true, outDtype: "bf16" });
    const rows = Tensor.zeros(device, [10, 11, 40], "bf16");
    const out = rows.slice(0, 1, 10).slice(1, 0, 10);
    const lse = Tensor.zeros(device, [9, 10], "f32");
    const state = attend(q, k, v, { causal: true, out, lse });
    expect([state.out, state.lse]).toEqual([out, lse]);
    expect(out.toBytes()).toEqual(wanted.out.toBytes());
    expect(lse.toBytes()).toEqual(wanted.lse.toBytes());
    const refuse = (options: object) => expect(() => attend(q, k, v, options));
    refuse({ out: rows.slice(0, 0, 8) }).toThrow(/^out must be \[9 or more, 10, 40\]/);
    refuse({ out, outDtype: "f32" }).toThrow(/^out must be f32/);
    refuse({ lse: lse.slice(0, 0, 8) }).toThrow(/^lse must be a contiguous f32 tensor/);
    refuse({ out: 1 }).toThrow(/^out must be a tensor/);
  });

  test("one request without a plan, with options and without", () => {
    const { input, q, k, v } = problem(9, 50);
    expectState(read(attend(q, k, v, plain)), expectedOf(input, "f32"), 10, 40);
    const options = { causal: true, windowLeft: 20, softCap: 10 };
    const state = attend(q, k, v, { ...options, lseBase: "2", outDtype: "bf16" });
    const expected = expectedOf({ ...input, ...options, lseBase: "2" }, "bf16");
    expect([state.lseBase, state.out.dtype]).toEqual(["2", "bf16"]);
    expectState(read(state), expected, 10, 40);
    // The same options again use the same attention object.
    const last = read(attend(q.slice(0, 2, 9), k, v, plain));
    expectState(last, tail(expectedOf(input, "f32"), 2), 10, 40);
  });

  test("a mask of bools is that of its packed bits, and of another size is refused", () => {
    const noise = (tokens: number, heads: number, seed: number) =>
      Tensor.randomNormal(device, [tokens, heads, 32], dtype, { seed });
    const [q, k, v] = [noise(3, 4, 1), noise(6, 2, 2), noise(6, 2, 3)];
    const pairs = [1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0];
    const packed = new Uint8Array(3);
    pairs.forEach((bit, i) => (packed[i >> 3] |= bit << (i & 7)));
    const bits = Tensor.from(device, packed, [3], "u8");
    const bools = Tensor.from(device, pairs, [3, 6], "bool");
    const masked = (maskBits: Tensor) => attend(q, k, v, { mask: "all", maskBits });
    expect(masked(bools).out.toBytes()).toEqual(masked(bits).out.toBytes());
    expect(() => masked(bools.to("u8"))).toThrow("maskBits must be 3 elements, 8 pairs each");
    expect(() => masked(bools.slice(0, 0, 2))).toThrow("maskBits must be 18 elements, a pair each");
  });

  test("sinks, slopes, packed masks and scales as tensors", () => {
    const { input, q, k, v } = problem(4, 30);
    const random = seeded(2);
    const sinks = Float32Array.from({ length: 10 }, () => random.normal());
    const slopes = Float32Array.from({ length: 10 }, () => random.next());
    const bits = Uint8Array.from({ length: 15 }, () => random.integer(0, 255));
    const state = attend(q, k, v, {
      ...plain,
      sinks: true,
      alibi: true,
      mask: "all",
      sinkLogits: Tensor.from(device, sinks, [10], "f32"),
      alibiSlopes: Tensor.from(device, slopes, [10], "f32"),
      maskBits: Tensor.from(device, bits, [15], "u8"),
      kScale: Tensor.from(device, [0.5, 2], [2], "f32"),
      vScale: Tensor.from(device, [3], [1], "f32"),
    });
    const expected = expectedOf(
      {
        ...input,
        sinks,
        alibiSlopes: slopes,
        mask: { mode: "all", bits },
        kScale: (head) => [0.5, 2][head],
        vScale: () => 3,
      },
      "f32",
    );
    expectState(read(state), expected, 10, 40);
  });

  test("empty keys give 0 and -inf, empty queries nothing", () => {
    const { q, k, v } = problem(3, 1);
    const state = read(attend(q, k.slice(0, 0, 0), v.slice(0, 0, 0)));
    expect(state.out.every((x) => x === 0)).toBe(true);
    expect(state.lse.every((x) => x === -Infinity)).toBe(true);
    expect(read(attend(q.slice(0, 0, 0), k, v)).out).toHaveLength(0);
  });

  test.each(["f32", "f16", "bf16"] as const)(
    "states of parts in %s merge into the whole",
    (outDtype) => {
      for (const lseBase of ["e", "2"] as const) {
        const { input, q, k, v } = problem(70, 90);
        const cuts = [0, 13, 13, 40, 90];
        const options = { finalize: false, lseBase, outDtype };
        const states = cuts.slice(1).map((end, i) => {
          const [keys, values] = [k, v].map((tensor) => tensor.slice(0, cuts[i], end));
          return attend(q, keys, values, options);
        });
        const merged = mergeStates(states, { dtype: "f32" });
        // The truth is the merge of what the parts rounded to.
        const truth = mergeOracle(
          states.map((state) => {
            const { out, lse } = read(state);
            return { out, lse: lse.map((x) => x * (lseBase === "2" ? Math.LN2 : 1)) };
          }),
          40,
        );
        const lse = truth.lse.map((x) => x / (lseBase === "2" ? Math.LN2 : 1));
        const naive = roundTo("f32", truth.out);
        const limits = limitsOf(truth.out, naive, 40, "f32");
        expectState(read(merged), { out: truth.out, lse, limits }, 10, 40);
        if (outDtype !== "f32") continue;
        expectState({ out: read(merged).out }, expectedOf(input, "f32"), 10, 40);
        const whole = oracle({ ...input, lseBase });
        expect(Math.abs(read(merged).lse[0] - whole.lse[0])).toBeLessThan(1e-4);
      }
    },
  );

  test("states without any key merge to 0 and -inf", () => {
    const { q, k, v } = problem(2, 1);
    const empty = attend(q, k.slice(0, 0, 0), v.slice(0, 0, 0), plain);
    const { out, lse } = read(mergeStates([empty, empty]));
    expect(out.every((x) => x === 0)).toBe(true);
    expect(lse.every((x) => x === -Infinity)).toBe(true);
    const full = attend(q, k, v, plain);
    expect(read(mergeStates([empty, full])).out).toEqual(read(full).out);
  });

  test("mixed bases, shapes and lists of nothing are refused", () => {
    const { q, k, v } = problem(2, 4);
    const natural = attend(q, k, v);
    const binary = attend(q, k, v, { lseBase: "2" });
    expect(() => mergeStates([natural, binary])).toThrow(/lseBase must be .*"e"/);
    expect(() => mergeStates([])).toThrow(OptionError);
    expect(() => mergeStates([natural, attend(q.slice(0, 0, 1), k, v)])).toThrow(OptionError);
    expect(() => attend(q, k.select(1, 0), v)).toThrow(/k must be \[tokens, heads, dim\]/);
  });
});

/** Rows of the tokens from `token` on. */
function tail<T extends { out: Float64Array; lse: Float64Array; limits: Float64Array }>(
  { out, lse, limits }: T,
  token: number,
) {
  return {
    out: out.slice(token * 10 * 40),
    lse: lse.slice(token * 10),
    limits: limits.slice(token * 10),
  };
}
