import { describe, expect, test } from "bun:test";
import { VariantError } from "../../src/errors.ts";
import { builtinVariant } from "../../src/variant/builtin.ts";
import { compose, hooksOf } from "../../src/variant/compose.ts";
import { defineCudaVariant, defineVariant } from "../../src/variant/define.ts";
import { type Environment, Evaluator } from "../../src/variant/evaluate.ts";
import type { HookName, InputName } from "../../src/variant/expression.ts";
import * as variants from "../../src/variant/library.ts";
import type { Variant } from "../../src/variant/variant.ts";
import { forSeeds, type Random } from "../support/random.ts";

const inputs = {
  x: 1.5,
  query: 20,
  queryToken: 7,
  queryIndex: 2,
  request: 1,
  head: 3,
  kvHead: 1,
  queryLength: 5,
  kvLength: 30,
  key: 12,
  slot: 4,
};

/** A tensor whose element i is i / 4. */
function quarters(...sizes: number[]) {
  const length = sizes.reduce((product, size) => product * size, 1);
  return { data: Array.from({ length }, (_, i) => i / 4), sizes };
}

function valueOf(variant: Variant, hook: HookName, more: Partial<Environment> = {}): number {
  const scalars = variant.scalars.map(({ fallback }) => fallback!);
  return new Evaluator(variant.hooks[hook]!).run({ inputs, scalars, ...more });
}

function vectorOf(variant: Variant, hook: HookName, x: number[], more: Partial<Environment>) {
  return [...new Evaluator(variant.hooks[hook]!).vector(x, { inputs, ...more })];
}

describe("logits", () => {
  const { exp, tanh } = Math;
  const slopes = quarters(4);
  const cube = quarters(4, 8, 30);
  const cases: [string, Variant, Partial<Environment>, number][] = [
    ["FlashSigmoid", variants.flashSigmoid({ bias: -2 }), {}, 1 / (1 + exp(-(1.5 - 2)))],
    ["soft cap", variants.softCap({ cap: 2 }), {}, 2 * tanh(0.75)],
    ["ALiBi", variants.alibi(), { tensors: [slopes] }, 1.5 + 0.75 * (12 - 20)],
    ["a bias", variants.logitBias(), { tensors: [cube] }, 1.5 + ((3 * 8 + 7) * 30 + 12) / 4],
    [
      "soft cap and ALiBi, in this order",
      builtinVariant({ softCap: true, alibi: true, rope: undefined }),
      { tensors: [slopes], scalars: [2] },
      2 * tanh(0.75) + 0.75 * (12 - 20),
    ],
    [
      "ALiBi alone",
      builtinVariant({ softCap: false, alibi: true, rope: undefined }),
      { tensors: [slopes] },
      1.5 + 0.75 * (12 - 20),
    ],
    [
      "soft cap alone",
      builtinVariant({ softCap: true, alibi: false, rope: undefined }),
      { scalars: [2] },
      2 * tanh(0.75),
    ],
  ];
  test.each(cases)("%s", (_, variant, more, expected) => {
    expect(valueOf(variant, "logits", more)).toBeCloseTo(expected, 12);
  });

  test("a dump has each logit at its place and changes nothing", () => {
    const dump = new Float64Array(4 * 8 * 30);
    const put = (at: number, value: number) => (dump[at] = value);
    const tensors = [{ data: dump, sizes: [4, 8, 30], put }];
    expect(valueOf(variants.dumpLogits(), "logits", { tensors })).toBe(1.5);
    expect(dump[(3 * 8 + 7) * 30 + 12]).toBe(1.5);
    expect(dump.filter((value) => value !== 0)).toHaveLength(1);
  });

  test("only FlashSigmoid does without softmax", () => {
    expect(variants.flashSigmoid({ bias: 0 }).softmax).toBe(false);
    expect(variants.softCap({ cap: 1 }).softmax).toBe(true);
  });
});

