import { expect, test } from "bun:test";
import { defineVariant } from "../../src/variant/define.ts";
import { listing } from "../../src/variant/listing.ts";

test("a listing names every value with its type and what it changes with", () => {
  const variant = defineVariant({
    name: "shown",
    tensors: {
      slopes: { dtype: "f32", shape: ["queryHeads"] },
      seen: { dtype: "f32", shape: ["any"] },
    },
    scalars: { cap: "f32" },
    softmax: false,
    query: (x, { element }) => x.mul(element.toF32()).div(x.mul(x).sum()),
    logits: (x, { slopes, seen, head, key, cap }) => {
      seen.put(x, key);
      return x.mul(slopes.at(head)).min(cap);
    },
    mask: ({ query, key }) => key.le(query),
  });
  expect(listing(variant).split("\n")).toEqual([
    "variant shown, without softmax",
    "slopes: f32 [queryHeads]",
    "seen: f32 [any]",
    "cap: f32",
    "",
    "query:",

    "  %0 = x : f32 by row, element",
    "  %1 = element : i32 by element",
    "  %2 = toF32(%1) : f32 by element",
    "  %3 = mul(%0, %2) : f32 by row, element",
    "  %4 = mul(%0, %0) : f32 by row, element",
    "  %5 = reduceSum(%4) : f32 by row",
    "  %6 = div(%3, %5) : f32 by row, element",
    "  return %6",
    "",
    "logits:",

    "  %0 = cap : f32",
    "  %1 = x : f32 by pair",
    "  %2 = head : i32 by row",
    "  %3 = slopes[%2] : f32 by row",
    "  %4 = mul(%1, %3) : f32 by row, pair",
    "  %5 = min(%0, %4) : f32 by row, pair",
    "  %6 = key : i32 by key",
    "  %7 = %5, with seen[%6] = %1 : f32 by row, key, pair",
    "  return %7",
    "",
    "mask:",
    "  %0 = key : i32 by key",
    "  %1 = query : i32 by row",
    "  %2 = le(%0, %1) : bool by row, key",
    "  return %2",
    "",
  ]);
});
