import { describe, expect, test } from "bun:test";
import { DisposedError, OptionError } from "../../src/errors.ts";
import { type AttentionState, type LseBase, mergeStates } from "../../src/ops/states.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { expectState } from "../support/compare.ts";
import { mergeOracle } from "../support/oracle.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { targetsHere } from "../support/targets.ts";
import { limitsOf } from "../support/tolerance.ts";

/**
 * A state of random numbers; one row in six saw no key, and its output is never read: NaN. Some
 * elements and log-sum-exps are NaN or infinite.
 */
function stateOf(random: Random, rows: number, dim: number, dtype: DType) {
  const out = Float64Array.from({ length: rows * dim }, () => random.normal());
  const lse = Float64Array.from({ length: rows }, () => 4 * random.normal());
  if (random.chance(0.2)) out[random.integer(0, rows * dim - 1)] = random.pick(odd);
  if (random.chance(0.1)) lse[random.integer(0, rows - 1)] = random.pick([NaN, Infinity]);
  for (let row = 0; row < rows; row++) {
    if (!random.chance(1 / 6)) continue;
    lse[row] = -Infinity;
    out.fill(NaN, row * dim, (row + 1) * dim);
  }
  return { out: roundTo(dtype, out), lse: roundTo("f32", lse) };
}

const odd = [NaN, Infinity, -Infinity];
const finiteSize = (x: number) => (Number.isFinite(x) ? Math.abs(x) : 0);