describe("vectors", () => {
  const x = [3, -1, 4, 1, -5, 9, 2, 6];

  test("QK norm divides by the root mean square and weighs", () => {
    const variant = variants.qkNorm({ headDim: 8, epsilon: 0.5 });
    const tensors = [quarters(8), { data: x, sizes: [8] }];
    const root = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / 8 + 0.5);
    vectorOf(variant, "query", x, { tensors }).forEach((value, d) =>
      expect(value).toBeCloseTo(((x[d] / root) * d) / 4, 12),
    );
    vectorOf(variant, "key", x, { tensors }).forEach((value, d) =>
      expect(value).toBeCloseTo((x[d] / root) * x[d], 12),
    );
  });

  test("scales of keys, values and outputs", () => {
    const tensors = [quarters(6, 2), { ...quarters(6, 2), data: Array(12).fill(3) }];
    const scaled = variants.dequantise();
    expect(vectorOf(scaled, "key", x, { tensors })).toEqual(x.map((value) => (value * 9) / 4));
    expect(vectorOf(scaled, "value", x, { tensors })).toEqual(x.map((value) => value * 3));
    const groups = [quarters(5, 2, 4), quarters(5, 2, 4)];
    const grouped = variants.dequantise({ group: 2 });
    expect(vectorOf(grouped, "value", x, { tensors: groups })).toEqual(
      x.map((value, element) => (value * (36 + Math.floor(element / 2))) / 4),
    );
    const out = vectorOf(variants.outputScale(), "output", x, { tensors: [quarters(4)] });
    expect(out).toEqual(x.map((value) => value * 0.75));
  });

  test("rotation, by the position of the query and that of the key", () => {
    const angle = (position: number, pair: number) => position * 10 ** -pair;
    const data = Array.from({ length: 21 * 2 * 2 }, (_, at) => {
      const value = angle(Math.floor(at / 4), Math.floor(at / 2) % 2);
      return at % 2 === 0 ? Math.cos(value) : Math.sin(value);
    });
    const tensors = [{ data, sizes: [21, 2, 2] }];
    const expected = (position: number, pairs: number[][]) => {
      const turned = [...x];
      pairs.forEach(([a, b], pair) => {
        const [cos, sin] = [Math.cos(angle(position, pair)), Math.sin(angle(position, pair))];
        turned[a] = x[a] * cos - x[b] * sin;
        turned[b] = x[a] * sin + x[b] * cos;
      });
      return turned;
    };
    const halves = [
      [0, 2],
      [1, 3],
    ];
    const neighbours = [
      [0, 1],
      [2, 3],
    ];
    for (const interleaved of [false, true]) {
      const pairs = interleaved ? neighbours : halves;
      const rope = { dim: 4, interleaved };
      for (const variant of [
        builtinVariant({ softCap: false, alibi: false, rope }),
        variants.slidingWindowWithSinks({ window: 4, sinks: 1, rope }),
      ]) {
        for (const [hook, position] of [["query", 20] as const, ["key", 12] as const]) {
          const wanted = expected(position, pairs);
          vectorOf(variant, hook, x, { tensors }).forEach((value, d) =>
            expect(value).toBeCloseTo(wanted[d], 12),
          );
        }
      }
    }
  });
});

/** What a mask shows of a request with as many queries as keys: [query][key]. */
function shown(
  variant: Variant,
  length: number,
  tensors: Environment["tensors"],
  request: number,
  from = 0,
): boolean[][] {
  const mask = new Evaluator(variant.hooks.mask!);
  return Array.from({ length }, (_, query) =>
    Array.from({ length }, (_, key) => {
      const at = { query, key, request, queryIndex: query - from, kvLength: length };
      return mask.run({ inputs: at as Record<InputName, number>, tensors }) === 1;
    }),
  );
}

function someTile(random: Random, length: number): [number, number] {
  const start = random.integer(0, length - 1);
  return [start, random.integer(start + 1, length)];
}

/**
 * Throws unless visible() covers what the mask shows, in order, and is full only where all see;
 * keys read.
 */
