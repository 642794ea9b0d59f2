import { builtinVariant } from "../../variant/builtin.ts";
import { compose } from "../../variant/compose.ts";
import type { TensorPlace } from "../../variant/cuda-expression.ts";
import { type CudaVariant, emitCuda } from "../../variant/emit-cuda.ts";
import type { ResolvedOptions } from "../options.ts";

type OptionsWithHooks = Pick<ResolvedOptions, "softCap" | "alibi" | "variant">;

/** Where the kernels find the inputs of options, which are parameters of their own. */
const tensorPlaces: Readonly<Record<string, TensorPlace>> = {
  alibiSlopes: { data: "p.alibi_slopes", sizes: ["p.query_heads"], strides: ["1"] },
};
const scalarPlaces: Readonly<Record<string, string>> = { softCap: "p.soft_cap" };

/** What was emitted, of a variant (or of none) by the options beside it. */
const emitted = new WeakMap<object, Map<string, CudaVariant>>();
const noVariant = {};

/**
 * The user's variant with the hooks of options, as a GPU's kernels take it; undefined: neither
 * changes anything. Errors: VariantError for a user's input of an option's name.
 */
export function cudaVariant(options: OptionsWithHooks): CudaVariant | undefined {
  const { softCap, alibi, variant } = options;
  if (softCap === 0 && !alibi && variant === undefined) return undefined;
  let known = emitted.get(variant ?? noVariant);
  if (known === undefined) emitted.set(variant ?? noVariant, (known = new Map()));
  const key = `${softCap !== 0} ${alibi}`;
  let made = known.get(key);
  if (made === undefined) known.set(key, (made = emit(options)));
  return made;
}

function emit({ softCap, alibi, variant }: OptionsWithHooks): CudaVariant {
  if (softCap === 0 && !alibi) return emitCuda(variant!);
  const builtin = builtinVariant({ softCap: softCap !== 0, alibi, rope: undefined });
  const { tensors, scalars } = variant ?? { tensors: [], scalars: [] };
  return emitCuda(variant === undefined ? builtin : compose([variant, builtin]), {
    tensors: [...tensors.map(() => undefined), ...builtin.tensors.map(placeOf(tensorPlaces))],
    scalars: [...scalars.map(() => undefined), ...builtin.scalars.map(placeOf(scalarPlaces))],
  });
}

function placeOf<T>(
  places: Readonly<Record<string, T>>,
): (spec: { name: string }) => T | undefined {
  return ({ name }) => places[name];
}
