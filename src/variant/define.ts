import { OptionError, VariantError } from "../errors.ts";
import { contextOf, type HookInputs, type VariantTensor } from "./context.ts";
import { checkDefinition, type ScalarDeclaration, type TensorDeclaration } from "./declare.ts";
import { type Extent, type HookName, hookNames, type Node } from "./expression.ts";
import { Graph, isInput, nodesOf } from "./graph.ts";
import { placeOf } from "./place.ts";
import { besideProduct } from "./projection.ts";
import { type Draft, Trace } from "./trace.ts";
import { kindOf, used, type Value } from "./value.ts";
import { Bool, F32, type I32 } from "./values.ts";
import { madeVariant, type Variant, type Visible } from "./variant.ts";

/** A variant's tensors by name. */
export type TensorDeclarations = Readonly<Record<string, TensorDeclaration>>;
/** A variant's scalars by name. */
export type ScalarDeclarations = Readonly<Record<string, ScalarDeclaration>>;

/** An index for each axis of a declared tensor. */
export type TensorIndices<S extends readonly Extent[]> = { [Axis in keyof S]: I32 | number };
/** An element of a declared tensor, in a hook. */
export type TensorElement<T extends TensorDeclaration> = T["dtype"] extends "i32" | "u8" | "bool"
  ? I32
  : F32;
/** A declared scalar, in a hook. */
export type ScalarValue<S extends ScalarDeclaration> = S extends "i32" | { type: "i32" }
  ? I32
  : F32;

/** What a hook gets: its inputs, and the variant's tensors and scalars, each by its name. */
export type HookContext<
  H extends HookName,
  T extends TensorDeclarations,
  S extends ScalarDeclarations,
> = {
  readonly [Name in HookInputs[H]]: Name extends "lse" ? F32 : I32;
} & {
  readonly [Name in keyof T]: VariantTensor<
    TensorElement<T[Name]>,
    TensorIndices<T[Name]["shape"]>
  >;
} & {
  readonly [Name in keyof S]: ScalarValue<S[Name]>;
};

/** A hook over a value or a vector. */
export type Hook<H extends HookName, T extends TensorDeclarations, S extends ScalarDeclarations> = (
  x: F32,
  context: HookContext<H, T, S>,
) => F32;

/** How an attention differs from softmax(q k^T) v; every part but the name may be left out. */
export interface VariantDefinition<
  T extends TensorDeclarations = TensorDeclarations,
  S extends ScalarDeclarations = ScalarDeclarations,
> {
  /** For messages and files; two variants may share one. */
  name: string;
  /** Tensors that each run gives, by name: at most 8 of at most 4 axes. */
  tensors?: T;
  /** Numbers that each run may give, by name: at most 16. */
  scalars?: S;
  /** A query row, before the product and in f32; its result is rounded to the queries' dtype. */
  query?: Hook<"query", T, S>;
  /** A key row, likewise, after dequantisation. */
  key?: Hook<"key", T, S>;
  /** A value row, likewise. */
  value?: Hook<"value", T, S>;
  /** A logit: x is scale * q.k. Without softmax the result is the weight itself. */
  logits?: Hook<"logits", T, S>;
  /** Whether a query sees a key; combined with causal, windowLeft and mask of the attention. */
  mask?: (context: HookContext<"mask", T, S>) => Bool;
  /** An element of an output row, before it is rounded. */
  output?: Hook<"output", T, S>;
  /** False: weights are what logits gives, and outputs their sums with the values. Default true. */
  softmax?: boolean;
  /** Narrows what is planned and read, where the mask is known while planning. */
  visible?: Visible;
}

/**
 * A variant in TypeScript: each hook is called once, with symbolic values, and what it returns
 * becomes code for the device. Errors: OptionError for the declarations; VariantError, with the
 * line, for what a hook does.
 */
export function defineVariant<
  const T extends TensorDeclarations = Readonly<Record<never, never>>,
  const S extends ScalarDeclarations = Readonly<Record<never, never>>,
>(definition: VariantDefinition<T, S>): Variant {
  const { tensors, scalars } = checkDefinition(definition, [...hookNames]);
  const { name, softmax = true, visible } = definition;
  const draft = { name, tensors, scalars, softmax, defined: new Error() };
  const graph = new Graph();
  const hooks: Partial<Record<HookName, Node>> = {};
  for (const hook of hookNames) {
    const body = definition[hook] as UserHook | undefined;
    if (body !== undefined) hooks[hook] = traceHook(new Trace(graph, draft, hook), body);
  }
  refuseReadAndStored(draft, hooks);
  return madeVariant({ name, tensors, scalars, hooks, softmax, visible, cuda: undefined });
}