function expectCovered(
  { visible }: Variant,
  seen: boolean[][],
  request: number,
  [queryStart, queryEnd]: readonly [number, number],
): number {
  const length = seen.length;
  const tile = { request, queryStart, queryEnd, queryLength: length, kvLength: length };
  const rows = seen.slice(queryStart, queryEnd);
  let before = 0;
  const covered = new Set<number>();
  visible!(tile, {
    add(start, end, full) {
      expect(start).toBeGreaterThanOrEqual(before);
      expect(end).toBeGreaterThan(start);
      expect(end).toBeLessThanOrEqual(length);
      before = end;
      for (let key = start; key < end; key++) {
        covered.add(key);
        if (full) expect(rows.every((row) => row[key])).toBe(true);
      }
    },
  });
  for (let key = 0; key < length; key++)
    if (rows.some((row) => row[key])) expect(covered.has(key)).toBe(true);
  return covered.size;
}

describe("masks", () => {
  test("a window with sinks", () => {
    forSeeds(200, (random) => {
      const [window, sinks] = [random.integer(0, 12), random.integer(0, 8)];
      const variant = variants.slidingWindowWithSinks({ window, sinks });
      const seen = shown(variant, random.integer(1, 30), [], 0);
      for (const [query, row] of seen.entries())
        for (const [key, value] of row.entries())
          expect(value).toBe(key <= query && (key >= query - window || key < sinks));
      expectCovered(variant, seen, 0, someTile(random, seen.length));
    });
  });

  test("a prefix that all see", () => {
    forSeeds(200, (random) => {
      const prefixes = [random.integer(0, 40), random.integer(0, 40)];
      const variant = variants.prefixLm({ prefixes });
      const request = random.integer(0, 1);
      const tensors = [{ data: prefixes, sizes: [2] }];
      const seen = shown(variant, random.integer(1, 30), tensors, request);
      for (const [query, row] of seen.entries())
        for (const [key, value] of row.entries())
          expect(value).toBe(key <= query || key < prefixes[request]);
      expectCovered(variant, seen, request, someTile(random, seen.length));
    });
  });

  test("documents one after the other", () => {
    forSeeds(200, (random) => {
      const length = random.integer(1, 30);
      const causal = random.chance(0.5);
      const starts = [0];
      for (let at = 1; at < length; at++) if (random.chance(0.2)) starts.push(at);
      const document = (at: number) => starts.findLastIndex((start) => start <= at);
      const data = Array.from({ length: 2 * length }, (_, at) => document(at % length) + 5);
      const variant = variants.documentMask({ causal, starts: () => starts });
      const seen = shown(variant, length, [{ data, sizes: [2, length] }], 1);
      for (const [query, row] of seen.entries())
        for (const [key, value] of row.entries())
          expect(value).toBe(document(key) === document(query) && (!causal || key <= query));
      expectCovered(variant, seen, 1, someTile(random, seen.length));
    });
  });

  test("blocks", () => {
    forSeeds(200, (random) => {
      const block = random.pick([1, 3, 4]);
      const length = random.integer(1, 30);
      const columns = Math.ceil(length / block);
      const blocks = Array.from({ length: columns ** 2 }, () => Number(random.chance(0.5)));
      const variant = variants.blockMask({ block, seen: blocks, columns });
      const tensors = [{ data: blocks, sizes: [columns, columns] }];
      const seen = shown(variant, length, tensors, 0);
      for (const [query, row] of seen.entries())
        for (const [key, value] of row.entries()) {
          const at = Math.floor(query / block) * columns + Math.floor(key / block);
          expect(value).toBe(blocks[at] === 1);
        }
      expectCovered(variant, seen, 0, someTile(random, seen.length));
    });
  });

  test("dilated", () => {
    forSeeds(300, (random) => {
      const [stride, count] = [random.integer(1, 6), random.integer(1, 5)];
      const variant = variants.dilated({ stride, count });
      const seen = shown(variant, random.integer(1, 30), [], 0);
      for (const [query, row] of seen.entries())
        for (const [key, value] of row.entries()) {
          const steps = (query - key) / stride;
          expect(value).toBe(Number.isInteger(steps) && steps >= 0 && steps < count);
        }
      expectCovered(variant, seen, 0, someTile(random, seen.length));
      expectCovered(variant, seen, 0, [seen.length - 1, seen.length]);
    });
  });

  test("packed bits", () => {
    forSeeds(50, (random) => {
      const length = random.integer(1, 20);
      const before = random.integer(0, 5);
      const bits = Array.from({ length: 200 }, () => random.integer(0, 255));
      const tensors = [
        { data: bits, sizes: [200] },
        { data: [0, before], sizes: [2] },
      ];
      const seen = shown(variants.packedMask(), length, tensors, 1);
      for (const [query, row] of seen.entries())
        for (const [key, value] of row.entries()) {
          const bit = before * 8 + query * length + key;
          expect(value).toBe(((bits[bit >> 3] >> (bit & 7)) & 1) === 1);
        }
    });
  });

  test("narrow what is read", () => {
    const variant = variants.slidingWindowWithSinks({ window: 4, sinks: 2 });
    expect(expectCovered(variant, shown(variant, 120, [], 0), 0, [100, 101])).toBe(2 + 5);
  });
});

