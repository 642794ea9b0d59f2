import type { Device } from "../device/device.ts";
import type { PagedCache } from "../cache/paged-cache.ts";
import { requireStream, type Stream } from "../device/stream.ts";
import type { Batch } from "../kv/batch.ts";
import type { PageOrder } from "../tensor/page-order.ts";
import { narrowed } from "../tensor/indices.ts";
import { scaleTensor } from "../tensor/scale.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { VariantInputs } from "./variant/inputs.ts";

/**
 * Tensors of one run. Leading axes may be longer than the batch needs; null is the same as left
 * out. Index tensors are i32, or i64, which each run copies.
 */
export interface RunTensors {
  /**
   * [tokens, queryHeads, headDim] in the query dtype; where a variant multiplies queries, as wide
   * as that takes.
   */
  q: Tensor;
  /**
   * [tokens, queryHeads, valueDim], or what a variant makes of it, in the output dtype: q itself,
   * on a GPU with heads of up to 256, or memory apart from it.
   */
  out: Tensor;
  /** f32 [tokens, queryHeads]: log-sum-exp in the base of the options. */
  lse?: Tensor | null;
  /** Where keys and values lie, with the layer to read; or k and v. */
  cache?: PagedCache;
  layer?: number;
  /**
   * The batch that the run is of: refused unless it is the one planned last. Pass it wherever
   * several loops share an attention object. Default: the one planned last.
   */
  batch?: Batch;
  /** Ragged [tokens, kvHeads, dim], or pages [pages, pageSize, kvHeads, dim] with pageTable. */
  k?: Tensor | null;
  v?: Tensor | null;
  /**
   * For pages that are not in a cache: [slots, columns], or [entries] where the layout's slots are
   * the first entries of their rows.
   */
  pageTable?: Tensor | null;
  /**
   * With valuePages: the pages of values, as pageTable those of keys. Of page lists, whose step
   * has the table of keys: [entries], beside the step's indices, one level behind the other.
   */
  valuePageTable?: Tensor | null;
  /** With keyTail: the last elements of keys, [tokens or pages as k ..., keyTail]. */
  kTail?: Tensor | null;
  /** With raggedRows: [tokens, kvHeads, dim], keys and values of rows that lie in no pages. */
  kRagged?: Tensor | null;
  vRagged?: Tensor | null;
  /**
   * Order within a page of k and v: "NHD" [pages, pageSize, kvHeads, dim], or "HND" [pages,
   * kvHeads, pageSize, dim], also permuted to the former. Needed for "HND" as it lies, and where
   * pages hold as many tokens as heads.
   */
  layout?: PageOrder;
  /**
   * [pages, pageSize], or [tokens] of ragged keys: the position of each key, of a batch made with
   * keyPositions. From 0 to 2^31 - 2; below 0: its place in the request.
   */
  keyPositions?: Tensor | null;
  /**
   * Factor of this run's queries, beside the scale of the options or the plan; of fp8 queries also
   * f32 [1], [queryHeads], [tokens, queryHeads] or [tokens, 1].
   */
  qScale?: Tensor | number | null;
  /** f32 [1]: fp8 outputs are divided by it before they are rounded. */
  outScale?: Tensor | number | null;
  /** f32: by which fp8 keys and values are multiplied; a tensor, or one number for all. */
  kScale?: Tensor | number | null;
  vScale?: Tensor | number | null;
  /** [requests], known only on the device; the plan's lengths are upper bounds. */
  kvLengths?: Tensor | null;
  queryLengths?: Tensor | null;
  /**
   * A bool for each pair [query, key] of a request, requests one after the other; or as u8 [bytes]
   * their bits, lowest first, each request at a byte of its own.
   */
  maskBits?: Tensor | null;
  /** By request, the element of maskBits at which its mask starts. */
  maskIndptr?: Tensor | null;
  /** f32 [queryHeads]. */
  alibiSlopes?: Tensor | null;
  sinkLogits?: Tensor | null;
  /** Tensors and scalars that the variant declares, by name; a captured run keeps its scalars. */
  variantInputs?: VariantInputs;
  stream?: Stream;
}