/** A variant whose hooks are CUDA C++; see docs/variants.md for their signatures. */
export interface CudaVariantDefinition {
  name: string;
  /** Text that defines the hooks. */
  source: string;
  /** Which hooks it defines. */
  hooks: readonly HookName[];
  tensors?: TensorDeclarations;
  scalars?: ScalarDeclarations;
  softmax?: boolean;
  visible?: Visible;
}

/**
 * A variant in CUDA C++, for what expressions cannot say; it runs on GPUs only. Errors:
 * OptionError.
 */
export function defineCudaVariant(definition: CudaVariantDefinition): Variant {
  const { tensors, scalars } = checkDefinition(definition, ["source", "hooks"]);
  const { name, source, hooks, softmax = true, visible } = definition;
  if (typeof source !== "string" || source.trim() === "")
    throw new OptionError("variant.source", source, "CUDA C++", "give the text of the hooks.");
  const known = Array.isArray(hooks) && hooks.every((hook) => hookNames.includes(hook));
  if (!known || hooks.length === 0 || new Set(hooks).size !== hooks.length)
    throw new OptionError(
      "variant.hooks",
      hooks,
      `a list of ${hookNames.join(", ")}`,
      "name each hook that the source defines, once.",
    );
  const cuda = { source, hooks: [...hooks], place: placeOf(new Error()) };
  return madeVariant({ name, tensors, scalars, hooks: {}, softmax, visible, cuda });
}

type UserHook = (...given: unknown[]) => unknown;

/** Calls a hook once; the node of what it returns, with its stores around it. */
function traceHook(trace: Trace, body: UserHook): Node {
  const { x, context } = contextOf(trace);
  const { hook } = trace;
  const result = hook === "mask" ? body(context) : body(x, context);
  const Type = hook === "mask" ? Bool : F32;
  if (!(result instanceof Type)) {
    const at = (result as Partial<Value> | undefined)?.made;
    const wanted = hook === "mask" ? "a Bool" : "an F32";
    const problem = `it has to return ${wanted} (got ${kindOf(result)})`;
    trace.fail(problem, fixOf(hook, result), at);
  }
  if (result.trace !== trace) trace.fail("it returned a value of another hook", "return its own");
  const node = used(result);
  const [unused] = trace.unused;
  if (unused !== undefined) {
    const problem = "no result uses this comparison: did a branch look at it?";
    const fix =
      "if, ?:, && and while see an object, which is always true: write condition.select(a, b), " +
      "a.and(b) and a.or(b), or remove it";
    trace.fail(problem, fix, unused.made);
  }
  checkProducts(trace, node);
  return trace.stores.reduce((inner, { tensor, inputs, clamped }) => {
    const parts = { op: "store", type: inner.type, value: tensor, clamped } as const;
    return trace.graph.make({ ...parts, inputs: [inner, ...inputs] });
  }, node);
}

/** A hook is what it does before its product, the product, and what it does after. */
function checkProducts(trace: Trace, root: Node): void {
  const [product, second] = [...trace.products.keys()];
  if (product === undefined) return;
  if (second !== undefined)
    trace.fail(
      "a row was multiplied by two matrices",
      "multiply the matrices by each other first, once",
      trace.products.get(second),
    );
  const beside = besideProduct(root, product);
  if (!beside.some((node) => isInput(node, "x"))) return;
  const problem = "x was used beside its product, whose elements are others";
  const fix = "use what matmul() returned; to add x itself, add the unit matrix to the matrix";
  trace.fail(problem, fix, trace.products.get(product));
}

function fixOf(hook: HookName, result: unknown): string {
  if (typeof result === "boolean") return "compare with eq, lt and so on; ===, ! and < see objects";
  if (result === undefined) return "return the value: a body in braces needs a return";
  if (result instanceof Bool) return "condition.select(a, b) makes an F32 of it";
  if (result instanceof F32 && hook === "mask") return "compare it with lt, le, gt or ge";
  if (typeof result === "number") return "return what is made of the hook's values";
  return hook === "mask" ? "return a comparison" : "an I32 becomes an F32 with toF32()";
}

function refuseReadAndStored(draft: Draft, hooks: Partial<Record<HookName, Node>>): void {
  const nodes = nodesOf(Object.values(hooks));
  const loaded = new Set(nodes.filter(({ op }) => op === "load").map(({ value }) => value));
  const both = nodes.find(({ op, value }) => op === "store" && loaded.has(value));
  if (both === undefined) return;
  const { name } = draft.tensors[both.value];
  const problem = `the tensor ${name} is read and stored to, in no known order`;
  const fix = "store to a tensor of its own";
  throw new VariantError(draft.name, "logits", placeOf(draft.defined), problem, fix);
}
