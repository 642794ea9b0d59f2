/** Rows of keys and values: what tensors hold them, and those that lie apart. */
import { OptionError } from "../errors.ts";
import type { AttentionParams } from "../ffi/params.gen.ts";
import type { Batch } from "../kv/batch.ts";
import type { Level } from "../kv/layout.ts";
import type { DType } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { ResolvedOptions } from "./options.ts";
import { requireAligned, rowUnit } from "./tensor-checks.ts";
import type { PlainTensors } from "./tensors.ts";

/** The last elements of keys, if they lie apart: of the run, or of the cache's layer. */
export function tailOf(
  { keyTail, tailPlane }: ResolvedOptions,
  { cache, layer = 0, kTail }: PlainTensors,
  ordered: (option: string, pages: Tensor) => Tensor,
): Tensor | undefined {
  if ((keyTail > 0 && cache === undefined) !== (kTail !== undefined)) {
    const wanted = kTail === undefined;
    const allowed = wanted ? "given: the options say keyTail" : "left out";
    const fix = wanted
      ? "pass the last elements of keys."
      : "create with { keyTail }, without a cache.";
    throw new OptionError("kTail", kTail?.label, allowed, fix);
  }
  if (keyTail === 0) return undefined;
  return cache === undefined ? ordered("kTail", kTail!) : cache.plane(layer, tailPlane);
}

/** Where rows lie that are in no pages. Errors: OptionError. */
export function bindRagged(
  params: AttentionParams,
  options: ResolvedOptions,
  batch: Batch,
  { kRagged, vRagged, kScale, vScale }: PlainTensors,
): void {
  const { kvHeads, headDim, valueDim, kvDtype } = options;
  const isNeeded = batch.layout.raggedRows === true;
  for (const [name, tensor, dim] of [
    ["kRagged", kRagged, headDim] as const,
    ["vRagged", vRagged, valueDim] as const,
  ]) {
    if (tensor === undefined && isNeeded)
      throw new OptionError(name, tensor, "given: rows of the batch lie there", `pass ${name}.`);
    if (tensor === undefined) continue;
    if (!options.raggedRows)
      throw new OptionError(name, tensor.label, "left out", "create with { raggedRows: true }.");
    checkKeys(name, tensor, true, kvHeads, dim, kvDtype, 0);
    requireAligned(name, tensor, rowUnit(tensor, dim));
    if (isNeeded) requireTokens(batch, name, tensor);
  }
  if (isNeeded && [params.kScaleStridePage, params.kScaleStrideToken].some((step) => step !== 0))
    throw raggedScales("kScale", kScale);
  if (isNeeded && [params.vScaleStridePage, params.vScaleStrideToken].some((step) => step !== 0))
    throw raggedScales("vScale", vScale);
  params.kRaggedData = kRagged?.address ?? 0;
  params.vRaggedData = vRagged?.address ?? 0;
  if (kRagged !== undefined) {
    params.kRaggedStrideToken = kRagged.strides[0];
    params.kRaggedStrideHead = kRagged.strides[1];
  }
  if (vRagged === undefined) return;
  params.vRaggedStrideToken = vRagged.strides[0];
  params.vRaggedStrideHead = vRagged.strides[1];
}

function raggedScales(option: string, scale: Tensor | undefined | number | null): OptionError {
  const allowed = "by tensor, head or request beside rows that lie in no pages";
  const fix = "put prompts into pages first.";
  return new OptionError(option, (scale as Tensor).label, allowed, fix);
}

/** The ragged rows must lie within the tensor. */
export function requireTokens(batch: Batch, name: string, tensor: Tensor): void {
  const { levels, contiguous, blockSize } = batch.layout;
  let needed = 0;
  for (const level of levels) {
    for (let row = 0; row < level.rowCount; row++) {
      const slot = level.slots[row];
      if (!contiguous && slot >= 0) continue;
      const end = (contiguous ? slot : -1 - slot) + rowTokens(level, row, blockSize);
      if (end > needed) needed = end;
    }
  }
  if (tensor.shape[0] >= needed) return;
  throw new OptionError(name, tensor.label, `${needed} tokens or more`, "match the layout.");
}

/** Tokens from a row's first to its last kept one. */
export function rowTokens(level: Level, row: number, blockSize: number): number {
  const kept = level.kvLengths[row];
  if (level.columns === null || kept === 0) return kept;
  const last = level.columnIndptr![row + 1] - 1;
  const before = (last - level.columnIndptr![row]) * blockSize;
  return (level.columns[last] >> 1) * blockSize + kept - before;
}

/** Errors: OptionError unless a tensor holds rows of so many heads and elements. */
export function checkKeys(
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
