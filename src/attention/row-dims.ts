/** Widths of the rows of a run, which a variant's products may change. */
import { OptionError } from "../errors.ts";
import type { CostModel } from "../plan/cost.ts";
import type { Node } from "../variant/expression.ts";
import { Graph, nodesOf } from "../variant/graph.ts";
import { matrixOf, splitProduct } from "../variant/projection.ts";
import type { Variant } from "../variant/variant.ts";

/** Elements of a query head as it comes, and of an output head as it goes. */
export interface RowDims {
  readonly queryDim: number;
  readonly outDim: number;
}

/** What decides them. */
interface Dims {
  readonly headDim: number;
  readonly valueDim?: number;
  readonly finalize?: boolean;
  readonly variant?: Variant;
}

const dimMost = 576;

/**
 * Widths of query and output rows: headDim and valueDim, but where a hook multiplies them. Errors:
 * OptionError for a matrix that gives more than a key has, takes more than a value has, or leaves
 * rows of a width that no kernel takes.
 */
export function rowDims({ headDim, valueDim = headDim, finalize = true, variant }: Dims): RowDims {
  const widths = { headDim, valueDim };
  const query = matrixOf(variant, "query", widths);
  const output = finalize ? matrixOf(variant, "output", widths) : undefined;
  const dims = { queryDim: headDim, outDim: valueDim };
  if (query !== undefined) {
    const { spec, rows, columns } = query;
    if (columns > headDim) {
      const allowed = `${columns} or more: queries of variant ${variant!.name} have so many then`;
      throw new OptionError("headDim", headDim, allowed, `give ${spec.name} fewer columns.`);
    }
    dims.queryDim = headDim - columns + rows;
    requireDim(`${spec.name}, which multiplies queries`, spec.shape, dims.queryDim);
  }
  if (output !== undefined) {
    const { spec, rows, columns } = output;
    if (rows > valueDim) {
      const allowed = `${rows} or more: variant ${variant!.name} multiplies so many`;
      throw new OptionError("valueDim", valueDim, allowed, `give ${spec.name} fewer rows.`);
    }
    dims.outDim = valueDim - rows + columns;
    requireDim(`${spec.name}, which multiplies outputs`, spec.shape, dims.outDim);
  }
  return dims;
}

/**
 * Costs with what a variant's products add to each row of a piece: as many multiplications as there
 * are elements of the matrices, each `times` as slow as one of a row with a key or value.
 */
export function withProducts(costs: CostModel, dims: Dims, times: number): CostModel {
  const { headDim, valueDim = headDim, finalize = true, variant } = dims;
  const hooks = finalize ? (["query", "output"] as const) : (["query"] as const);
  const products = hooks.map((hook) => {
    const { rows = 0, columns = 0 } = matrixOf(variant, hook, { headDim, valueDim }) ?? {};
    return rows * columns;
  });
  const count = products.reduce((sum, each) => sum + each, 0);
  if (count === 0) return costs;
  const pieceRowKeys = (times * costs.rowKeys * count) / (headDim + valueDim);
  return { ...costs, pieceRowKeys };
}

function requireDim(option: string, shape: readonly unknown[], dim: number): void {
  if (dim >= 8 && dim <= dimMost && dim % 8 === 0) return;
  const wanted = `a multiple of 8 from 8 to ${dimMost}`;
  const allowed = `such that rows have ${wanted} elements, not ${dim}`;
  throw new OptionError(option, `[${shape.join(", ")}]`, allowed, "change its rows or columns.");
}

/** A rotation reads the other element of each pair, which must be one of the head's. */
export function refuseWideTurns(variant: Variant, options: Dims): void {
  const { headDim, valueDim = headDim } = options;
  const { query, key, value } = variant.hooks;
  const product = query && splitProduct(new Graph(), query);
  const refuse = (hook: string, option: string, dim: number, root: Node | undefined) => {
    const nodes = root === undefined ? [] : nodesOf([root]);
    const turn = nodes.find(({ op, value: turned }) => op === "partner" && Math.abs(turned) > dim);
    if (turn === undefined) return;
    const turned = Math.abs(turn.value);
    const allowed = `${turned} or more: the ${hook} hook of variant ${variant.name} turns so many`;
    throw new OptionError(option, dim, allowed, "rotate fewer elements.");
  };
  refuse("query", "headDim", headDim, product === undefined ? query : product.after);
  refuse("query", "queryDim", rowDims({ ...options, variant }).queryDim, product?.before);
  refuse("key", "headDim", headDim, key);
  refuse("value", "valueDim", valueDim, value);
}
