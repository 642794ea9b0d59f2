import { OptionError } from "../../errors.ts";
import type { CostModel } from "../../plan/cost.ts";
import { dtypeBytes, isFp8 } from "../../tensor/dtype.ts";
import { encodeTensorMap } from "../../tensor/tensor-map.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { ResolvedOptions } from "../options.ts";
import { beyondPositions, cudaMerge, liesApart, optionConstants } from "./cuda.ts";
import type {
  AttentionMaps,
  DeviceFacts,
  KernelClass,
  KernelFamily,
  KernelOffer,
  MappedTensors,
} from "./family.ts";

/**
 * Decode of multi-head latent attention on compute capability 9.0 (kernels/attention/mla): one
 * latent head of 576 elements whose first 512 are the value. What it does not take, the families
 * behind it do.
 */
export const mla: KernelFamily = { name: "mla", offer };

/** Tokens of a tile, rows of a block, elements of a row that a box brings. */
const tile = 64;
const [headDim, valueDim] = [576, 512];
const threads = 512;

/**
 * Costs as one H200 showed them: a record's start costs about three tiles, a merge about eight, and
 * parts of less than two tiles gain nothing. A block takes as long for one row as for all of its.
 */
function costsOf({ queryHeads }: ResolvedOptions): CostModel {
  return {
    ...cutCosts,
    rowKeys: 0,
    mergeKeys: 4,
    // Reads that a shared level saves are not what whole tiles of rows wait for.
    sharedRowKeys: queryHeads < tile ? 64 : Infinity,
  };
}

const cutCosts = { pieceKeys: 3 * tile, leastKeys: 2 * tile, splitKeys: 8 * tile };

/** Each of two blocks that share keys has half of what a piece has. */
function costsOfPairs(): KernelClass["costs"] {
  const { pieceKeys, leastKeys, splitKeys } = cutCosts;
  return { pieceKeys: 2 * pieceKeys, leastKeys: 2 * leastKeys, splitKeys: 2 * splitKeys };
}

/** A merge of 128 rows and 512 columns is work for as many blocks, 128 columns of a row each. */
const mergeShares = { most: 512, blocksPerProcessor: 8 };

function offer(facts: DeviceFacts, options: ResolvedOptions): KernelOffer | OptionError {
  const refused = refusal(facts, options);
  if (refused !== undefined) return refused;
  return {
    classes: classesOf(options),
    merge: cudaMerge(undefined, mergeShares),
    costs: costsOf(options),
    windows: false,
  };
}

/** What the blocks of a class take: two share a record's keys, or its rows. */
interface Shape {
  /** Of a block. */
  readonly rows: number;
  readonly shares: "nothing" | "keys" | "rows";
}

/**
 * Of each class; blocks of few rows have own kernels. Sharing keys spares a merge, where memory is
 * the bound; with 64 rows, or keys of 8 bits, whose records begin slowly, it costs more.
 */
function shapesOf({ kvDtype }: ResolvedOptions): Shape[] {
  const few = isFp8(kvDtype) ? "nothing" : "keys";
  return [
    { rows: 16, shares: few },
    { rows: 32, shares: few },
    { rows: tile, shares: "nothing" },
    { rows: tile, shares: "rows" },
  ];
}

/** Packed rows of a record. */
function recordRows({ rows, shares }: Shape): number {
  return shares === "rows" ? 2 * rows : rows;
}

/** Classes that some request may need: it has a row for each query head at least. */
function classesOf(options: ResolvedOptions): KernelClass[] {
  const shapes = shapesOf(options);
  const least = Math.min(options.queryHeads, Math.max(...shapes.map(recordRows)));
  return shapes
    .filter((shape) => recordRows(shape) >= least)
    .map((shape) => kernelClass(options, shape));
}

/** Why the family does not take the options, if it does not. */
function refusal(facts: DeviceFacts, options: ResolvedOptions): OptionError | undefined {
  const no = (option: string, value: unknown, allowed: string) =>
    new OptionError(option, value, allowed, "other kernels take it.");
  if (facts.computeMajor !== 9) return no("device", facts.computeMajor, "of compute capability 9");
  if (facts.sharedBytesPerBlock < sharedBytesOf({ rows: tile, shares: "nothing" }))
    return no("device", "small", "with 227 KiB");
  const { kvHeads, dtype, kvDtype, keyPlane, valuePlane } = options;
  if (options.headDim !== headDim) return no("headDim", options.headDim, `${headDim}`);
  if (options.valueDim !== valueDim) return no("valueDim", options.valueDim, `${valueDim}`);
  if (kvHeads !== 1) return no("kvHeads", kvHeads, "1");
  if (keyPlane !== valuePlane) return no("valuePlane", valuePlane, keyPlane);
  if (dtypeBytes(dtype) !== 2) return no("dtype", dtype, "f16 or bf16");
  if (kvDtype !== dtype && kvDtype !== "f8e4m3")
    return no("kvDtype", kvDtype, `${dtype} or f8e4m3`);
  if (options.keyTail > 0 && (options.keyTail !== headDim - valueDim || isFp8(kvDtype)))
    return no("keyTail", options.keyTail, `0 or ${headDim - valueDim}, not of fp8 keys`);
  const apart = liesApart({ ...options, keyTail: 0 });
  if (apart !== undefined) return no(...apart);
  if (options.windowLeft >= 0) return no("windowLeft", options.windowLeft, "-1");
  const scaled = options.tokenScales && kvDtype === dtype;
  const beyond = beyondPositions({ ...options, tokenScales: scaled });
  return beyond && no(...beyond);
}

