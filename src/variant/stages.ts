import { splitMask } from "./bounds.ts";
import { hooksOf } from "./compose.ts";
import { Axis, type HookName, type Node } from "./expression.ts";
import { Graph, isInput, rebuild } from "./graph.ts";
import { isPair, Products } from "./products.ts";
import { type Projection, splitProduct } from "./projection.ts";
import type { Variant } from "./variant.ts";

/**
 * A value that is written for each visible pair, nowhere where an index is outside of the tensor.
 */
export interface Store {
  /** The tensor's index. */
  readonly tensor: number;
  readonly value: Node;
  readonly indices: readonly Node[];
  /** A bit for each axis whose index may be outside. */
  readonly clamped: number;
}

/** A variant taken apart by how often each part has to be computed; all nodes are of one graph. */
export interface StagedVariant {
  readonly variant: Variant;
  /**
   * What mask, logits and stores read and does not change with the pair: the largest such
   * expressions. Computed once per launch: those without axes, unless they are constants or
   * scalars; once per row: those of rows, except the input `query`; once per key: those of keys,
   * except the input `key`.
   */
  readonly uniformWords: readonly Node[];
  readonly rowWords: readonly Node[];
  readonly keyWords: readonly Node[];
  /** Key positions from low to high, both included, are visible; i32, of the row only. */
  readonly low: Node | undefined;
  readonly high: Node | undefined;
  /** What is left of the mask for each pair. */
  readonly mask: Node | undefined;
  /**
   * The logit in base 2 (times log2(e)); without softmax the weight. undefined: the logit is x as
   * it is in base 2.
   */
  readonly logits: Node | undefined;
  /** x of logits and stores is scale * q.k times this, which has no axes; undefined: 1. */
  readonly logitsFactor: Node | undefined;
  /** In the order of their writing. */
  readonly stores: readonly Store[];
  /** Of a hook with a product: what is done to that. */
  readonly query: Node | undefined;
  readonly key: Node | undefined;
  readonly value: Node | undefined;
  readonly output: Node | undefined;
  /** Products of query and output rows with matrices, and what is done before them. */
  readonly queryProduct: Projection | undefined;
  readonly outputProduct: Projection | undefined;
}

/** Takes a variant's traced hooks apart; CUDA hooks stay where they are. Pure and deterministic. */
export function stage(variant: Variant): StagedVariant {
  const graph = new Graph();
  const copy = rebuild(graph, () => undefined);
  const hook = (name: HookName) => {
    const node = variant.hooks[name];
    return node === undefined ? undefined : copy(node);
  };
  const mask = hook("mask");
  const { low, high, residual } = mask === undefined ? {} : splitMask(graph, mask, variant.tensors);
  // Weights are given by some hook; where it is none, they are the logits.
  const isGiven = variant.softmax || hooksOf(variant).includes("logits");
  const logits = stageLogits(
    graph,
    variant,
    hook("logits") ?? (isGiven ? undefined : graph.input("x")),
  );
  const { stores } = logits;
  const read = stores.flatMap(({ value, indices }) => [value, ...indices]);
  const pairs = [residual, logits.logits, ...read].filter((node) => node !== undefined);
  const [query, output] = [hook("query"), hook("output")];
  const queryProduct = query && splitProduct(graph, query);
  const outputProduct = output && splitProduct(graph, output);
  return {
    variant,
    ...wordsOf(pairs),
    low,
    high,
    mask: residual,
    ...logits,
    key: hook("key"),
    value: hook("value"),
    query: queryProduct === undefined ? query : queryProduct.after,
    output: outputProduct === undefined ? output : outputProduct.after,
    queryProduct,
    outputProduct,
  };
}

function stageLogits(
  graph: Graph,
  { softmax }: Variant,
  traced: Node | undefined,
): Pick<StagedVariant, "logits" | "logitsFactor" | "stores"> {
  if (traced === undefined) return { logits: undefined, logitsFactor: undefined, stores: [] };
  const stores: Node[] = [];
  let result = traced;
  for (; result.op === "store"; result = result.inputs[0]) stores.unshift(result);
  const inputs = stores.flatMap((store) => store.inputs.slice(1));
  const products = new Products(graph);
  const gathered = products.gather([result, ...inputs], softmax ? Math.LOG2E : 1);
  const { roots, factor } = products.absorb(gathered);
  const [logits, ...rest] = roots;
  const staged = stores.map(({ value: tensor, inputs: old, clamped }) => {
    const [value, ...indices] = rest.splice(0, old.length - 1);
    return { tensor, value, indices, clamped };
  });
  const isPlain =
    softmax && isInput(logits, "x") && factor?.op === "constant" && factor.value === Math.LOG2E;
  if (isPlain && staged.length === 0)
    return { logits: undefined, logitsFactor: undefined, stores: [] };
  return { logits, logitsFactor: factor, stores: staged };
}

/** What pair code reads that does not depend on the pair. */
function wordsOf(
  roots: readonly Node[],
): Pick<StagedVariant, "uniformWords" | "rowWords" | "keyWords"> {
  const [uniformWords, rowWords, keyWords]: Node[][] = [[], [], []];
  const seen = new Set<Node>();
  const visit = (node: Node): void => {
    if (seen.has(node)) return;
    seen.add(node);
    if (isPair(node)) node.inputs.forEach(visit);
    else if (node.axes === Axis.row && !isInput(node, "query")) rowWords.push(node);
    else if (node.axes === Axis.key && !isInput(node, "key")) keyWords.push(node);
    else if (node.axes === 0 && node.inputs.length > 0) uniformWords.push(node);
  };
  roots.forEach(visit);
  return { uniformWords, rowWords, keyWords };
}
