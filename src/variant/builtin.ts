import type { VariantTensor } from "./context.ts";
import { defineVariant } from "./define.ts";
import type { F32, I32 } from "./values.ts";
import type { Variant } from "./variant.ts";

/** Which pairs of elements turn: the leading `dim`, in halves or as neighbours. */
export interface Pairing {
  dim: number;
  interleaved?: boolean;
}

type Index = I32 | number;

/** Cosines and sines of positions, [positions, dim / 2, 2]. */
export type TurnTable = VariantTensor<F32, readonly [Index, Index, Index]>;

/** Rotary embedding of a vector at a position, from a table of cosines and sines. */
export function turned(x: F32, position: I32, table: TurnTable, pairing: Pairing): F32 {
  return x.rotate(pairing, (pair) => [table.at(position, pair, 0), table.at(position, pair, 1)]);
}

/** A logit limited smoothly to -cap and cap. */
export function capped(x: F32, cap: F32 | number): F32 {
  return x.div(cap).tanh().mul(cap);
}

/** What the options of an attention do to logits and rows. */
export interface BuiltinOptions {
  /** Takes the scalar softCap. */
  softCap: boolean;
  /** Takes the tensor alibiSlopes, f32 [queryHeads]. */
  alibi: boolean;
  /** Takes the tensor ropeTable, f32 [positions, dim / 2, 2]. */
  rope: Pairing | undefined;
}

/** The variant of an attention's options, in the same language as users' variants. */
export function builtinVariant(options: BuiltinOptions): Variant {
  const { softCap, alibi, rope } = options;
  const changes = softCap || alibi;
  const slopes = { dtype: "f32", shape: ["queryHeads"] } as const;
  const table = { dtype: "f32", shape: ["any", (rope?.dim ?? 2) / 2, 2] } as const;
  const tensors = {
    ...(alibi ? { alibiSlopes: slopes } : {}),
    ...(rope === undefined ? {} : { ropeTable: table }),
  };
  const names = [softCap && "soft cap", alibi && "ALiBi", rope && "RoPE"].filter(Boolean);
  return defineVariant({
    name: names.join(" + ") || "plain",
    tensors: tensors as { alibiSlopes: typeof slopes; ropeTable: typeof table },
    scalars: (softCap ? { softCap: "f32" } : {}) as { softCap: "f32" },
    query: rope && ((x, { query, ropeTable }) => turned(x, query, ropeTable, rope)),
    key: rope && ((x, { key, ropeTable }) => turned(x, key, ropeTable, rope)),
    logits: changes
      ? (x, context) => {
          const logit = softCap ? capped(x, context.softCap) : x;
          if (!alibi) return logit;
          const { alibiSlopes, head, key, query } = context;
          // Exact up to positions of 2^24, and most of it is made once per row or key.
          return logit.add(alibiSlopes.at(head).mul(key.toF32().sub(query.toF32())));
        }
      : undefined,
  });
}
