/** Hooks that multiply a row by a matrix, taken apart: before, the product, after. */
import type { DimName, Extent, Node, TensorSpec } from "./expression.ts";
import { Graph, isInput, nodesOf, rebuild } from "./graph.ts";
import type { Variant } from "./variant.ts";

/** A query or output hook around its product. */
export interface Projection {
  /** The matrix among the variant's tensors, and whether each query head has one. */
  readonly tensor: number;
  readonly perHead: boolean;
  /** What is done to a row before, in the width that it comes in; undefined: nothing. */
  readonly before: Node | undefined;
  /** What is done to the product, which is x; undefined: nothing. */
  readonly after: Node | undefined;
}

/** The product of a hook, if it has one. */
export function productOf(root: Node): Node | undefined {
  return nodesOf([root]).find(({ op }) => op === "matmul");
}

/** Nodes that computing a hook takes besides its product and what that is made of. */
export function besideProduct(root: Node, product: Node): Node[] {
  const found = new Set<Node>();
  const visit = (node: Node): void => {
    if (node === product || found.has(node)) return;
    found.add(node);
    node.inputs.forEach(visit);
  };
  visit(root);
  return [...found];
}

/**
 * A hook around its product, in a graph; undefined: it has none. Loads by `element` are clamped:
 * before and after it counts to other widths than where the hook was traced.
 */
export function splitProduct(graph: Graph, root: Node): Projection | undefined {
  const product = productOf(root);
  if (product === undefined) return undefined;
  const [vector, head] = product.inputs;
  const x = graph.input("x", vector.axes);
  const copy = rebuild(graph, (node, inputs) => {
    if (node === product) return x;
    if (node.op !== "load") return undefined;
    const byElement = inputs.map((index, axis) => (isInput(index, "element") ? 1 << axis : 0));
    const clamped = byElement.reduce((all, bit) => all | bit, node.clamped);
    return graph.make({ ...node, inputs, clamped });
  });
  return {
    tensor: product.value,
    perHead: head !== undefined,
    before: isInput(vector, "x") ? undefined : copy(vector),
    after: root === product ? undefined : copy(root),
  };
}

/** Whether an extent is known when an attention is made. */
export function isWidth(extent: Extent): extent is number | "headDim" | "valueDim" {
  return typeof extent === "number" || extent === "headDim" || extent === "valueDim";
}

/** What the named extents are. */
export type Widths = Readonly<Record<Extract<DimName, "headDim" | "valueDim">, number>>;

/** Rows and columns of a matrix that a hook multiplies by; undefined: the hook has no product. */
export function matrixOf(
  variant: Variant | undefined,
  hook: "query" | "output",
  widths: Widths,
): { spec: TensorSpec; rows: number; columns: number } | undefined {
  const root = variant?.hooks[hook];
  const product = root && productOf(root);
  if (product === undefined) return undefined;
  const spec = variant!.tensors[product.value];
  const [rows, columns] = spec.shape
    .slice(-2)
    .map((extent) => (isWidth(extent) && typeof extent === "string" ? widths[extent] : extent));
  return { spec, rows: Number(rows), columns: Number(columns) };
}