describe("several as one", () => {
  const biased = defineVariant({
    name: "biased",
    tensors: { first: { dtype: "f32", shape: [2] }, second: { dtype: "f32", shape: [3] } },
    scalars: { factor: "f32" },
    logits: (x, { first, second, factor }) => x.add(first.at(1)).add(second.at(2)).mul(factor),
  });

  test("have the tensors and scalars of all, each with its own", () => {
    const both = compose([variants.qkNorm({ headDim: 8 }), biased, variants.prefixLm()]);
    expect(both.name).toBe("QK norm + biased + prefix LM");
    expect(both.tensors.map(({ name }) => name)).toEqual([
      "queryWeights",
      "keyWeights",
      "first",
      "second",
      "prefixes",
    ]);
    expect(hooksOf(both)).toEqual(["query", "key", "logits", "mask"]);
    const tensors = [1, 2, 3, 4, 5].map((value) => ({ data: Array(8).fill(value), sizes: [8] }));
    expect(valueOf(both, "logits", { tensors, scalars: [10] })).toBe((1.5 + 3 + 4) * 10);
    expect(valueOf(both, "mask", { tensors, inputs: { ...inputs, query: 0, key: 4 } })).toBe(1);
    expect(valueOf(both, "mask", { tensors, inputs: { ...inputs, query: 0, key: 5 } })).toBe(0);
  });

  test("of one is that one; softmax is off where one wants it off", () => {
    expect(compose([biased])).toBe(biased);
    const sigmoid = variants.flashSigmoid({ bias: 0 });
    expect(compose([variants.outputScale(), sigmoid]).softmax).toBe(false);
  });

  test("must not have the same hook, name or ranges", () => {
    const cuda = (hook: HookName) => defineCudaVariant({ name: "c", source: "c", hooks: [hook] });
    const visible = () => {};
    const wide = (letters: string) => {
      const spec = { dtype: "f32", shape: [1] } as const;
      return defineVariant({
        name: "wide",
        tensors: Object.fromEntries([...letters].map((letter) => [letter, spec])),
      });
    };
    const cases: [Variant[], RegExp][] = [
      [[biased, variants.alibi()], /"biased \+ ALiBi", logits hook: two of the variants have it/],
      [[biased, cuda("logits")], /logits hook: two of the variants have it/],
      [[cuda("mask"), cuda("logits")], /two of the variants are CUDA sources/],
      [
        [biased, defineVariant({ name: "n", scalars: { first: "f32" } })],
        /two of the variants have first/,
      ],
      [
        [defineVariant({ name: "a", visible }), defineVariant({ name: "b", visible })],
        /two of the variants have visible\(\)/,
      ],
      [[wide("abcd"), wide("efghi")], /together they have 9 tensors and 0 scalars/],
    ];
    for (const [all, message] of cases) {
      expect(() => compose(all)).toThrow(VariantError);
      expect(() => compose(all)).toThrow(message);
    }
  });
});
