import type { PagedCache } from "../cache/paged-cache.ts";
import type { Device } from "../device/device.ts";
import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";
import type { AttentionParams } from "../ffi/params.gen.ts";
import type { Batch } from "../kv/batch.ts";
import type { Level } from "../kv/layout.ts";
import { type DType, dtypeBytes, dtypeCode } from "../tensor/dtype.ts";
import { type ScaleStrides, scaleStrides } from "../tensor/scale.ts";
import { requireTensor, type Tensor } from "../tensor/tensor.ts";
import type { MappedTensors } from "./families/family.ts";
import type { ResolvedOptions } from "./options.ts";
import type { VariantInputs } from "./variant/inputs.ts";

/** Tensors of one run. Leading axes may be longer than the batch needs. */
export interface RunTensors {
  /** [tokens, queryHeads, headDim] in the query dtype. */
  q: Tensor;
  /** [tokens, queryHeads, valueDim] in the output dtype. */
  out: Tensor;
  /** f32 [tokens, queryHeads]: log-sum-exp in the base of the options. */
  lse?: Tensor;
  /** Where keys and values lie, with the layer to read; or k and v. */
  cache?: PagedCache;
  layer?: number;
  /** Ragged [tokens, kvHeads, dim], or pages [pages, pageSize, kvHeads, dim] with pageTable. */
  k?: Tensor;
  v?: Tensor;
  /** int32 [slots, columns], for pages that are not in a cache. */
  pageTable?: Tensor;
  kScale?: Tensor;
  vScale?: Tensor;
  /** int32 [requests], known only on the device; the plan's lengths are upper bounds. */
  kvLengths?: Tensor;
  queryLengths?: Tensor;
  /** u8: bits of all requests, each request starting at byte maskIndptr[request]. */
  mask?: Tensor;
  maskIndptr?: Tensor;
  /** f32 [queryHeads]. */
  alibiSlopes?: Tensor;
  sinks?: Tensor;
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
  "mask",
  "maskIndptr",
  "alibiSlopes",
  "sinks",
] as const;

/**
 * Checks the tensors of a run and writes them into the parameters; returns those that tensor maps
 * are made of. Errors: OptionError.
 */