describe.each(await targetsHere())("mergeStates on $name", (target) => {
  test("agrees with f64, of any float dtype, length, base and number of states", async () => {
    await using device = await target.open(2);
    forSeeds(40, (random) => {
      const dtype = random.pick(["f32", "f16", "bf16", "f8e4m3", "f8e5m2"] as const);
      const outDtype = random.pick(["f32", "f16", "bf16"] as const);
      const lseBase: LseBase = random.pick(["e", "2"] as const);
      const [tokens, heads] = [random.integer(1, 9), random.integer(1, 5)];
      const dim = random.pick([1, 7, 8, 9, 64, 100, 129]);
      const scale = lseBase === "2" ? Math.LN2 : 1;
      const states = Array.from({ length: random.integer(1, 11) }, () =>
        stateOf(random, tokens * heads, dim, dtype),
      );
      const given = states.map(({ out, lse }) => ({
        out: Tensor.from(device, out, [tokens, heads, dim], dtype),
        lse: Tensor.from(device, lse, [tokens, heads], "f32"),
        lseBase,
      }));
      const merged = mergeStates(given, { dtype: outDtype });
      const natural = states.map(({ out, lse }) => {
        return { out, lse: lse.map((value) => value * scale) };
      });
      const truth = mergeOracle(natural, dim);
      const limits = limitsOf(truth.out, roundTo(outDtype, truth.out), dim, outDtype);
      // Where states cancel, sums in f32 err by what is summed, not by what remains.
      const summed = mergeOracle(
        natural.map(({ out, lse }) => ({ out: out.map(finiteSize), lse })),
        dim,
      ).out;
      for (let row = 0; row < limits.length; row++)
        limits[row] += 1e-6 * Math.max(...summed.subarray(row * dim, (row + 1) * dim)) || 0;
      const read = { out: merged.out.toFloat64Array(), lse: merged.lse.toFloat64Array() };
      const wanted = { out: truth.out, lse: truth.lse.map((value) => value / scale), limits };
      expectState(read, wanted, heads, dim);
      expect(merged.lseBase).toBe(lseBase);
      for (const { out, lse } of [...given, merged]) {
        out[Symbol.dispose]();
        lse[Symbol.dispose]();
      }
    });
  });

  test("is captured with its temporaries, and refuses what is no float or no tensor", async () => {
    await using device = await target.open(2);
    using out = Tensor.from(device, [1, 3], [1, 1, 2], "f32");
    using lse = Tensor.from(device, [0], [1, 1], "f32");
    const state = { out, lse, lseBase: "e" } as const;
    const merge = () => mergeStates([state, state]);
    // Loads the kernels.
    merge();
    let merged = state as AttentionState;
    using graph = device.capture(device.stream, () => {
      merged = merge();
    });
    out.copyFrom(Tensor.from(device, [5, -2], [1, 1, 2], "f32"));
    graph.replay(device.stream);
    const [x, y] = merged.out.toFloat64Array();
    expect(x).toBeCloseTo(5, 5);
    expect(y).toBeCloseTo(-2, 5);
    expect(merged.lse.toFloat64Array()[0]).toBeCloseTo(Math.LN2, 6);
    for (const dtype of ["i32", "f64"] as DType[]) {
      const refused = () => mergeStates([state], { dtype });
      expect(refused).toThrow(OptionError);
      expect(refused).toThrow(/^dtype must be/);
    }
    const none = () => mergeStates([{ ...state, lse: undefined as unknown as Tensor }]);
    expect(none).toThrow("states[0].lse must be a tensor");
    merged.lse[Symbol.dispose]();
    expect(() => graph.replay(device.stream)).toThrow(DisposedError);
  });

  test("takes states apart, stacked or ragged to the same bits, into tensors of the caller", async () => {
    await using device = await target.open(2);
    forSeeds(20, (random) => {
      const [tokens, heads, dim] = [random.integer(1, 7), random.integer(1, 3), 40];
      const count = random.integer(1, 6);
      const rows = tokens * heads;
      const states = Array.from({ length: count }, () => stateOf(random, rows, dim, "f32"));
      const tensor = (values: ArrayLike<number>, shape: number[], dtype: DType = "f32") =>
        Tensor.from(device, values, shape, dtype);
      const apart = () =>
        states.map(({ out, lse }) => ({
          out: tensor(out, [tokens, heads, dim]),
          lse: tensor(lse, [tokens, heads]),
          lseBase: "2" as const,
        }));
      const wanted = mergeStates(apart());
      const bits = ({ out, lse }: { out: Tensor; lse: Tensor }) => [out.toBytes(), lse.toBytes()];
      const same = (given: { out: Tensor; lse: Tensor }) => {
        expect(bits(given)).toEqual(bits(wanted));
      };
      // [tokens, states, heads, dim], and views of [states, tokens, heads, dim].
      const all = tensor(
        states.flatMap(({ out }) => [...out]),
        [count, tokens, heads, dim],
      );
      const lses = tensor(
        states.flatMap(({ lse }) => [...lse]),
        [count, tokens, heads],
      );
      const stack = { out: all.permute(1, 0, 2, 3), lse: lses.permute(1, 0, 2) };
      same(mergeStates({ ...stack, lseBase: "2" }));
      same(mergeStates({ out: stack.out.to("f32"), lse: stack.lse.to("f32"), lseBase: "2" }));
      const indptr = tensor(
        Array.from({ length: tokens + 1 }, (_, token) => token * count),
        [tokens + 1],
        "i32",
      );
      const flat = {
        out: stack.out.to("f32").reshape(tokens * count, heads, dim),
        lse: stack.lse.to("f32").reshape(tokens * count, heads),
      };
      same(mergeStates({ ...flat, lseBase: "2", indptr }));
      const inPlace = apart();
      mergeStates(inPlace, { out: inPlace[0].out, lse: inPlace[0].lse });
      same(inPlace[0]);
      // A mask leaves rows of tokens alone.
      const mask = Array.from({ length: tokens }, () => Number(random.chance(0.5)));
      const masked = apart();
      const before = bits(masked[0]).map((each) => each.slice());
      const [{ out, lse }] = masked;
      mergeStates(masked, { out, lse, mask: tensor(mask, [tokens], "bool") });
      const merged = bits(wanted);
      for (const [i, part] of bits(masked[0]).entries())
        for (let token = 0, step = part.length / tokens; token < tokens; token++) {
          const source = mask[token] ? merged[i] : before[i];
          const range = [token * step, (token + 1) * step] as const;
          expect(part.slice(...range)).toEqual(source.slice(...range));
        }
    });
  });

  test("ragged states: tokens of none, one and many", async () => {
    await using device = await target.open(2);
    const out = Tensor.from(device, [1, 2, 4, 8], [4, 1, 1], "f32");
    const lse = Tensor.from(device, [0, 0, 0, -Infinity], [4, 1], "f32");
    const ints = (values: number[]) => Tensor.from(device, values, [values.length], "i32");
    const stack = { out, lse, lseBase: "2" } as const;
    const merged = mergeStates({ ...stack, indptr: ints([0, 0, 1, 3, 4]) });
    expect([...merged.out.toFloat64Array()]).toEqual([0, 1, 3, 0]);
    expect([...merged.lse.toFloat64Array()]).toEqual([-Infinity, 0, 1, -Infinity]);
    const wrong = () => mergeStates({ ...stack, indptr: ints([0, 5]) });
    if (device.checksContents) expect(wrong).toThrow(/^states.indptr\[1\] must be 0 to 4/);
    const state = { out: out.reshape(4, 1, 1), lse, lseBase: "2" } as const;
    const other = { ...state, out: Tensor.zeros(device, [4, 1, 1], "f32") };
    const refused: [() => unknown, string][] = [
      [() => mergeStates([state], { mask: ints([1]) }), "mask"],
      [() => mergeStates([state], { mask: Tensor.zeros(device, [4], "bool") }), "mask"],
      [() => mergeStates([state, other], { out: out.slice(0, 0, 3) }), "out"],
      [() => mergeStates([state], { out: Tensor.zeros(device, [4, 1, 1], "i32") }), "dtype"],
      [() => mergeStates([state], { lse: out.reshape(4, 1) }), "lse"],
      [() => mergeStates({ ...stack, indptr: out.reshape(4) }), "states.indptr"],
      [() => mergeStates(stack), "states.out"],
      // Token 1 reads what token 0's neighbour writes.
      [
        () => mergeStates({ ...stack, indptr: ints([0, 2, 4]) }, { out: out.slice(0, 0, 2) }),
        "out",
      ],
      [
        () => mergeStates({ ...stack, indptr: ints([0, 2, 4]) }, { lse: lse.slice(0, 0, 2) }),
        "lse",
      ],
    ];
    for (const [merge, option] of refused) {
      expect(merge).toThrow(OptionError);
      expect(merge).toThrow(new RegExp(`^${RegExp.escape(option)} must be`));
    }
  });
});