/** Tensors of a run as kernels take them: what is null is left out. */
export type PlainTensors = Omit<RunTensors, (typeof tensorNames)[number]> & {
  q: Tensor;
  out: Tensor;
  qScale?: Tensor | number;
} & { [Name in Exclude<(typeof tensorNames)[number], "q" | "out" | "qScale">]?: Tensor };

const indexNames = [
  "pageTable",
  "valuePageTable",
  "keyPositions",
  "kvLengths",
  "queryLengths",
  "maskIndptr",
] as const;
const scaleNames = ["kScale", "vScale", "outScale"] as const;

/** The tensors as kernels take them: themselves, where they are so. Errors: OptionError. */
export function plainTensors(device: Device, given: RunTensors): PlainTensors {
  if (isPlain(given)) return given;
  const plain = { ...given };
  const { stream = device.stream } = given;
  requireStream(stream, device);
  for (const name of scaleNames) plain[name] = scaleTensor(device, name, given[name]);
  for (const name of indexNames) {
    const tensor = given[name] ?? undefined;
    plain[name] = tensor?.dtype === "i64" ? narrowed(name, tensor, stream) : tensor;
  }
  for (const name of tensorNames) if (plain[name] === null) delete plain[name];
  return plain as PlainTensors;
}

/** By name, not in a loop: what each run asks is fast. */
function isPlain(t: RunTensors): t is PlainTensors {
  const isNull =
    t.lse === null || t.k === null || t.v === null || t.maskBits === null || t.pageTable === null;
  const isNullToo = t.alibiSlopes === null || t.sinkLogits === null || t.maskIndptr === null;
  const isNoPlace = t.kTail === null || t.kRagged === null || t.vRagged === null;
  if (isNoPlace || t.valuePageTable === null || t.valuePageTable?.dtype === "i64") return false;
  const isNumber = typeof t.kScale === "number" || typeof t.vScale === "number";
  if (t.qScale === null || t.outScale === null || typeof t.outScale === "number") return false;
  if (isNull || isNullToo || isNumber || t.kScale === null || t.vScale === null) return false;
  if (t.kvLengths === null || t.queryLengths === null || t.keyPositions === null) return false;
  return (
    t.pageTable?.dtype !== "i64" &&
    t.keyPositions?.dtype !== "i64" &&
    t.kvLengths?.dtype !== "i64" &&
    t.queryLengths?.dtype !== "i64" &&
    t.maskIndptr?.dtype !== "i64"
  );
}

/** The tensors among them. */
export const tensorNames = [
  "q",
  "out",
  "lse",
  "k",
  "v",
  "kTail",
  "kRagged",
  "vRagged",
  "pageTable",
  "valuePageTable",
  "keyPositions",
  "qScale",
  "kScale",
  "vScale",
  "outScale",
  "kvLengths",
  "queryLengths",
  "maskBits",
  "maskIndptr",
  "alibiSlopes",
  "sinkLogits",
] as const;

/** What is no number: one becomes part of the run's scale. */
export function tensorOf(given: Tensor | number | undefined): Tensor | undefined {
  return typeof given === "number" ? undefined : given;
}

/** All that a run takes. */
export const runNames = [
  ...tensorNames,
  "cache",
  "layer",
  "batch",
  "layout",
  "variantInputs",
  "stream",
] as const;

/** Whether two runs have the same tensors. By name, not in a loop: what each run asks is fast. */
export function sameTensors(a: PlainTensors, b: PlainTensors): boolean {
  return (
    a.q === b.q &&
    a.out === b.out &&
    a.lse === b.lse &&
    a.k === b.k &&
    a.v === b.v &&
    a.kTail === b.kTail &&
    a.kRagged === b.kRagged &&
    a.vRagged === b.vRagged &&
    a.valuePageTable === b.valuePageTable &&
    a.pageTable === b.pageTable &&
    a.keyPositions === b.keyPositions &&
    tensorOf(a.qScale) === tensorOf(b.qScale) &&
    a.outScale === b.outScale &&
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
