/** What a compiler says of variants: each line after an @ts-expect-error is one that it refuses. */
import {
  type Bool,
  defineVariant,
  type F32,
  type I32,
  type Variant,
  type VariantTensor,
  variants,
} from "flashbun";

/** The example of the documentation. */
export const capped: Variant = defineVariant({
  name: "capped",
  scalars: { cap: "f32" },
  logits: (x, { cap }) => cap.mul(x.div(cap).tanh()),
  mask: ({ query, key }) => key.le(query),
});

/** Members of a hook's context follow from the declarations. */
export const declared: Variant = defineVariant({
  name: "declared",
  tensors: {
    bias: { dtype: "bf16", shape: ["queryHeads", "any"] },
    table: { dtype: "u8", shape: [4] },
  },
  scalars: { cap: "f32", window: { type: "i32", fallback: 4 } },
  logits(x, { bias, table, cap, window, head, key }) {
    const f32: F32 = cap;
    const i32: I32 = window;
    const loaded: F32 = bias.at(head, key);
    const byte: I32 = table.at(3);
    const picked: F32 = byte.eq(1).select(loaded, 0);
    const whole: I32 = byte.eq(1).select(i32, 0);
    const both: Bool = byte.eq(1).select(key.le(3), key.ge(5));
    // @ts-expect-error one index too few
    bias.at(head);
    // @ts-expect-error an index is whole
    bias.at(head, x);
    // @ts-expect-error no f32 goes to a tensor of bytes
    table.put(x, 0);
    // @ts-expect-error an F32 takes no I32
    x.add(key);
    // @ts-expect-error and an I32 no F32
    key.add(x);
    // @ts-expect-error arithmetic of JavaScript
    x * 2;
    // @ts-expect-error both of one type
    both.select(x, key);
    return x.add(f32).add(picked).add(whole.toF32());
  },
});

/** Helpers that several hooks share. */
function weighted(x: F32, weights: VariantTensor<F32, readonly [I32 | number]>, at: I32): F32 {
  return x.mul(weights.at(at));
}

/** Hooks have inputs of their own. */
export const hooked: Variant = defineVariant({
  name: "hooked",
  tensors: { weights: { dtype: "f32", shape: ["headDim"] } },
  query: (x, { element, weights }) => weighted(x, weights, element).div(x.mul(x).sum()),
  key: (x, { slot }) => x.rotate({ dim: 8 }, (pair) => [pair.toF32(), slot.toF32()]),
  output: (x, { lse }) => x.mul(lse),
  softmax: true,
  visible: ({ queryStart, kvLength }, ranges) => ranges.add(0, kvLength, queryStart === 0),
});

defineVariant({
  name: "refused",
  // @ts-expect-error no element in logits
  logits: (x, { element }) => x.mul(element.toF32()),
  // @ts-expect-error no tensor of this name
  query: (x, { weights }) => x.mul(weights.at(0)),
  // @ts-expect-error a mask is no number
  mask: ({ key }) => key,
  // @ts-expect-error lse is for outputs
  key: (x, { lse }) => x.mul(lse),
});

// @ts-expect-error no such dtype
defineVariant({ name: "refused", tensors: { t: { dtype: "f64", shape: [1] } } });
// @ts-expect-error no such extent
defineVariant({ name: "refused", tensors: { t: { dtype: "f32", shape: ["heads"] } } });
// @ts-expect-error no such hook
defineVariant({ name: "refused", logit: (x: F32) => x });
// @ts-expect-error no such type
defineVariant({ name: "refused", scalars: { a: "f16" } });

export const known: Variant = variants.compose([variants.alibi(), variants.prefixLm()]);
