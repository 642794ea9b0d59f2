import { listsOf } from "../cache/page-lists.ts";
import { OptionError } from "../errors.ts";
import type { AttentionParams } from "../ffi/params.gen.ts";
import type { Batch } from "../kv/batch.ts";
import type { Level } from "../kv/layout.ts";
import type { DType } from "../tensor/dtype.ts";
import { type ScaleStrides, scaleStrides } from "../tensor/scale.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { ResolvedOptions } from "./options.ts";
import { pagesInOrder } from "../tensor/page-order.ts";
import { denseAddress, requireAligned, rowUnit } from "./tensor-checks.ts";
import type { PlainTensors } from "./tensors.ts";

/** Scales reach as far as the keys do. */
function bindScales(
  params: AttentionParams,
  options: ResolvedOptions,
  batch: Batch,
  requests: number,
  tensors: PlainTensors,
  k: Tensor,
): void {
  const { contiguous, blockSize } = batch.layout;
  const reach = {
    heads: options.kvHeads,
    pages: contiguous ? 1 : k.shape[0],
    pageTokens: contiguous ? k.shape[0] : blockSize,
    requests,
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

/** Where keys, values and their scales lie. Errors: OptionError. */
export function bindKeysAndValues(
  params: AttentionParams,
  options: ResolvedOptions,
  batch: Batch,
  requests: number,
  tensors: PlainTensors,
): { k: Tensor; v: Tensor } {
  const { kvHeads, headDim, valueDim, kvDtype } = options;
  const { cache, layer = 0 } = tensors;
  const { contiguous, blockSize } = batch.layout;
  params.contiguous = contiguous ? 1 : 0;
  params.pageSize = blockSize;
  const givenK = keysOf(options, tensors);
  const givenV = cache === undefined ? tensors.v : cache.plane(layer, options.valuePlane);
  const isTwice = cache !== undefined && tensors.k !== undefined;
  if (givenK === undefined || givenV === undefined || isTwice) {
    const fix = "pass cache and layer, or k and v.";
    throw new OptionError("cache", cache, "given unless k and v are", fix);
  }
  const isUsers = cache === undefined && !contiguous;
  const ordered = (option: string, pages: Tensor) =>
    isUsers ? pagesInOrder(option, pages, tensors.layout, kvHeads) : pages;
  const k = ordered("k", givenK);
  const v = ordered("v", givenV);
  checkKeys("k", k, contiguous, kvHeads, headDim, kvDtype, blockSize);
  checkKeys("v", v, contiguous, kvHeads, valueDim, kvDtype, blockSize);
  if (k.device.kind === "cuda") {
    requireAligned("k", k, rowUnit(k, headDim));
    requireAligned("v", v, rowUnit(v, valueDim));
  }
  bindScales(params, options, batch, requests, tensors, k);
  const tokenAxis = contiguous ? 0 : 1;
  params.kData = k.address;
  params.kStridePage = contiguous ? 0 : k.strides[0];
  params.kStrideToken = k.strides[tokenAxis];
  params.kStrideHead = k.strides[tokenAxis + 1];
  params.vData = v.address;
  params.vStridePage = contiguous ? 0 : v.strides[0];
  params.vStrideToken = v.strides[tokenAxis];
  params.vStrideHead = v.strides[tokenAxis + 1];
  params.pageCount = 0;
  if (cache === undefined) bindPages(params, batch, tensors, k, v);
  else if (tensors.pageTable !== undefined)
    throw new OptionError("pageTable", "given", "left out beside a cache", "remove it.");
  return { k, v };
}

/** Where the rows of keys and values lie that are in no cache. */
function bindPages(
  params: AttentionParams,
  batch: Batch,
  tensors: PlainTensors,
  k: Tensor,
  v: Tensor,
): void {
  params.pageTable = 0;
  params.pageCount = Math.min(k.shape[0], v.shape[0]);
  if (batch.layout.contiguous) return requireTokens(batch, k, v);
  const table = pageTableOf(batch, tensors);
  listsOf(batch)?.requireRoom("k", params.pageCount, k.shape[1]);
  if (table === undefined || table.shape.length < 1 || table.shape.length > 2) {
    const allowed = "int32 [slots, columns] or [entries]";
    throw new OptionError("pageTable", table, allowed, "pass the page table.");
  }
  requirePages(batch, table);
  params.pageTable = denseAddress("pageTable", table, "i32", 0);
  params.tableStride = strideOf(table);
}

/** Where a run's keys lie. */
export function keysOf({ keyPlane }: ResolvedOptions, tensors: PlainTensors): Tensor | undefined {
  const { cache, layer = 0, k } = tensors;
  return cache === undefined ? k : cache.plane(layer, keyPlane);
}

/** The page table of a run: the caller's, or that of its step's page lists. Errors: OptionError. */
export function pageTableOf(batch: Batch, { pageTable }: PlainTensors): Tensor | undefined {
  const lists = listsOf(batch);
  if (lists === undefined || pageTable === undefined) return pageTable ?? lists?.table;
  const allowed = "left out: the batch's page lists are on the device";
  throw new OptionError("pageTable", pageTable.label, allowed, "remove it.");
}

/** Entries from one slot of a page table to the next. */
export function strideOf({ shape }: Tensor): number {
  return shape.length === 1 ? 1 : shape[1];
}

/** Every row's slot and columns must lie within the page table. */
function requirePages(batch: Batch, table: Tensor): void {
  const { levels, blockSize } = batch.layout;
  const isList = table.shape.length === 1;
  let slots = 0;
  let columns = 0;
  for (const level of levels) {
    for (let row = 0; row < level.rowCount; row++) {
      const tokens = rowTokens(level, row, blockSize);
      if (tokens === 0) continue;
      const pages = Math.ceil((level.positionStarts[row] + tokens) / blockSize);
      const end = level.slots[row] + (isList ? pages : 1);
      if (end > slots) slots = end;
      if (pages > columns) columns = pages;
    }
  }
  if (table.shape[0] >= slots && (isList || table.shape[1] >= columns)) return;
  const allowed = isList ? `[${slots} or more]` : `[${slots} or more, ${columns} or more]`;
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
