import { describe, expect, test } from "bun:test";
import {
  defineCudaVariant,
  defineVariant,
  type VariantDefinition,
} from "../../src/variant/define.ts";
import { evaluate, Evaluator } from "../../src/variant/evaluate.ts";
import { Axis, type Node, type Op } from "../../src/variant/expression.ts";
import { nodesOf } from "../../src/variant/graph.ts";
import { isPair } from "../../src/variant/products.ts";
import { stage } from "../../src/variant/stages.ts";
import type { Bool, I32 } from "../../src/variant/values.ts";
import { forSeeds, type Random } from "../support/random.ts";

/** Operations that are left for each pair, sorted. */
function pairOps(...roots: (Node | undefined)[]): string {
  const nodes = nodesOf(roots.filter((root) => root !== undefined));
  const ops = nodes.filter((node) => isPair(node) && node.op !== "input").map(({ op }) => op);
  return ops.sort().join(" ");
}

describe("logits", () => {
  const scalars = { cap: "f32", slope: "f32" } as const;
  const tensors = {
    slopes: { dtype: "f32", shape: ["queryHeads"] },
    dump: { dtype: "f32", shape: ["any"] },
    weights: { dtype: "f32", shape: ["any"] },
  } as const;
  type Definition = VariantDefinition<typeof tensors, typeof scalars>;
  const staged = (logits: Definition["logits"], softmax = true) =>
    stage(defineVariant({ name: "test", tensors, scalars, logits, softmax }));

  const costs: [string, NonNullable<Definition["logits"]>, string][] = [
    ["soft cap", (x, { cap }) => cap.mul(x.div(cap).tanh()), "mul tanh"],
    ["soft cap by a constant", (x) => x.div(30).tanh().mul(30), "mul tanh"],
    [
      "ALiBi",
      (x, { slopes, head, key, query }) => x.add(slopes.at(head).mul(key.sub(query).toF32())),
      "add mul sub toF32",
    ],
    ["factors on all sides", (x, { cap }) => x.mul(2).mul(cap).div(3).mul(cap), ""],
    [
      "factors of the row and the key",
      (x, { cap, slopes, weights, head, key }) =>
        slopes.at(head).mul(cap.mul(x)).mul(weights.at(key)).mul(5),
      "mul mul",
    ],
    [
      "a bias of the pair",
      (x, { weights, key, query }) => x.add(weights.at(key.add(query))),
      "add add load mul",
    ],
    ["a choice", (x, { key, query }) => key.le(query).select(x, x.mul(2)), "le mul mul select"],
    [
      "a sum that is also bent",
      (x, { key }) => {
        const sum = x.add(key.toF32());
        return sum.add(sum.tanh());
      },
      "add add mul tanh",
    ],
    ["a negative", (x) => x.neg(), "neg"],
    ["both sides bent", (x, { cap }) => x.tanh().add(x.mul(x)).div(cap), "add mul mul tanh"],
  ];
  test.each(costs)("%s leaves few operations for a pair", (_, logits, ops) => {
    expect(pairOps(staged(logits).logits)).toBe(ops);
  });

  test("soft cap: one multiplication is the scale's, one comes after tanh", () => {
    const { logits, logitsFactor, uniformWords } = staged((x, { cap }) =>
      cap.mul(x.div(cap).tanh()),
    );
    expect(evaluate(logitsFactor!, { inputs: {}, scalars: [40] })).toBeCloseTo(1 / 40, 12);
    expect(uniformWords).toHaveLength(1);
    expect(evaluate(uniformWords[0], { inputs: {}, scalars: [40] })).toBeCloseTo(
      40 * Math.LOG2E,
      12,
    );
    const value = evaluate(logits!, { inputs: { x: 50 / 40 }, scalars: [40] });
    expect(value).toBeCloseTo(40 * Math.tanh(50 / 40) * Math.LOG2E, 12);
  });

  test("base 2 is the scale's where x is only added to", () => {
    const { logits, logitsFactor } = staged((x, { weights, key, query }) =>
      x.add(weights.at(key.add(query))),
    );
    expect(logitsFactor!.value).toBe(Math.LOG2E);
    expect(logits!.inputs[0].op).toBe("input");
  });

  test("a logit that is only scaled is no hook at all", () => {
    expect(staged((x) => x)).toMatchObject({ logits: undefined, logitsFactor: undefined });
    expect(staged((x) => x.mul(2).div(2))).toMatchObject({ logits: undefined });
    const scaled = staged((x, { cap }) => x.mul(cap));
    expect(scaled.logits!.op).toBe("input");
    expect(evaluate(scaled.logitsFactor!, { inputs: {}, scalars: [3] })).toBeCloseTo(
      3 * Math.LOG2E,
      12,
    );
  });

  test("without softmax nothing goes to base 2", () => {
    const { logits, logitsFactor } = staged((x) => x.sigmoid(), false);
    expect(logitsFactor).toBeUndefined();
    expect(logits!.op).toBe("sigmoid");
    expect(staged((x) => x, false).logits!.op).toBe("input");
    const bare = stage(defineVariant({ name: "bare", softmax: false }));
    expect(bare.logits!.op).toBe("input");
    const written = { name: "c", source: "c", hooks: ["logits"] as const, softmax: false };
    expect(stage(defineCudaVariant(written)).logits).toBeUndefined();
  });

  test("what is stored stays in natural units", () => {
    const { logits, logitsFactor, stores } = staged((x, { dump, key }) => {
      dump.put(x.mul(3), key);
      dump.put(7, 0);
      return x;
    });
    expect(logitsFactor).toBeUndefined();
    expect(evaluate(logits!, { inputs: { x: 2 } })).toBeCloseTo(2 * Math.LOG2E, 12);
    expect(stores.map(({ tensor, clamped }) => [tensor, clamped])).toEqual([
      [1, 1],
      [1, 0],
    ]);
    expect(evaluate(stores[0].value, { inputs: { x: 2 } })).toBe(6);
    expect(evaluate(stores[1].value, { inputs: {} })).toBe(7);
  });

  test("products of products stay as many as they were", () => {
    const { logits } = staged((x, { cap }) => {
      let power = x.mul(cap);
      for (let i = 0; i < 12; i++) power = power.mul(power);
      return power;
    });
    expect(pairOps(logits).split(" ").length).toBeLessThan(40);
  });
});

