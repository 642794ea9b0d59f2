import type { Device } from "../device/device.ts";
import { OptionError } from "../errors.ts";
import type { AttentionParams } from "../ffi/params.gen.ts";
import type { Batch } from "../kv/batch.ts";
import { ropeRange } from "../ops/rope.ts";
import { attentionFactorOf } from "../ops/rope-scaling.ts";
import { type DType, dtypeBytes, dtypeCode } from "../tensor/dtype.ts";
import { isInPlace, requireApart, requireDistinct } from "../tensor/overlap.ts";
import { requireOptions } from "../require.ts";
import { requireTensor, type Tensor } from "../tensor/tensor.ts";
import { bindKeysAndValues } from "./bind-keys.ts";
import type { MappedTensors } from "./families/family.ts";
import { warpColumnsMost } from "./families/tiled-classes.ts";
import type { ResolvedOptions } from "./options.ts";
import { denseAddress, requireAligned, rowUnit } from "./tensor-checks.ts";
import { bindRowScales } from "./row-scales.ts";
import { type PlainTensors, runNames, tensorNames, tensorOf } from "./tensors.ts";

/**
 * Checks the tensors of a run of up to so many requests and writes them into the parameters;
 * returns those that tensor maps are made of. Errors: OptionError.
 */
export function bindTensors(
  device: Device,
  params: AttentionParams,
  options: ResolvedOptions,
  batch: Batch,
  requests: number,
  tensors: PlainTensors,
): MappedTensors {
  const { queryHeads, queryDim, outDim } = options;
  requireOptions("tensors", tensors, runNames);
  const { q, out, lse } = tensors;
  for (let i = 0; i < tensorNames.length; i++) {
    const name = tensorNames[i];
    const tensor = name === "qScale" ? tensorOf(tensors[name]) : tensors[name];
    if (tensor === undefined) continue;
    requireTensor(name, tensor);
    tensor.requireOn(device, name);
  }
  if (tensors.cache !== undefined && tensors.cache.device !== device) {
    const fix = "use a cache of the attention's device.";
    throw new OptionError("cache", tensors.cache.device.label, `on ${device.label}`, fix);
  }
  // A captured run is replayed with up to the graph's tokens.
  const tokens = device.capturing ? options.graph?.maxQueryTokens : undefined;
  const rows = tokens ?? batch.tokenCount;
  if (lse !== undefined && options.variant?.softmax === false) {
    const allowed = `left out: variant ${options.variant.name} has no softmax`;
    throw new OptionError("lse", lse.label, allowed, "remove it.");
  }
  checkRows("q", q, rows, queryHeads, queryDim, options.dtype);
  checkRows("out", out, rows, queryHeads, outDim, options.outDtype);
  if (device.kind === "cuda") {
    requireAligned("q", q, rowUnit(q, queryDim));
    requireAligned("out", out, 4 * dtypeBytes(out.dtype));
  }
  params.q = q.address;
  params.qStrideToken = q.strides[0];
  params.qStrideHead = q.strides[1];
  params.out = out.address;
  params.outStrideToken = out.strides[0];
  params.outStrideHead = out.strides[1];
  params.lse = lse === undefined ? 0 : denseAddress("lse", lse, "f32", rows, queryHeads);
  bindRowScales(params, options, rows, tensors);
  const { k, v, kTail } = bindKeysAndValues(params, options, batch, requests, tensors);
  requireDistinct("out", out);
  // A row of queries is read before its output is written, and by nobody else: but for wide rows of
  // a GPU, whose columns several warps have, one of which may have to attend it again.
  const isShared = q.device.kind === "cuda" && options.headDim > warpColumnsMost;
  const isSame = !isShared && queryDim === outDim && isInPlace(out, q);
  if (!isSame) requireApart("out", out, "q", q);
  requireApart("out", out, "k", k);
  requireApart("out", out, "v", v);
  for (const name of ["kRagged", "vRagged"] as const)
    if (tensors[name] !== undefined) requireApart("out", out, name, tensors[name]);
  if (kTail !== undefined) requireApart("out", out, "kTail", kTail);
  if (lse !== undefined) requireApart("lse", lse, "out", out);
  if (lse !== undefined) requireApart("lse", lse, "q", q);
  if (!options.deviceLengths && (tensors.kvLengths ?? tensors.queryLengths) !== undefined) {
    const option = tensors.kvLengths === undefined ? "queryLengths" : "kvLengths";
    const fix = "create with { deviceLengths: true }.";
    throw new OptionError(option, "a tensor", "left out: the plan trusts the batch's lengths", fix);
  }
  params.kvLengths = optional("kvLengths", tensors.kvLengths, "i32", requests);
  params.queryLengths = optional("queryLengths", tensors.queryLengths, "i32", requests);
  params.alibiSlopes = paired(
    "alibi",
    options.alibi,
    "alibiSlopes",
    tensors.alibiSlopes,
    queryHeads,
  );
  params.sinks = paired("sinks", options.sinks, "sinkLogits", tensors.sinkLogits, queryHeads);
  return { q, k, v, kTail, out };
}

