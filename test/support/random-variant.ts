import { defineVariant } from "../../src/variant/define.ts";
import type { F32, I32 } from "../../src/variant/values.ts";
import type { Random } from "./random.ts";
import { hostTensor, type VariantCase } from "./variants.ts";

/** Whole numbers and numbers within about [-2, 2] that a hook may be made of. */
interface Leaves {
  whole: I32[];
  real: F32[];
  /** The element of a table at two indices. */
  table: (i: I32, j: I32) => F32;
}

/**
 * A variant of random hooks, each a smooth expression of all that the hook is given, so that
 * rounding an input changes its result by as little. Branches look at whole numbers only.
 */
export function randomVariant(random: Random, softmax = random.chance(0.8)): VariantCase {
  const has = () => random.chance(0.5);
  const tensors = { table: { dtype: "f32", shape: [7, "any"] } } as const;
  const variant = defineVariant({
    name: `SEED=${random.seed}`,
    tensors,
    softmax,
    scalars: { bend: { type: "f32", fallback: 0.7 }, turn: "i32" },
    query: !has()
      ? undefined
      : (x, { query, head, element, table, bend }) =>
          x.mul(real(random, leaves([query, head, element], [x.tanh(), bend], table), 3).add(1.5)),
    key: !has()
      ? undefined
      : (x, { key, kvHead, element, table, turn }) =>
          x.add(real(random, leaves([key, kvHead, element, turn], [x.tanh()], table), 3)),
    value: !has()
      ? undefined
      : (x, { key, slot, element, table, bend }) =>
          x.mul(real(random, leaves([key, slot, element], [bend], table), 2)),
    logits: !has()
      ? undefined
      : (x, { query, key, head, request, queryIndex, kvLength, table, bend, turn }) => {
          const whole = [query, key, head, request, queryIndex, kvLength, turn, query.sub(key)];
          const made = real(random, leaves(whole, [x.mul(0.3).tanh(), bend], table), 4);
          return random.chance(0.5) ? x.add(made) : made;
        },
    mask: !has()
      ? undefined
      : ({ query, key, head, queryLength, turn }) => {
          const whole = [query, key, head, queryLength, turn];
          const [a, b] = [integer(random, whole, 3), integer(random, whole, 3)];
          const seen = a.mod(5).le(b.mod(5));
          // Nearly every row sees something.
          return random.chance(0.5) ? seen.or(key.le(2)) : seen.or(key.eq(query));
        },
    output: !has()
      ? undefined
      : (x, { head, query, element, table, bend }) =>
          x.add(real(random, leaves([head, query, element], [x.tanh(), bend], table), 3)),
  });
  return {
    variant,
    inputs: (_, data) => ({
      table: hostTensor([7, 9], () => 2 * data.next() - 1),
      bend: data.next(),
      turn: data.integer(-100, 100),
    }),
  };
}

function leaves(whole: I32[], real: F32[], table: { at: (i: I32, j: I32) => F32 }): Leaves {
  return { whole, real, table: (i, j) => table.at(i, j) };
}

function integer(random: Random, whole: readonly I32[], depth: number): I32 {
  if (depth === 0 || random.chance(0.2)) return random.pick(whole);
  const [a, b] = [integer(random, whole, depth - 1), integer(random, whole, depth - 1)];
  return random.pick([
    () => a.add(b),
    () => a.sub(b.shr(1)),
    () => a.mul(random.integer(-9, 9)),
    () => a.xor(b),
    () => a.and(random.integer(0, 63)),
    () => a.div(random.integer(1, 9)),
    () => a.lt(b).select(b, a.neg()),
  ])();
}

/** An expression of about [-2, 2]. */
function real(random: Random, given: Leaves, depth: number): F32 {
  const { whole, table } = given;
  const number = () => integer(random, whole, 2);
  if (depth === 0 || random.chance(0.15)) {
    return random.pick([
      () => random.pick(given.real),
      () => number().mod(7).toF32().sub(3).mul(0.4),
      () => table(number().mod(7), number().mod(9)),
    ])();
  }
  const [a, b] = [real(random, given, depth - 1), real(random, given, depth - 1)];
  return random.pick([
    () => a.add(b).mul(0.6),
    () => a.mul(b).mul(0.5),
    () => a.sub(b).tanh(),
    () => a.sin(),
    () => a.cos().add(b).mul(0.5),
    () => a.sigmoid().mul(b),
    () => a.max(b.neg()),
    () => a.abs().add(0.3).sqrt(),
    () => a.abs().add(1).log().add(b.mul(0.2)),
    () => a.sub(2).exp(),
    () => number().and(1).eq(0).select(a, b),
  ])();
}
