import { describe, expect, test } from "bun:test";
import { arithmetic } from "../../src/variant/arithmetic.ts";
import { defineVariant, type VariantDefinition } from "../../src/variant/define.ts";
import { type EvaluationTensor, Evaluator, partnerOf } from "../../src/variant/evaluate.ts";
import type { Node, Op, ValueType } from "../../src/variant/expression.ts";
import { nodesOf } from "../../src/variant/graph.ts";
import type { F32, I32 } from "../../src/variant/values.ts";

const least = -0x80000000;
const most = 0x7fffffff;

describe("integers", () => {
  const cases: [Op, number, number, number][] = [
    ["add", most, 1, least],
    ["sub", least, 1, most],
    ["mul", 0x10001, 0x10001, 0x20001],
    ["div", 7, 2, 3],
    ["div", -7, 2, -4],
    ["div", 7, -2, -4],
    ["div", -7, -2, 3],
    ["div", 5, 0, 0],
    ["div", least, -1, least],
    ["mod", 7, 3, 1],
    ["mod", -7, 3, 2],
    ["mod", 7, -3, -2],
    ["mod", 5, 0, 0],
    ["mod", least, -1, 0],
    ["min", -1, 1, -1],
    ["max", -1, 1, 1],
    ["neg", least, 0, least],
    ["abs", least, 0, least],
    ["abs", -3, 0, 3],
    ["and", 12, 10, 8],
    ["or", 12, 10, 14],
    ["xor", 12, 10, 6],
    ["not", 0, 0, -1],
    ["shl", 1, 31, least],
    ["shl", 1, 33, 2],
    ["shr", -8, 1, -4],
    ["shr", -8, 33, -4],
    ["lt", least, most, 1],
    ["le", 3, 3, 1],
    ["eq", 3, 4, 0],
    ["ne", 3, 4, 1],
  ];
  test.each(cases)("%s of %d and %d is %d", (op, a, b, result) => {
    expect(arithmetic(op, "i32")!(a, b, 0)).toBe(result);
  });
});

describe("floats", () => {
  const cases: [Op, number, number, number][] = [
    ["mod", 5.5, 2, 1.5],
    ["mod", -5.5, 2, 0.5],
    ["pow", 2, 10, 1024],
    ["pow", 0, 2, 0],
    ["pow", -2, 2, Number.NaN],
    ["min", 2, 1, 1],
    ["max", 2, 1, 2],
    ["floor", -1.5, 0, -2],
    ["sigmoid", 0, 0, 0.5],
    ["rsqrt", 4, 0, 0.5],
    ["toI32", -1.9, 0, -1],
    ["toI32", 3e9, 0, most],
    ["toI32", -3e9, 0, least],
    ["toI32", Number.NaN, 0, 0],
    ["toI32", Number.POSITIVE_INFINITY, 0, most],
    ["lt", Number.NaN, 1, 0],
    ["ne", Number.NaN, Number.NaN, 1],
  ];
  test.each(cases)("%s of %d and %d is %d", (op, a, b, result) => {
    expect(arithmetic(op, "f32")!(a, b, 0)).toBe(result);
  });
});

const inputs = { x: 3, query: 9, key: 4, head: 2, request: 1, slot: 5 };

/** The value of a logits hook at the inputs above. */
function valueOf(logits: VariantDefinition["logits"]): number {
  return new Evaluator(defineVariant({ name: "test", logits }).hooks.logits!).run({ inputs });
}

