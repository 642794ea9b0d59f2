import { OptionError, VariantError } from "../errors.ts";
import { type HookName, hookNames, type Node, scalarsMax, tensorsMax } from "./expression.ts";
import { Graph, rebuild } from "./graph.ts";
import { madeVariant, requireVariant, type Variant } from "./variant.ts";

/**
 * One variant of several that hold different hooks: tensors and scalars of all, each by its name.
 * Errors: VariantError where two have the same hook, the same name, or both define what is visible.
 */
export function compose(variants: readonly Variant[]): Variant {
  if (!Array.isArray(variants) || variants.length === 0)
    throw new OptionError("variants", variants, "a list of variants", "pass [first, second].");
  for (let i = 0; i < variants.length; i++) requireVariant(`variants[${i}]`, variants[i]);
  if (variants.length === 1) return variants[0];
  const graph = new Graph();
  const hooks: Partial<Record<HookName, Node>> = {};
  let tensorsBefore = 0;
  let scalarsBefore = 0;
  for (const variant of variants) {
    const copy = rebuild(graph, (node, inputs) => {
      const before = node.op === "scalar" ? scalarsBefore : tensorsBefore;
      if (!["scalar", "load", "store", "matmul"].includes(node.op)) return undefined;
      return graph.make({ ...node, inputs, value: node.value + before });
    });
    for (const hook of hookNames) {
      const node = variant.hooks[hook];
      if (node !== undefined) hooks[hook] = copy(node);
    }
    tensorsBefore += variant.tensors.length;
    scalarsBefore += variant.scalars.length;
  }
  const tensors = variants.flatMap((variant) => variant.tensors);
  const scalars = variants.flatMap((variant) => variant.scalars);
  refuseClashes(variants);
  return madeVariant({
    name: nameOf(variants),
    tensors,
    scalars,
    hooks,
    softmax: variants.every(({ softmax }) => softmax),
    visible: variants.find(({ visible }) => visible !== undefined)?.visible,
    cuda: variants.find(({ cuda }) => cuda !== undefined)?.cuda,
  });
}

/** The hooks that a variant has, traced or in CUDA. */
export function hooksOf({ hooks, cuda }: Variant): HookName[] {
  return hookNames.filter((hook) => hook in hooks || cuda?.hooks.includes(hook));
}

function nameOf(variants: readonly Variant[]): string {
  return variants.map(({ name }) => name).join(" + ");
}

function refuseClashes(variants: readonly Variant[]): void {
  const fail = (problem: string, fix: string, hook?: HookName): never => {
    throw new VariantError(nameOf(variants), hook, undefined, problem, fix);
  };
  const hooks = twice(variants.flatMap(hooksOf));
  if (hooks !== undefined)
    fail("two of the variants have it", "write one hook that does both", hooks);
  const names = variants.flatMap(({ tensors, scalars }) => [...tensors, ...scalars]);
  const name = twice(names.map((spec) => spec.name));
  if (name !== undefined) fail(`two of the variants have ${name}`, "rename one of them");
  if (variants.filter(({ visible }) => visible !== undefined).length > 1)
    fail("two of the variants have visible()", "leave one out, or write one that joins them");
  if (variants.filter(({ cuda }) => cuda !== undefined).length > 1)
    fail("two of the variants are CUDA sources", "join their sources");
  const tensors = variants.reduce((sum, variant) => sum + variant.tensors.length, 0);
  const scalars = variants.reduce((sum, variant) => sum + variant.scalars.length, 0);
  if (tensors > tensorsMax || scalars > scalarsMax)
    fail(
      `together they have ${tensors} tensors and ${scalars} scalars`,
      `keep to ${tensorsMax} tensors and ${scalarsMax} scalars`,
    );
}

function twice<T>(values: readonly T[]): T | undefined {
  return values.find((value, at) => values.indexOf(value) !== at);
}