describe("words", () => {
  const { uniformWords, rowWords, keyWords, ...staged } = stage(
    defineVariant({
      name: "test",
      scalars: { n: "i32" },
      tensors: { t: { dtype: "i32", shape: ["any"] } },
      mask: ({ query, key, slot, head, n, t }) =>
        t
          .at(query)
          .add(head)
          .mul(n.mul(n))
          .xor(t.at(key).add(slot))
          .eq(n.add(1).mul(key))
          .and(head.add(key).xor(query).ne(slot)),
    }),
  );
  const ops = (nodes: readonly Node[]) => nodes.map(({ op }): Op => op);

  test("are the largest expressions that do not change with the pair", () => {
    expect(ops(uniformWords)).toEqual([]);
    expect(ops(rowWords)).toEqual(["mul", "input"]);
    expect(ops(keyWords)).toEqual(["add", "mul", "input"]);
    expect(pairOps(staged.mask)).toBe("add and eq ne xor xor");
  });

  test("change with what their list says", () => {
    expect(rowWords.map(({ axes }) => axes)).toEqual([Axis.row, Axis.row]);
    expect(keyWords.map(({ axes }) => axes)).toEqual([Axis.key, Axis.key, Axis.key]);
  });
});

/** A mask's parts, judged together. */
function shows(parts: ReturnType<typeof stage>, environment: Parameters<Evaluator["run"]>[0]) {
  const { low, high, mask } = parts;
  const key = environment.inputs.key!;
  if (low !== undefined && key < evaluate(low, environment)) return 0;
  if (high !== undefined && key > evaluate(high, environment)) return 0;
  return mask === undefined ? 1 : evaluate(mask, environment);
}

