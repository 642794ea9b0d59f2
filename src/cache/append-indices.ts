/** Index tensors of appends into pages that the caller manages. */
import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { narrowed } from "../tensor/indices.ts";
import { requireTensor, type Tensor } from "../tensor/tensor.ts";
import type { AppendTable } from "./append.ts";

/** Where new tokens go, in tensors. */
export interface AppendIndices {
  /** i32 or i64 [tokens]: page * pageSize + offset of each token; -1 leaves a token out. */
  slotMapping?: Tensor | null;
  /** Or i32 or i64 [tokens]: the request of each token (-1 leaves it out) and its place in it; */
  requests?: Tensor | null;
  positions?: Tensor | null;
  /** then i32 or i64 [requests, columns]: page ids; or with indptr [requests + 1] all in a row. */
  pageTable?: Tensor | null;
  indptr?: Tensor | null;
  /**
   * i32 [pages, pageSize], which get the positions of the new keys for attention, as all other keys
   * of these pages have: newPositions, i32 or i64 [tokens]; without, each key's place (-1).
   */
  keyPositions?: Tensor | null;
  newPositions?: Tensor | null;
}

/** Index tensors that say where tokens go, as i32. */
export interface Indices {
  readonly slotMapping?: Tensor;
  readonly requests?: Tensor;
  readonly positions?: Tensor;
  readonly pageTable?: Tensor;
  readonly indptr?: Tensor;
}

/** The index tensors as i32 on `stream`, of one way to say where tokens go. Errors: OptionError. */
export function indicesOf(stream: Stream, options: AppendIndices): Indices {
  const slotMapping = indexTensor(stream, "slotMapping", options.slotMapping);
  const requests = indexTensor(stream, "requests", options.requests);
  const positions = indexTensor(stream, "positions", options.positions);
  const pageTable = indexTensor(stream, "pageTable", options.pageTable);
  const indptr = indexTensor(stream, "indptr", options.indptr);
  const table = [requests, positions, pageTable];
  const isBySlot = slotMapping !== undefined && [...table, indptr].every((each) => !each);
  const isByTable = slotMapping === undefined && table.every(Boolean);
  if (!isBySlot && !isByTable) {
    const allowed = "slotMapping alone, or requests, positions and pageTable";
    throw new OptionError("slotMapping", slotMapping, allowed, "say once where tokens go.");
  }
  const tokens = (slotMapping ?? positions)!.elements;
  if (requests !== undefined && requests.elements !== tokens)
    throw new OptionError(
      "requests",
      requests.label,
      `[${tokens}]`,
      "give each token its request.",
    );
  return { slotMapping, requests, positions, pageTable, indptr };
}

/** Where positions of keys go, if anywhere, and those of the new ones, if given: OptionError. */
export function positionsOf(
  stream: Stream,
  { keyPositions: target, newPositions }: AppendIndices,
  tokens: number,
  pageCount: number,
  pageSize: number,
): Tensor[] {
  const given = indexTensor(stream, "newPositions", newPositions);
  if (target === undefined || target === null) {
    if (given === undefined) return [];
    const fix = "pass keyPositions, or remove newPositions.";
    throw new OptionError("keyPositions", target, "given beside newPositions", fix);
  }
  requireTensor("keyPositions", target);
  target.requireOn(stream.device, "keyPositions");
  const { shape, dtype, contiguous } = target;
  const fits = shape.length === 2 && shape[0] >= pageCount && shape[1] === pageSize;
  if (dtype !== "i32" || !contiguous || !fits) {
    const allowed = `a dense i32 tensor [${pageCount}, ${pageSize}]`;
    throw new OptionError("keyPositions", target.label, allowed, "copy it by to(i32).");
  }
  if (given === undefined) return [target];
  if (given.elements >= tokens) return [target, given];
  const fix = "give each token its position.";
  throw new OptionError("newPositions", given.label, `[${tokens}] or more`, fix);
}

/** A dense i32 tensor of these indices, or undefined for none. */
function indexTensor(stream: Stream, option: string, given?: Tensor | null): Tensor | undefined {
  if (given === undefined || given === null) return undefined;
  requireTensor(option, given);
  given.requireOn(stream.device, option);
  if (given.dtype === "i64") return narrowed(option, given, stream);
  if (given.dtype === "i32" && given.contiguous) return given;
  throw new OptionError(option, given.label, "a dense i32 or an i64 tensor", "copy it by to(i32).");
}

/** A page table as its appends take it. Errors: OptionError. */
export function tableOf(pageTable: Tensor, indptr: Tensor | undefined): AppendTable {
  const { shape, elements, address } = pageTable;
  const axes = indptr === undefined ? 2 : 1;
  if (shape.length !== axes || (indptr !== undefined && indptr.elements === 0)) {
    const allowed = "[requests, columns], or [entries] with indptr [requests + 1]";
    throw new OptionError("pageTable", pageTable.label, allowed, "reshape it, or pass indptr.");
  }
  return {
    address,
    entries: elements,
    stride: axes === 2 ? shape[1] : 0,
    indptr: indptr?.address ?? 0,
    requests: indptr === undefined ? shape[0] : indptr.elements - 1,
  };
}
