import {
  FB_MAP_ADD,
  FB_MAP_CAP,
  FB_MAP_GELU,
  FB_MAP_GELU_TANH,
  FB_MAP_SCALE,
  FB_MAP_SILU,
  MapParams,
} from "../ffi/params.gen.ts";
import { dtypeBytes, dtypeCode } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import {
  blockPart,
  dimOf,
  isEven,
  isEvenOut,
  launchRows,
  needRows,
  type OutOptions,
  placeRows,
  placeScaling,
  rowsOf,
} from "./rows.ts";

/** What is made of an element of a and one of b, by kernels/params/map.h. */
const operations = {
  scale: FB_MAP_SCALE,
  add: FB_MAP_ADD,
  silu: FB_MAP_SILU,
  gelu: FB_MAP_GELU,
  geluTanh: FB_MAP_GELU_TANH,
  cap: FB_MAP_CAP,
};

/** Rows made from others; all tensors are checked. */
export interface MapCall {
  operation: keyof typeof operations;
  a: Tensor;
  b?: Tensor | undefined;
  out: Tensor;
  factor?: number;
  /** Dense i32 of a number for each row: the row of a that it is made from. */
  sources?: Tensor | undefined;
  /** The row of out that it is written to. */
  targets?: Tensor | undefined;
  /** Whose rows are gone over; default out. */
  like?: Tensor;
}

const kernels = { short: "map_short", long: "map_long" };
const evenKernels = { short: "map_even_short", long: "map_even_long" };
/** Of even rows that are only copied. */
const movedKernels = { short: "map_even_short", long: "map_even_moved" };
/** Of even rows that have scales of their own. */
const scaledKernels = { short: "map_even_short", long: "map_even_scaled" };
const params = new MapParams();

/** Queues what a call says, and returns its `out`. */
export function mapRows(call: MapCall, options: OutOptions): Tensor {
  const { operation, a, b, out, factor = 1, sources, targets, like = out } = call;
  if (like.elements === 0) return out;
  const { scale, tokenScales, rowCount } = options;
  needRows(a.device, a, b, out, sources, targets, scale, tokenScales, rowCount);
  placeRows(params.a, a);
  if (b === undefined) params.b.address = 0;
  else placeRows(params.b, b);
  placeRows(params.out, out);
  // By way of f32, infinities of 8 bits would become its largest number.
  const isCopy = operation === "scale" && factor === 1 && !scale && !tokenScales;
  if (isCopy && a.dtype === out.dtype && dtypeBytes(a.dtype) === 1)
    params.a.dtype = params.out.dtype = dtypeCode("i8");
  placeScaling(params.scaling, options);
  params.sources = sources?.address ?? 0;
  params.targets = targets?.address ?? 0;
  params.sourceRows = rowsOf(a);
  params.targetRows = rowsOf(out);
  params.operation = operations[operation];
  params.factor = factor;
  const isFast = a.device.kind !== "cpu" && isEvenNow(dimOf(like));
  const isMoved = isCopy && a.dtype === out.dtype;
  const plain = isMoved ? movedKernels : evenKernels;
  const even = tokenScales === undefined ? plain : scaledKernels;
  const part = tokenScales === undefined ? blockPart : 0;
  launchRows(isFast ? even : kernels, params, like, options, part);
  return out;
}

/** Whether the parameters are of rows that a GPU reads and writes in whole chunks. */
function isEvenNow(dim: number): boolean {
  const { a, b, out } = params;
  return isEven(a, dim, a.dtype) && isEven(b, dim, a.dtype) && isEvenOut(out);
}