/** Bytes of struct Memory in kernels/attention/mla/memory.h, for so many rows of a block. */
function sharedBytesOf({ rows, shares }: Shape, eights = false): number {
  const turned = rows < tile || eights;
  const halfSlots = !eights ? 5 : rows === 16 ? 11 : rows === 32 ? 9 : 7;
  const ropeSlots = eights ? (halfSlots + 1) / 2 : rows === 32 ? 2 : 3;
  const querySlots = rows === 16 && !eights ? 2 : 1;
  const keys = (halfSlots * 4 + ropeSlots) * tile * tile * (eights ? 1 : 2);
  const queries = (querySlots * (turned ? 9 : 3) + 2) * rows * 128; // and weights
  const factors = 2 * rows * 4;
  const exchange = turned ? 2 * 4 * 4 + 2 * 4 * rows * 8 + (eights ? rows : 2) * 4 : 8;
  const targets = rows * 16;
  const lastSeen = 2 * rows * 4;
  const barriers = (19 + 2 * halfSlots + ropeSlots + 2 * querySlots) * 8;
  const sharing = (shares === "keys" ? rows : 1) * 8 + 2 * 4 + 3 * 8;
  const [work, places, divider] = [2 * 64, 2 * (turned ? 2 : 4) * 8, 8];
  const small = factors + exchange + sharing + targets + lastSeen + work + places + divider;
  return keys + queries + small + barriers;
}

function kernelClass(options: ResolvedOptions, shape: Shape): KernelClass {
  const { rows, shares } = shape;
  const cluster = shares === "nothing" ? 1 : 2;
  const eights = isFp8(options.kvDtype);
  const sharedBytes = sharedBytesOf(shape, eights);
  const source = eights ? "bytes" : rows < tile ? "turned" : "decode";
  return {
    name: `mla.rows${recordRows(shape)}`,
    queryTile: recordRows(shape),
    kvTile: tile,
    cluster,
    blocksPerProcessor: 1,
    schedule: "whole",
    take: "longest-first",
    costs: shares === "keys" ? costsOfPairs() : undefined,
    entry: "attention_mla",
    image: {
      source: `attention/mla/${source}.cu`,
      constants: {
        ...optionConstants(options),
        FB_QUERY_TILE: rows,
        FB_KV_TILE: tile,
        FB_THREADS: threads,
        FB_SHARED_BYTES: sharedBytes,
        FB_CLUSTER: cluster,
        FB_SPLIT_KEYS: shares === "keys" ? 1 : 0,
      },
    },
    launch: { threads, sharedBytes, persistent: true, programmatic: true },
    bindMaps: (tensors, options, maps) => bindMaps(tensors, options, maps, rows),
  };
}

/** Maps of 64 elements by rows that lie side by side. Errors: OptionError. */
function bindMaps(
  { q, k, v, kTail }: MappedTensors,
  { queryHeads }: ResolvedOptions,
  maps: AttentionMaps,
  rows: number,
): void {
  requireView(k, v);
  const dense = q.strides[0] === queryHeads * q.strides[1];
  bindMap(maps, "q", q, {
    extents: [headDim, dense ? q.shape[0] * queryHeads : queryHeads, dense ? 1 : q.shape[0]],
    strides: [q.strides[1], q.strides[0]],
    box: dense ? rows : Math.min(lowestPower(queryHeads), rows),
  });
  bindMap(maps, "k", k, {
    ...rowsOf(k, kTail === undefined ? headDim : valueDim),
  });
  // Values are of the keys' map: that of values is free.
  if (kTail !== undefined) bindMap(maps, "v", kTail, rowsOf(kTail, headDim - valueDim));
}

/** Keys of so many elements. */
function rowsOf({ shape, strides }: Tensor, dim: number): Rows {
  const paged = shape.length === 4;
  return {
    extents: [dim, paged ? shape[1] : shape[0], paged ? shape[0] : 1],
    strides: paged ? [strides[1], strides[0]] : [strides[0], strides[0]],
    box: paged ? Math.min(lowestPower(shape[1]), tile) : tile,
  };
}

/** The largest power of two that divides a count. */
function lowestPower(count: number): number {
  return count & -count;
}

interface Rows {
  readonly extents: readonly number[];
  /** Elements. */
  readonly strides: readonly number[];
  readonly box: number;
}

function bindMap(maps: AttentionMaps, name: "q" | "k" | "v", tensor: Tensor, rows: Rows): void {
  const { address, dtype, device } = tensor;
  const bytes = dtypeBytes(dtype);
  const { extents } = rows;
  const strides = rows.strides.map((step) => step * bytes);
  const box = [tile, rows.box, 1];
  const swizzleBytes = bytes === 1 ? 64 : 128; // a box's row
  encodeTensorMap(device, { address, dtype, extents, strides, box, swizzleBytes }, maps[name]);
}

/** One plane for both, said by the options, must be one tensor. */
function requireView(k: Tensor, v: Tensor): void {
  const tokens = k.shape.length - 2;
  let same = k.address === v.address;
  for (let axis = 0; axis < tokens; axis++) same &&= k.strides[axis] === v.strides[axis];
  if (same) return;
  const fix = "pass k itself, or name two planes.";
  throw new OptionError("v", v.label, "k, whose first elements it is: keyPlane is valuePlane", fix);
}
