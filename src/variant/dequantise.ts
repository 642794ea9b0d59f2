import { requireInteger, requireOptions } from "../require.ts";
import { defineVariant } from "./define.ts";
import type { Variant } from "./variant.ts";

/**
 * Keys and values, such as fp8 ones, times a scale for each token and head; with `group`, for each
 * so many elements of a head.
 *
 * Tensors: keyScales and valueScales, f32 [slots, kvHeads], with `group` f32 [slots, kvHeads,
 * groups]; a slot is page * pageSize + offset.
 */
export function dequantise(options: { group?: number } = {}): Variant {
  requireOptions("options", options, ["group"]);
  const { group } = options;
  if (group !== undefined) return dequantiseGroups(group);
  const shape = ["slots", "kvHeads"] as const;
  return defineVariant({
    name: "dequantise",
    tensors: { keyScales: { dtype: "f32", shape }, valueScales: { dtype: "f32", shape } },
    key: (x, { keyScales, slot, kvHead }) => x.mul(keyScales.at(slot, kvHead)),
    value: (x, { valueScales, slot, kvHead }) => x.mul(valueScales.at(slot, kvHead)),
  });
}

function dequantiseGroups(group: number): Variant {
  requireInteger("group", group, 1, 65536);
  const shape = ["slots", "kvHeads", "any"] as const;
  return defineVariant({
    name: "dequantise groups",
    tensors: { keyScales: { dtype: "f32", shape }, valueScales: { dtype: "f32", shape } },
    key: (x, { keyScales, slot, kvHead, element }) =>
      x.mul(keyScales.at(slot, kvHead, element.div(group))),
    value: (x, { valueScales, slot, kvHead, element }) =>
      x.mul(valueScales.at(slot, kvHead, element.div(group))),
  });
}
