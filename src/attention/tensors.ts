import type { PagedCache } from "../cache/paged-cache.ts";
import type { Stream } from "../device/stream.ts";
import type { Batch } from "../kv/batch.ts";
import type { PageOrder } from "../tensor/page-order.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { VariantInputs } from "./variant/inputs.ts";

/** Tensors of one run. Leading axes may be longer than the batch needs. */
export interface RunTensors {
  /** [tokens, queryHeads, headDim] in the query dtype. */
  q: Tensor;
  /** [tokens, queryHeads, valueDim] in the output dtype: q itself, or memory apart from it. */
  out: Tensor;
  /** f32 [tokens, queryHeads]: log-sum-exp in the base of the options. */
  lse?: Tensor;
  /** Where keys and values lie, with the layer to read; or k and v. */
  cache?: PagedCache;
  layer?: number;
  /**
   * The batch that the run is of: refused unless it is the one planned last. Pass it wherever
   * several loops share an attention object. Default: the one planned last.
   */
  batch?: Batch;
  /** Ragged [tokens, kvHeads, dim], or pages [pages, pageSize, kvHeads, dim] with pageTable. */
  k?: Tensor;
  v?: Tensor;
  /** int32 [slots, columns], for pages that are not in a cache. */
  pageTable?: Tensor;
  /**
   * Order of k and v in memory within a page, whose view is [pages, pageSize, kvHeads, dim]: needed
   * only where pages hold as many tokens as heads.
   */
  layout?: PageOrder;
  kScale?: Tensor;
  vScale?: Tensor;
  /** int32 [requests], known only on the device; the plan's lengths are upper bounds. */
  kvLengths?: Tensor;
  queryLengths?: Tensor;
  /**
   * A bool for each pair [query, key] of a request, requests one after the other; or as u8 [bytes]
   * their bits, lowest first, each request at a byte of its own.
   */
  maskBits?: Tensor;
  /** int32 [requests]: the element of maskBits at which each request starts. */
  maskIndptr?: Tensor;
  /** f32 [queryHeads]. */
  alibiSlopes?: Tensor;
  sinkLogits?: Tensor;
  /** Tensors and scalars that the variant declares, by name; a captured run keeps its scalars. */
  variantInputs?: VariantInputs;
  stream?: Stream;
}

/** The tensors among them. */
export const tensorNames = [
  "q",
  "out",
  "lse",
  "k",
  "v",
  "pageTable",
  "kScale",
  "vScale",
  "kvLengths",
  "queryLengths",
  "maskBits",
  "maskIndptr",
  "alibiSlopes",
  "sinkLogits",
] as const;

/** Whether two runs have the same tensors. By name, not in a loop: what each run asks is fast. */
export function sameTensors(a: RunTensors, b: RunTensors): boolean {
  return (
    a.q === b.q &&
    a.out === b.out &&
    a.lse === b.lse &&
    a.k === b.k &&
    a.v === b.v &&
    a.pageTable === b.pageTable &&
    a.kScale === b.kScale &&
    a.vScale === b.vScale &&
    a.kvLengths === b.kvLengths &&
    a.queryLengths === b.queryLengths &&
    a.maskBits === b.maskBits &&
    a.maskIndptr === b.maskIndptr &&
    a.alibiSlopes === b.alibiSlopes &&
    a.sinkLogits === b.sinkLogits
  );
}
