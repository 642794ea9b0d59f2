import { expect, test } from "bun:test";
import { boundRanges } from "../../src/variant/bound-ranges.ts";
import { defineVariant } from "../../src/variant/define.ts";
import { evaluate } from "../../src/variant/evaluate.ts";
import type { Bool, I32 } from "../../src/variant/values.ts";
import type { Variant } from "../../src/variant/variant.ts";
import { forSeeds } from "../support/random.ts";

type Mask = (query: I32, key: I32) => Bool;

function masked(mask: Mask): Variant {
  return defineVariant({ name: "masked", mask: ({ query, key }) => mask(query, key) });
}

/** Ranges of a tile: [start, end, full]. */
function rangesOf(variant: Variant, queryStart: number, queryEnd: number, kvLength: number) {
  const ranges: [number, number, boolean][] = [];
  const tile = { request: 0, queryStart, queryEnd, queryLength: 1, kvLength };
  boundRanges(variant)!(tile, {
    add(start, end, full) {
      const [from, to] = [Math.max(start, 0), Math.min(end, kvLength)];
      if (from < to) ranges.push([from, to, full]);
    },
  });
  return ranges;
}

test("causal masks and windows are known without visible()", () => {
  const causal = masked((query, key) => key.le(query));
  expect(rangesOf(causal, 10, 20, 100)).toEqual([
    [0, 11, true],
    [11, 20, false],
  ]);
  const window = masked((query, key) => query.sub(key).lt(8).and(key.le(query)));
  expect(rangesOf(window, 50, 51, 100)).toEqual([[43, 51, true]]);
  expect(rangesOf(window, 50, 60, 100)).toEqual([[43, 60, false]]);
  const rest = masked((query, key) => key.le(query).and(key.and(1).eq(0)));
  expect(rangesOf(rest, 10, 20, 100)).toEqual([[0, 20, false]]);
});

test("what bounds cannot say is left to the mask", () => {
  expect(boundRanges(masked((_, key) => key.and(3).eq(0)))).toBeUndefined();
  expect(boundRanges(defineVariant({ name: "none", logits: (x) => x }))).toBeUndefined();
  const falling = masked((query, key) => key.le(query.neg().add(100)));
  expect(boundRanges(falling)).toBeUndefined();
  const byTensor = defineVariant({
    name: "prefix",
    tensors: { ends: { dtype: "i32", shape: ["requests"] } },
    mask: ({ key, query, request, ends }) =>
      key
        .lt(ends.at(request))
        .and(key.ge(query.sub(4)))
        .and(key.le(query.add(9))),
  });
  // The tensor may end keys earlier: nothing is full.
  expect(rangesOf(byTensor, 20, 22, 100).every(([, , full]) => !full)).toBe(true);
});

test("ranges hold every visible pair, full ones no hidden one", () => {
  forSeeds(500, (random) => {
    const constants = Array.from({ length: 4 }, () => random.integer(-30, 60));
    const bound = (query: I32): I32 =>
      random.pick([
        () => query.add(constants[0]),
        () => query.sub(constants[1]).max(constants[2]),
        () => query.min(constants[3]).add(query),
        () => query.max(0).min(70),
        () => query.neg().add(60),
      ])();
    const one: Mask = (query, key) =>
      random.pick([
        () => key.le(bound(query)),
        () => key.lt(bound(query)),
        () => key.ge(bound(query)),
        () => bound(query).lt(key),
        () => key.mod(3).ne(0),
      ])();
    const variant = masked((query, key) =>
      random.chance(0.5) ? one(query, key) : one(query, key).and(one(query, key)),
    );
    if (boundRanges(variant) === undefined) return;
    const start = random.integer(0, 60);
    const end = start + random.integer(1, 20);
    const kvLength = random.integer(1, 90);
    const ranges = rangesOf(variant, start, end, kvLength);
    for (let query = start; query < end; query++) {
      for (let key = 0; key < kvLength; key++) {
        const seen = evaluate(variant.hooks.mask!, { inputs: { query, key } }) !== 0;
        const range = ranges.find(([from, to]) => from <= key && key < to);
        if (seen && range === undefined) throw new Error(`${query} sees ${key}`);
        if (!seen && range?.[2] === true) throw new Error(`${query} does not see ${key}`);
      }
    }
  });
});
