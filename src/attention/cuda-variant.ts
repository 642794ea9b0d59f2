import { builtinVariant } from "../variant/builtin.ts";
import type { Places } from "../variant/cuda-expression.ts";
import { type CudaVariant, emitCuda } from "../variant/emit-cuda.ts";
import type { HookName, Node } from "../variant/expression.ts";
import { Graph, rebuild } from "../variant/graph.ts";
import type { Variant } from "../variant/variant.ts";
import type { ResolvedOptions } from "./options.ts";

type OptionsWithHooks = Pick<ResolvedOptions, "softCap" | "alibi" | "variant">;

/** Where the kernels find the inputs of options, which are parameters of their own. */
const tensorPlaces: Readonly<Record<string, Places["tensors"][number]>> = {
  alibiSlopes: { data: "p.alibi_slopes", sizes: ["p.query_heads"], strides: ["1"] },
};
const scalarPlaces: Readonly<Record<string, string>> = { softCap: "p.soft_cap" };

/** The user's variant with the hooks that options stand for, as a GPU's kernels take it. */
export function cudaVariant(options: OptionsWithHooks): CudaVariant | undefined {
  const { softCap, alibi, variant } = options;
  if (softCap === 0 && !alibi) return variant && emitCuda(variant);
  const builtin = builtinVariant({ softCap: softCap !== 0, alibi, rope: undefined });
  const tensors = variant?.tensors ?? [];
  const scalars = variant?.scalars ?? [];
  const places = {
    tensors: [
      ...tensors.map(() => undefined),
      ...builtin.tensors.map((of) => tensorPlaces[of.name]),
    ],
    scalars: [
      ...scalars.map(() => undefined),
      ...builtin.scalars.map((of) => scalarPlaces[of.name]),
    ],
  };
  return emitCuda(variant === undefined ? builtin : joined(variant, builtin), places);
}

/** Two variants without a hook in common as one; inputs of the second come behind. */
function joined(first: Variant, second: Variant): Variant {
  const graph = new Graph();
  const move = rebuild(graph, (node, inputs) => {
    if (node.op === "scalar") return graph.scalar(node.type, node.value + first.scalars.length);
    if (node.op !== "load") return undefined;
    return graph.make({ ...node, inputs, value: node.value + first.tensors.length });
  });
  const hooks: Partial<Record<HookName, Node>> = { ...first.hooks };
  for (const [hook, node] of Object.entries(second.hooks)) hooks[hook as HookName] = move(node);
  return {
    ...first,
    tensors: [...first.tensors, ...second.tensors],
    scalars: [...first.scalars, ...second.scalars],
    hooks,
  };
}