describe("bounds", () => {
  const scalars = { n: "i32" } as const;
  const tensors = { t: { dtype: "i32", shape: ["any"] } } as const;
  type Definition = VariantDefinition<typeof tensors, typeof scalars>;
  type Mask = NonNullable<Definition["mask"]>;

  const pure: [string, Mask, boolean, boolean][] = [
    ["causal", ({ query, key }) => key.le(query), false, true],
    ["strictly causal", ({ query, key }) => key.lt(query), false, true],
    ["turned round", ({ query, key }) => query.ge(key), false, true],
    ["not after", ({ query, key }) => key.gt(query).not(), false, true],
    ["a distance", ({ query, key }) => query.sub(key).le(1024), true, false],
    ["a distance by scalar", ({ query, key, n }) => query.sub(key).lt(n), true, false],
    ["a distance to come", ({ query, key, n }) => key.sub(query).le(n), false, true],
    ["a moved key", ({ query, key }) => key.add(3).ge(query), true, false],
    ["a window", ({ query, key }) => key.le(query).and(query.sub(key).le(7)), true, true],
    [
      "a prefix",
      ({ query, key, t, request }) => key.le(query).or(key.lt(t.at(request))),
      false,
      true,
    ],
    ["one key", ({ query, key }) => key.eq(query), true, true],
    ["some heads", ({ query, key, head }) => key.le(query).or(head.lt(2)), false, true],
    ["only some heads", ({ head }) => head.lt(2), false, true],
    [
      "a choice by head",
      ({ query, key, head }) => head.lt(2).select(key.le(query), key.ge(query)),
      true,
      true,
    ],
    ["neither nor", ({ query, key }) => key.gt(query).or(key.lt(3)).not(), true, true],
  ];
  test.each(pure)("%s is nothing but bounds", (_, mask, low, high) => {
    const parts = stage(defineVariant({ name: "test", tensors, scalars, mask }));
    expect(parts.mask).toBeUndefined();
    expect([parts.low !== undefined, parts.high !== undefined]).toEqual([low, high]);
    for (const node of [parts.low, parts.high]) if (node) expect(node.axes & ~Axis.row).toBe(0);
  });

  test("a mask that hides nothing is none, one that shows nothing has an empty range", () => {
    const of = (mask: Mask) => stage(defineVariant({ name: "test", tensors, scalars, mask }));
    const all = { low: undefined, high: undefined, mask: undefined };
    expect(of(({ key }) => key.le(key))).toMatchObject(all);
    expect(of(({ key }) => key.le(key).or(key.ge(5)))).toMatchObject(all);
    expect(of(({ key }) => key.lt(key)).high!.value).toBe(-1);
  });

  test("a window with sinks keeps its upper bound beside the mask", () => {
    const parts = stage(
      defineVariant({
        name: "test",
        mask: ({ query, key }) => key.le(query).and(query.sub(key).le(7).or(key.lt(4))),
      }),
    );
    expect(parts.high!.op).toBe("input");
    expect(parts.low).toBeUndefined();
    expect(pairOps(parts.mask)).toBe("le or sub");
  });

  test("random masks show what they showed before they were split", () => {
    let bounds = 0;
    forSeeds(1500, (random) => {
      const mask = ({ query, key, head, n, t, request }: Parameters<Mask>[0]): Bool =>
        randomMask(random, key, [query, head, n, t.at(request), query.add(5), query.sub(n)]);
      const made = defineVariant({ name: "test", tensors, scalars, mask });
      const parts = stage(made);
      if (parts.low !== undefined || parts.high !== undefined) bounds++;
      for (let i = 0; i < 60; i++) {
        const some = () => random.pick([0, 1, 2, 5, 9, 100, 2 ** 30]);
        const wild = () => random.pick([0, 1, -1, 7, 2 ** 30, 2 ** 31 - 1, -(2 ** 31)]);
        const inputs = { query: some(), key: some(), head: random.integer(0, 3), request: 0 };
        const tensor = { data: [wild()], sizes: [1] };
        const environment = { inputs, scalars: [wild()], tensors: [tensor] };
        const expected = evaluate(made.hooks.mask!, environment);
        if (shows(parts, environment) !== expected)
          throw new Error(`${JSON.stringify(environment)} has to be ${expected}`);
      }
    });
    expect(bounds).toBeGreaterThan(500);
  });
});

/** A mask over a key and values of the row, mostly of forms that become bounds. */
function randomMask(random: Random, key: I32, row: readonly I32[], depth = 3): Bool {
  const { pick, chance } = random;
  const inner = () => randomMask(random, key, row, depth - 1);
  const side = (): I32 | number => (chance(0.3) ? random.integer(-3, 9) : pick(row));
  if (depth > 0 && chance(0.6)) {
    const kind = random.integer(0, 4);
    if (kind === 0) return inner().not();
    if (kind === 1) return pick(row).lt(side()).select(inner(), inner());
    return kind < 3 ? inner().and(inner()) : inner().or(inner());
  }
  const compare = pick(["lt", "le", "gt", "ge", "eq", "ne"] as const);
  if (chance(0.15)) return pick(row)[compare](side());
  const moved = pick([key, key.add(side()), key.sub(side()), pick(row).sub(key), key.xor(3)]);
  return chance(0.5) ? moved[compare](side()) : pick(row)[compare](moved);
}
