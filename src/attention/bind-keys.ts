import { listsOf } from "../cache/page-lists.ts";
import { OptionError } from "../errors.ts";
import type { AttentionParams } from "../ffi/params.gen.ts";
import type { Batch } from "../kv/batch.ts";
import { type ScaleStrides, scaleStrides } from "../tensor/scale.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { ResolvedOptions } from "./options.ts";
import { pagesInOrder } from "../tensor/page-order.ts";
import { bindRagged, checkKeys, requireTokens, rowTokens, tailOf } from "./bind-rows.ts";
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
): { k: Tensor; v: Tensor; kTail: Tensor | undefined } {
  const { kvHeads, headDim, valueDim, kvDtype, keyTail } = options;
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
  checkKeys("k", k, contiguous, kvHeads, headDim - keyTail, kvDtype, blockSize);
  checkKeys("v", v, contiguous, kvHeads, valueDim, kvDtype, blockSize);
  if (k.device.kind === "cuda") {
    requireAligned("k", k, rowUnit(k, headDim));
    requireAligned("v", v, rowUnit(v, valueDim));
  }
  const kTail = tailOf(options, tensors, ordered);
  if (kTail !== undefined) {
    checkKeys("kTail", kTail, contiguous, kvHeads, keyTail, kvDtype, blockSize);
    requireAligned("kTail", kTail, rowUnit(kTail, headDim));
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
  params.kTailData = kTail?.address ?? 0;
  if (kTail !== undefined) {
    params.kTailStridePage = contiguous ? 0 : kTail.strides[0];
    params.kTailStrideToken = kTail.strides[tokenAxis];
    params.kTailStrideHead = kTail.strides[tokenAxis + 1];
  }
  bindRagged(params, options, batch, tensors);
  params.pageCount = 0;
  if (cache === undefined) bindPages(params, options, batch, tensors, k, v, kTail);
  else
    for (const name of ["pageTable", "valuePageTable"] as const)
      if (tensors[name] !== undefined)
        throw new OptionError(name, "given", "left out beside a cache", "remove it.");
  if (cache !== undefined && options.valuePages) {
    const fix = "pass k and v, or create without valuePages.";
    throw new OptionError("valuePages", true, "false beside a cache, which has one table", fix);
  }
  return { k, v, kTail };
}

/** Where the rows of keys and values lie that are in no cache. */
function bindPages(
  params: AttentionParams,
  options: ResolvedOptions,
  batch: Batch,
  tensors: PlainTensors,
  k: Tensor,
  v: Tensor,
  kTail: Tensor | undefined,
): void {
  params.pageTable = params.valuePageTable = 0;
  params.pageCount = pagesOf(options, k, v, kTail);
  if (batch.layout.contiguous) {
    if (tensors.valuePageTable !== undefined) {
      const allowed = "left out: ragged keys and values lie in no pages";
      throw new OptionError("valuePageTable", tensors.valuePageTable.label, allowed, "remove it.");
    }
    requireTokens(batch, "k", k);
    if (kTail !== undefined) requireTokens(batch, "kTail", kTail);
    return requireTokens(batch, "v", v);
  }
  const table = pageTableOf(batch, tensors);
  listsOf(batch)?.requireRoom("k", params.pageCount, k.shape[1]);
  if (table === undefined || table.shape.length < 1 || table.shape.length > 2) {
    const allowed = "int32 [slots, columns] or [entries]";
    throw new OptionError("pageTable", table, allowed, "pass the page table.");
  }
  requirePages(batch, table);
  params.pageTable = denseAddress("pageTable", table, "i32", 0);
  params.tableStride = strideOf(table);
  const { valuePageTable } = tensors;
  if (options.valuePages !== (valuePageTable !== undefined)) {
    const allowed = options.valuePages ? "given: the options say valuePages" : "left out";
    const fix = `create with { valuePages: ${!options.valuePages} }.`;
    throw new OptionError("valuePageTable", valuePageTable?.label, allowed, fix);
  }
  if (valuePageTable === undefined) return;
  const isLike = valuePageTable.shape.length === table.shape.length;
  if (!isLike || strideOf(valuePageTable) !== params.tableStride) {
    const fix = "give values a table of the same columns.";
    throw new OptionError("valuePageTable", valuePageTable.label, `as ${table.label}`, fix);
  }
  requirePages(batch, valuePageTable, "valuePageTable");
  params.valuePageTable = denseAddress("valuePageTable", valuePageTable, "i32", 0);
  params.valuePageCount = v.shape[0];
}

/** Pages that the page table of keys may name. */
export function pagesOf(
  { valuePages }: ResolvedOptions,
  k: Tensor,
  v: Tensor,
  kTail: Tensor | undefined,
): number {
  const pages = Math.min(k.shape[0], kTail?.shape[0] ?? k.shape[0]);
  return valuePages ? pages : Math.min(pages, v.shape[0]);
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
function requirePages(batch: Batch, table: Tensor, option = "pageTable"): void {
  const { levels, blockSize } = batch.layout;
  const isList = table.shape.length === 1;
  let slots = 0;
  let columns = 0;
  for (const level of levels) {
    for (let row = 0; row < level.rowCount; row++) {
      const tokens = rowTokens(level, row, blockSize);
      if (tokens === 0 || level.slots[row] < 0) continue;
      const pages = Math.ceil((level.positionStarts[row] + tokens) / blockSize);
      const end = level.slots[row] + (isList ? pages : 1);
      if (end > slots) slots = end;
      if (pages > columns) columns = pages;
    }
  }
  if (table.shape[0] >= slots && (isList || table.shape[1] >= columns)) return;
  const allowed = isList ? `[${slots} or more]` : `[${slots} or more, ${columns} or more]`;
  throw new OptionError(option, table.label, allowed, "match the layout's slots and lengths.");
}