function checkRows(
  option: string,
  tensor: Tensor,
  tokens: number,
  heads: number,
  dim: number,
  dtype: DType,
): void {
  if (tensor === undefined) throw new OptionError(option, tensor, "a tensor", `pass ${option}.`);
  const { shape, strides } = tensor;
  if (tensor.dtype !== dtype) {
    throw new OptionError(option, tensor.dtype, dtype, "match the attention's dtypes.");
  }
  const fits = shape.length === 3 && shape[0] >= tokens && shape[1] === heads && shape[2] === dim;
  if (fits && strides[2] === 1) return;
  const allowed = `[${tokens} or more, ${heads}, ${dim}] with innermost stride 1`;
  throw new OptionError(
    option,
    `${tensor.label}, strides [${strides}]`,
    allowed,
    "match the batch.",
  );
}

function optional(
  option: string,
  tensor: Tensor | undefined,
  dtype: DType,
  elements: number,
): number {
  return tensor === undefined ? 0 : denseAddress(option, tensor, dtype, elements);
}

/** A tensor that the options promised: there exactly when they did. */
function paired(
  flag: string,
  wanted: boolean,
  option: string,
  tensor: Tensor | undefined,
  elements: number,
): number {
  if (tensor !== undefined && tensor.elements > elements) {
    const fix = "give a number for each query head.";
    throw new OptionError(option, tensor.label, `an f32 tensor [${elements}]`, fix);
  }
  if (wanted === (tensor !== undefined)) return optional(option, tensor, "f32", elements);
  const allowed = wanted ? `given: the options say ${flag}` : "left out";
  throw new OptionError(option, tensor?.label, allowed, `create with { ${flag}: ${!wanted} }.`);
}

/** Codes of the parameters that the options fix once. */
export function bindOptions(params: AttentionParams, options: ResolvedOptions): void {
  params.queryHeads = options.queryHeads;
  params.kvHeads = options.kvHeads;
  params.keyDim = options.headDim;
  params.valueDim = options.valueDim;
  params.keyTail = options.keyTail;
  params.qDtype = dtypeCode(options.dtype);
  params.kvDtype = dtypeCode(options.kvDtype);
  params.outDtype = dtypeCode(options.outDtype);
  params.causal = options.causal ? 1 : 0;
  params.windowLeft = options.windowLeft;
  params.maskMode = ["none", "all", "tail"].indexOf(options.mask);
  params.scale = options.scale;
  params.softCap = options.softCap;
  params.lseFactor = options.lseBase === "2" ? Math.LOG2E : 1;
  params.finalize = options.finalize ? 1 : 0;
  const { rope, headDim } = options;
  if (rope === undefined) return;
  const { first, dim } = ropeRange(rope, headDim);
  params.ropeFirst = first;
  params.ropeDim = dim;
  params.ropeInterleaved = rope.interleaved ? 1 : 0;
  // Of queries alone: keys stay as the cache has them, and products count both factors.
  params.ropeFactor = attentionFactorOf(rope.scaling) ** 2;
}