test("each method is its operation", () => {
  const real: [(x: F32) => F32, number][] = [
    [(x) => x.add(2), 5],
    [(x) => x.sub(2), 1],
    [(x) => x.mul(2), 6],
    [(x) => x.div(2), 1.5],
    [(x) => x.mod(2), 1],
    [(x) => x.min(2), 2],
    [(x) => x.max(2), 3],
    [(x) => x.pow(4), 81],
    [(x) => x.neg().pow(3), -27],
    [(x) => x.pow(0.5), Math.sqrt(3)],
    [(x) => x.neg(), -3],
    [(x) => x.neg().abs(), 3],
    [(x) => x.add(0.5).floor(), 3],
    [(x) => x.exp(), Math.exp(3)],
    [(x) => x.log(), Math.log(3)],
    [(x) => x.tanh(), Math.tanh(3)],
    [(x) => x.sigmoid(), 1 / (1 + Math.exp(-3))],
    [(x) => x.sqrt(), Math.sqrt(3)],
    [(x) => x.rsqrt(), 1 / Math.sqrt(3)],
    [(x) => x.sin(), Math.sin(3)],
    [(x) => x.cos(), Math.cos(3)],
    [(x) => x.lt(3).toF32(), 0],
    [(x) => x.le(3).toF32(), 1],
    [(x) => x.gt(2).toF32(), 1],
    [(x) => x.ge(4).toF32(), 0],
    [(x) => x.eq(3).toF32(), 1],
    [(x) => x.ne(3).toF32(), 0],
    [(x) => x.add(0.7).toI32().toF32(), 3],
    [(x) => x.lt(3).select(1, 2), 2],
    [(x) => x.lt(3).not().and(x.gt(1)).select(x, 2), 3],
    [(x) => x.lt(3).or(x.gt(1)).xor(x.gt(2)).select(x, 2), 2],
    [(x) => x.lt(3).eq(x.gt(1)).select(x, 2), 2],
    [(x) => x.lt(3).ne(x.gt(1)).select(x, 2), 3],
  ];
  for (const [hook, expected] of real) expect(valueOf(hook)).toBeCloseTo(expected, 12);
  const whole: [(key: I32, query: I32) => I32, number][] = [
    [(key) => key.add(2), 6],
    [(key) => key.sub(7), -3],
    [(key) => key.mul(3), 12],
    [(key) => key.sub(9).div(2), -3],
    [(key) => key.sub(9).mod(3), 1],
    [(key, query) => query.div(key), 2],
    [(key, query) => query.mod(key), 1],
    [(key) => key.min(3), 3],
    [(key) => key.max(5), 5],
    [(key) => key.neg(), -4],
    [(key) => key.neg().abs(), 4],
    [(key) => key.and(6), 4],
    [(key) => key.or(1), 5],
    [(key) => key.xor(7), 3],
    [(key) => key.not(), -5],
    [(key) => key.shl(2), 16],
    [(key) => key.neg().shr(1), -2],
    [(key, query) => key.lt(query).select(key, 0), 4],
    [(key, query) => key.ge(query).select(key, 7), 7],
    [(key, query) => key.gt(query).toI32(), 0],
    [(key, query) => key.le(query).toI32(), 1],
    [(key, query) => key.eq(query).toI32(), 0],
    [(key, query) => key.ne(query).toI32(), 1],
  ];
  for (const [hook, expected] of whole)
    expect(valueOf((_, { key, query }) => hook(key, query).toF32())).toBe(expected);
});

describe("graphs", () => {
  const graphOf = (logits: VariantDefinition["logits"]) =>
    nodesOf([defineVariant({ name: "test", logits }).hooks.logits!]);
  const counted = (nodes: Node[]) =>
    nodes.filter(({ op }) => !["constant", "input"].includes(op)).length;

  test("common terms are one", () => {
    const nodes = graphOf((x, { key }) => {
      const term = () => x.mul(key.toF32().exp());
      return term().add(term()).mul(key.toF32().exp().mul(x));
    });
    expect(nodes.map(({ op }) => op).filter((op) => op === "exp")).toHaveLength(1);
    expect(counted(nodes)).toBe(5);
  });

  test("what is constant is computed", () => {
    const nodes = graphOf((x, { key }) => {
      const zero = key.sub(key);
      const seven = zero.add(10).shr(1).add(2).toF32();
      return x.add(seven.sqrt().mul(2));
    });
    expect(nodes.map(({ op }) => op)).toEqual(["input", "constant", "add"]);
    expect(nodes[1].value).toBeCloseTo(2 * Math.sqrt(7), 12);
  });

  const folded: [string, (x: F32, key: I32) => F32, ValueType | Op][] = [
    ["x + 0", (x) => x.add(0), "input"],
    ["x * 1", (x) => x.mul(1), "input"],
    ["x / 1", (x) => x.div(1), "input"],
    ["- -x", (x) => x.neg().neg(), "input"],
    ["x + -y", (x, key) => x.add(key.toF32().neg()), "sub"],
    ["x - -y", (x, key) => x.sub(key.toF32().neg()), "add"],
    ["x * -1", (x) => x.mul(-1), "neg"],
    ["i / 8", (_, key) => key.div(8).toF32(), "toF32"],
    ["a known choice", (x, key) => key.le(key).select(x, 0), "input"],
    ["one choice", (x, key) => key.le(3).select(x, x), "input"],
    ["not not", (x, key) => key.eq(3).not().not().select(x, x.neg()), "select"],
  ];
  test.each(folded)("%s", (_, hook, op) => {
    const nodes = graphOf((x, { key }) => hook(x, key));
    expect(nodes.at(-1)!.op).toBe(op as Op);
    expect(nodes.some((node) => node.op === "div" || node.op === "not")).toBe(false);
  });

  test("0 * x and x - x stay: x may be no number", () => {
    expect(graphOf((x) => x.mul(0)).at(-1)!.op).toBe("mul");
    expect(graphOf((x) => x.sub(x)).at(-1)!.op).toBe("sub");
  });
});