export function bindTensors(
  device: Device,
  params: AttentionParams,
  options: ResolvedOptions,
  batch: Batch,
  tensors: RunTensors,
): MappedTensors {
  const { queryHeads, headDim, valueDim } = options;
  const { q, out, lse } = tensors;
  for (let i = 0; i < tensorNames.length; i++) {
    const tensor = tensors[tensorNames[i]];
    if (tensor === undefined) continue;
    requireTensor(tensorNames[i], tensor);
    tensor.requireOn(device, tensorNames[i]);
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
  checkRows("q", q, rows, queryHeads, headDim, options.dtype);
  checkRows("out", out, rows, queryHeads, valueDim, options.outDtype);
  if (device.kind === "cuda") {
    requireAligned("q", q, rowUnit(q, headDim));
    requireAligned("out", out, 2 * dtypeBytes(out.dtype));
  }
  params.q = q.address;
  params.qStrideToken = q.strides[0];
  params.qStrideHead = q.strides[1];
  params.out = out.address;
  params.outStrideToken = out.strides[0];
  params.outStrideHead = out.strides[1];
  params.lse = lse === undefined ? 0 : denseAddress("lse", lse, "f32", rows * queryHeads);
  const { k, v } = bindKeysAndValues(params, options, batch, tensors);
  const requests = batch.requestCount;
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
  params.sinks = paired("sinks", options.sinks, "sinks", tensors.sinks, queryHeads);
  bindMask(params, options, batch, tensors);
  return { q, k, v, out };
}

/** Scales reach as far as the keys do. */
function bindScales(
  params: AttentionParams,
  options: ResolvedOptions,
  batch: Batch,
  tensors: RunTensors,
  k: Tensor,
): void {
  const { contiguous, blockSize } = batch.layout;
  const reach = {
    heads: options.kvHeads,
    pages: contiguous ? 1 : k.shape[0],
    pageTokens: contiguous ? k.shape[0] : blockSize,
    requests: batch.requestCount,
  };
  const kScale = scaleStrides("kScale", tensors.kScale, reach);
  const vScale = scaleStrides("vScale", tensors.vScale, reach);
  if (k.device.kind === "cuda" && !options.tokenScales) {
    requireWholeScales("kScale", kScale);
    requireWholeScales("vScale", vScale);
  }
  if (batch.layout.levels.length > 1 && (kScale.request !== 0 || vScale.request !== 0)) {
    const fix = "use scales by head or token, or plan without shared prefixes.";
    const allowed = "not by request where requests share a level";
    throw new OptionError("kScale", "scales [requests, heads]", allowed, fix);
  }
  params.kScaleData = kScale.address;
  params.kScaleStrideRequest = kScale.request;
  params.kScaleStrideHead = kScale.head;
  params.kScaleStridePage = kScale.page;
  params.kScaleStrideToken = kScale.token;
  params.vScaleData = vScale.address;
  params.vScaleStrideRequest = vScale.request;
  params.vScaleStrideHead = vScale.head;
  params.vScaleStridePage = vScale.page;
  params.vScaleStrideToken = vScale.token;
}

/** A GPU's kernels are compiled for scales by token, or without. */
function requireWholeScales(option: string, scale: ScaleStrides): void {
  if (scale.page === 0 && scale.token === 0) return;
  const fix = "create with { tokenScales: true }.";
  throw new OptionError(option, "scales by token", "by tensor, head or request", fix);
}

function bindKeysAndValues(
  params: AttentionParams,
  options: ResolvedOptions,
  batch: Batch,
  tensors: RunTensors,
): { k: Tensor; v: Tensor } {
  const { kvHeads, headDim, valueDim, kvDtype } = options;
  const { cache, layer = 0 } = tensors;
  const { contiguous, blockSize } = batch.layout;
  params.contiguous = contiguous ? 1 : 0;
  params.pageSize = blockSize;
  const k = keysOf(options, tensors);
  const v = cache === undefined ? tensors.v : cache.plane(layer, options.valuePlane);
  if (k === undefined || v === undefined || (cache !== undefined && tensors.k !== undefined)) {
    const fix = "pass cache and layer, or k and v.";
    throw new OptionError("cache", cache, "given unless k and v are", fix);
  }
  checkKeys("k", k, contiguous, kvHeads, headDim, kvDtype, blockSize);
  checkKeys("v", v, contiguous, kvHeads, valueDim, kvDtype, blockSize);
  if (k.device.kind === "cuda") {
    requireAligned("k", k, rowUnit(k, headDim));
    requireAligned("v", v, rowUnit(v, valueDim));
  }
  bindScales(params, options, batch, tensors, k);
  const tokenAxis = contiguous ? 0 : 1;
  params.kData = k.address;
  params.kStridePage = contiguous ? 0 : k.strides[0];
  params.kStrideToken = k.strides[tokenAxis];
  params.kStrideHead = k.strides[tokenAxis + 1];
  params.vData = v.address;
  params.vStridePage = contiguous ? 0 : v.strides[0];
  params.vStrideToken = v.strides[tokenAxis];
  params.vStrideHead = v.strides[tokenAxis + 1];
  if (cache === undefined) bindPages(params, batch, tensors, k, v);
  return { k, v };
}

/** Where the rows of keys and values lie that are in no cache. */
function bindPages(
  params: AttentionParams,
  batch: Batch,
  tensors: RunTensors,
  k: Tensor,
  v: Tensor,
): void {
  params.pageTable = 0;
  if (batch.layout.contiguous) return requireTokens(batch, k, v);
  const table = tensors.pageTable;
  if (table === undefined || table.shape.length !== 2) {
    throw new OptionError("pageTable", table, "int32 [slots, columns]", "pass the page table.");
  }
  requirePages(batch, table);
  params.pageTable = denseAddress("pageTable", table, "i32", 0);
  params.tableStride = table.shape[1];
}

/** Where a run's keys lie. */
export function keysOf({ keyPlane }: ResolvedOptions, tensors: RunTensors): Tensor | undefined {
  const { cache, layer = 0, k } = tensors;
  return cache === undefined ? k : cache.plane(layer, keyPlane);
}

/** A GPU reads rows in units of 16 bytes, or 8 where a row of fp8 is no multiple of 16. */
function rowUnit(tensor: Tensor, dim: number): number {
  return (dim * dtypeBytes(tensor.dtype)) % 16 === 0 ? 16 : 8;
}

function requireAligned(option: string, tensor: Tensor, unit: number): void {
  const bytes = dtypeBytes(tensor.dtype);
  let aligned = tensor.address % unit === 0;
  for (let axis = tensor.strides.length - 2; axis >= 0; axis--) {
    if (tensor.shape[axis] > 1 && (tensor.strides[axis] * bytes) % unit !== 0) aligned = false;
  }
  if (aligned) return;
  const allowed = `rows at multiples of ${unit} bytes`;
  const given = `${tensor.label}, strides [${tensor.strides}]`;
  throw new OptionError(option, given, allowed, "pad the strides, or copy it by to(dtype).");
}

/** Every row's slot and columns must lie within the page table. */
function requirePages(batch: Batch, table: Tensor): void {
  const { levels, blockSize } = batch.layout;
  let slots = 0;
  let columns = 0;
  for (const level of levels) {
    for (let row = 0; row < level.rowCount; row++) {
      const tokens = rowTokens(level, row, blockSize);
      if (tokens === 0) continue;
      slots = Math.max(slots, level.slots[row] + 1);
      columns = Math.max(columns, Math.ceil((level.positionStarts[row] + tokens) / blockSize));
    }
  }
  if (table.shape[0] >= slots && table.shape[1] >= columns) return;
  const allowed = `[${slots} or more, ${columns} or more]`;
  throw new OptionError("pageTable", table.label, allowed, "match the layout's slots and lengths.");
}

/** The ragged rows must lie within k and v. */
function requireTokens(batch: Batch, k: Tensor, v: Tensor): void {
  let needed = 0;
  for (const level of batch.layout.levels) {
    for (let row = 0; row < level.rowCount; row++) {
      const end = level.slots[row] + rowTokens(level, row, batch.layout.blockSize);
      if (end > needed) needed = end;
    }
  }
  for (const [name, tensor] of [["k", k] as const, ["v", v] as const]) {
    if (tensor.shape[0] >= needed) continue;
    throw new OptionError(name, tensor.label, `${needed} tokens or more`, "match the layout.");
  }
}

/** Tokens from a row's first to its last kept one. */
function rowTokens(level: Level, row: number, blockSize: number): number {
  const kept = level.kvLengths[row];
  if (level.columns === null || kept === 0) return kept;
  const last = level.columnIndptr![row + 1] - 1;
  const before = (last - level.columnIndptr![row]) * blockSize;
  return (level.columns[last] >> 1) * blockSize + kept - before;
}

/** Bytes that the masks of all requests take at least. */
function maskBytes(options: ResolvedOptions, batch: Batch): number {
  let bits = 0;
  for (let r = 0; r < batch.requestCount; r++) {
    const queries = batch.queryIndptr[r + 1] - batch.queryIndptr[r];
    bits += queries * (options.mask === "all" ? batch.kvLengths[r] : queries);
  }
  return Math.ceil(bits / 8);
}

function bindMask(
  params: AttentionParams,
  options: ResolvedOptions,
  batch: Batch,
  tensors: RunTensors,
): void {
  const { mask, maskIndptr } = tensors;
  if (options.mask === "none") {
    if (mask === undefined) return;
    throw new OptionError("mask", mask.label, "left out", 'create with { mask: "all" or "tail" }.');
  }
  if (mask === undefined || maskIndptr === undefined) {
    const allowed = `given: the options say mask "${options.mask}"`;
    throw new OptionError("mask", mask, allowed, "pass mask (u8) and maskIndptr (i32).");
  }
  params.mask = denseAddress("mask", mask, "u8", maskBytes(options, batch));
  params.maskIndptr = denseAddress("maskIndptr", maskIndptr, "i32", batch.requestCount);
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

function checkKeys(
  option: string,
  tensor: Tensor,
  contiguous: boolean,
  heads: number,
  dim: number,
  dtype: DType,
  pageSize: number,
): void {
  const { shape, strides } = tensor;
  const axes = contiguous ? 3 : 4;
  if (tensor.dtype !== dtype) {
    throw new OptionError(option, tensor.dtype, dtype, "match kvDtype.");
  }
  const fits =
    shape.length === axes &&
    shape[axes - 2] === heads &&
    shape[axes - 1] >= dim &&
    (contiguous || shape[1] === pageSize);
  if (fits && strides[axes - 1] === 1) return;
  const lead = contiguous ? "tokens" : `pages, ${pageSize}`;
  const allowed = `[${lead}, ${heads}, ${dim} or more] with innermost stride 1`;
  throw new OptionError(
    option,
    `${tensor.label}, strides [${strides}]`,
    allowed,
    "match the layout.",
  );
}

function denseAddress(option: string, tensor: Tensor, dtype: DType, elements: number): number {
  if (tensor.dtype === dtype && tensor.contiguous && tensor.elements >= elements) {
    return tensor.address;
  }
  const allowed = `a contiguous ${dtype} tensor of ${elements} elements or more`;
  throw new OptionError(option, tensor.label, allowed, "copy it by to(dtype).");
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
  params.ropeDim = options.rope === undefined ? 0 : (options.rope.dim ?? options.headDim);
  params.ropeInterleaved = options.rope?.interleaved ? 1 : 0;
  requireInteger("headDim", options.headDim, 8, 576);
}