describe("tensors", () => {
  const shape = [2, "any", "queryHeads"] as const;
  const tensors = { t: { dtype: "f16", shape } } as const;
  const data = { data: Array.from({ length: 24 }, (_, i) => i), sizes: [2, 4, 3] };

  test("are read at their indices, and at the edge outside of them", () => {
    const { hooks } = defineVariant({
      name: "test",
      tensors,
      logits: (_, { t, head, key, query }) =>
        t.at(1, key, head).add(t.at(query, key.add(100), head).mul(1000)),
    });
    const run = (key: number, query: number) =>
      new Evaluator(hooks.logits!).run({ inputs: { ...inputs, key, query }, tensors: [data] });
    expect(run(2, 0)).toBe(12 + 2 * 3 + 2 + (3 * 3 + 2) * 1000);
    expect(run(-9, 7)).toBe(12 + 2 + 23 * 1000);
  });

  test("know which indices are inside without looking", () => {
    const clamped = (hook: (key: I32, head: I32) => [I32 | number, I32 | number, I32 | number]) => {
      const { hooks } = defineVariant({
        name: "test",
        tensors,
        logits: (_, { t, key, head }) => t.at(...hook(key, head)),
      });
      return hooks.logits!.clamped;
    };
    expect(clamped((key, head) => [1, key, head])).toBe(2);
    expect(clamped((key, head) => [key.and(1), 0, head])).toBe(0);
    expect(clamped((key, head) => [key.shr(30), 3, head.add(0)])).toBe(2);
    expect(clamped((key, head) => [key.max(0).min(1), head, key])).toBe(6);
  });

  test("are written where the indices are inside", () => {
    const { hooks } = defineVariant({
      name: "test",
      tensors,
      logits: (x, { t, key }) => {
        t.put(x.mul(2), 0, key, 1);
        t.put(7, 1, 0, key);
        return x.add(1);
      },
    });
    const written: [number, number][] = [];
    const target: EvaluationTensor = { ...data, put: (at, value) => written.push([at, value]) };
    const evaluator = new Evaluator(hooks.logits!);
    const run = (key: number) => evaluator.run({ inputs: { x: 3, key }, tensors: [target] });
    expect([run(2), run(3), run(-1)]).toEqual([4, 4, 4]);
    expect(written).toEqual([
      [7, 6],
      [14, 7],
      [10, 6],
    ]);
  });
});

describe("vectors", () => {
  const vector = [3, -1, 4, 1, -5, 9];
  const run = (query: VariantDefinition["query"]) => {
    const { hooks } = defineVariant({ name: "test", query });
    return [...new Evaluator(hooks.query!).vector(vector, { inputs })];
  };

  test("sum and largest element", () => {
    expect(run((x) => x.sum())).toEqual([11, 11, 11, 11, 11, 11]);
    expect(run((x) => x.sub(x.max()))).toEqual([-6, -10, -5, -8, -14, 0]);
    expect(run((x, { element }) => x.mul(element.toF32()).sum().add(x))[1]).toBe(34);
  });

  test("halves turn, and the rest stays", () => {
    const turns = [
      [0.6, 0.8],
      [0, 1],
    ];
    const turn = (pair: I32): [F32, F32] => [
      pair.eq(0).select(turns[0][0], turns[1][0]),
      pair.eq(0).select(turns[0][1], turns[1][1]),
    ];
    const [a, b, c, d, ...rest] = vector;
    const by = (pair: number, first: number, second: number) => [
      first * turns[pair][0] - second * turns[pair][1],
      first * turns[pair][1] + second * turns[pair][0],
    ];
    const halves = [by(0, a, c), by(1, b, d)];
    const expected = [halves[0][0], halves[1][0], halves[0][1], halves[1][1], ...rest];
    run((x) => x.rotate({ dim: 4 }, turn)).forEach((value, at) =>
      expect(value).toBeCloseTo(expected[at], 12),
    );
    const neighbours = [...by(0, a, b), ...by(1, c, d), ...rest];
    run((x) => x.rotate({ dim: 4, interleaved: true }, turn)).forEach((value, at) =>
      expect(value).toBeCloseTo(neighbours[at], 12),
    );
  });

  test("three pairs, which no mask of bits counts", () => {
    const turned = run((x) => x.rotate({ dim: 6 }, (pair) => [pair.toF32(), pair.toF32()]));
    expect(turned).toEqual([0, 4, -10, 0, -6, 26]);
  });

  test("partners", () => {
    const partners = (pairing: number) => vector.map((_, d) => partnerOf(d, pairing));
    expect(partners(4)).toEqual([2, 3, 0, 1, 4, 5]);
    expect(partners(-4)).toEqual([1, 0, 3, 2, 4, 5]);
  });
});
