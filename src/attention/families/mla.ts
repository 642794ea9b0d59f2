import { OptionError } from "../../errors.ts";
import type { CostModel } from "../../plan/cost.ts";
import { dtypeBytes } from "../../tensor/dtype.ts";
import { encodeTensorMap } from "../../tensor/tensor-map.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { ResolvedOptions } from "../options.ts";
import { beyondPositions, cudaMerge, optionConstants } from "./cuda.ts";
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

/**
 * Costs as one H200 showed them: a record's start costs about three tiles, a merge about eight, and
 * parts of less than four tiles gain nothing. A block takes as long for one row as for all of its.
 */
function costsOf({ queryHeads }: ResolvedOptions): CostModel {
  return {
    pieceKeys: 3 * tile,
    rowKeys: 0,
    mergeKeys: 4,
    // Reads that a shared level saves are not what whole tiles of rows wait for.
    sharedRowKeys: queryHeads < tile ? 64 : Infinity,
    leastKeys: 4 * tile,
    splitKeys: 8 * tile,
  };
}

/** A merge of 128 rows and 512 columns is work for as many blocks, 128 columns of a row each. */
const mergeShares = { most: 512, blocksPerProcessor: 16 };

function offer(facts: DeviceFacts, options: ResolvedOptions): KernelOffer | OptionError {
  const refused = refusal(facts, options);
  if (refused !== undefined) return refused;
  return {
    classes: [kernelClass(options, 1), kernelClass(options, 2)],
    merge: cudaMerge(undefined, mergeShares),
    costs: costsOf(options),
  };
}

/** Why the family does not take the options, if it does not. */
function refusal(facts: DeviceFacts, options: ResolvedOptions): OptionError | undefined {
  const no = (option: string, value: unknown, allowed: string) =>
    new OptionError(option, value, allowed, "other kernels take it.");
  if (facts.computeMajor !== 9) return no("device", facts.computeMajor, "of compute capability 9");
  if (facts.sharedBytesPerBlock < sharedBytes) return no("device", "small", "with 227 KiB");
  const { kvHeads, dtype, kvDtype, keyPlane, valuePlane } = options;
  if (options.headDim !== headDim) return no("headDim", options.headDim, `${headDim}`);
  if (options.valueDim !== valueDim) return no("valueDim", options.valueDim, `${valueDim}`);
  if (kvHeads !== 1) return no("kvHeads", kvHeads, "1");
  if (keyPlane !== valuePlane) return no("valuePlane", valuePlane, keyPlane);
  if (dtypeBytes(dtype) !== 2 || kvDtype !== dtype) return no("kvDtype", kvDtype, "f16 or bf16");
  if (options.windowLeft >= 0) return no("windowLeft", options.windowLeft, "-1");
  const beyond = beyondPositions(options);
  return beyond && no(...beyond);
}

/** Bytes of struct Memory in kernels/attention/mla/memory.h. */
const sharedBytes = (() => {
  const piece = tile * 128;
  const pieces = 5 * 4 + 3 + 3 + 2; // halves, ropes, queries, weights
  const factors = 2 * tile * 4;
  const targets = tile * 16;
  const rows = 16 + 3 * tile * 4 + 8;
  const [work, places, divider, barriers] = [2 * 64, 2 * 2 * 8, 8, 32 * 8];
  return pieces * piece + factors + targets + rows + work + places + divider + barriers;
})();

const threads = 512;

/** Records of up to 64 rows for each block of a cluster. */
function kernelClass(options: ResolvedOptions, cluster: 1 | 2): KernelClass {
  return {
    name: `mla.rows${tile * cluster}`,
    queryTile: tile * cluster,
    kvTile: tile,
    cluster,
    blocksPerProcessor: 1,
    schedule: "whole",
    take: "longest-first",
    entry: "attention_mla",
    image: {
      source: "attention/mla/decode.cu",
      constants: {
        ...optionConstants(options),
        FB_QUERY_TILE: tile,
        FB_KV_TILE: tile,
        FB_THREADS: threads,
        FB_SHARED_BYTES: sharedBytes,
        FB_CLUSTER: cluster,
      },
    },
    launch: { threads, sharedBytes, persistent: true, programmatic: true },
    bindMaps,
  };
}

/** Maps of 64 elements by rows that lie side by side. Errors: OptionError. */
function bindMaps({ q, k, v }: MappedTensors, options: ResolvedOptions, maps: AttentionMaps): void {
  requireView(k, v);
  const dense = q.strides[0] === options.queryHeads * q.strides[1];
  const rows = dense ? q.shape[0] * options.queryHeads : options.queryHeads;
  bindMap(maps, "q", q, {
    extents: [headDim, rows, dense ? 1 : q.shape[0]],
    strides: [q.strides[1], q.strides[0]],
    box: dense ? tile : lowestPower(options.queryHeads),
  });
  const paged = k.shape.length === 4;
  bindMap(maps, "k", k, {
    extents: [headDim, paged ? k.shape[1] : k.shape[0], paged ? k.shape[0] : 1],
    strides: paged ? [k.strides[1], k.strides[0]] : [k.strides[0], k.strides[0]],
    box: paged ? lowestPower(k.shape[1]) : tile,
  });
}

/** The largest power of two that divides a count, of at most a tile. */
function lowestPower(count: number): number {
  return Math.min(count & -count, tile);
}

interface Rows {
  readonly extents: readonly number[];
  /** Elements. */
  readonly strides: readonly number[];
  readonly box: number;
}

function bindMap(maps: AttentionMaps, name: "q" | "k", tensor: Tensor, rows: Rows): void {
  const { address, dtype, device } = tensor;
  const bytes = dtypeBytes(dtype);
  const { extents, box } = rows;
  const strides = rows.strides.map((step) => step * bytes);
  const map = { address, dtype, extents, strides, box: [tile, box, 1], swizzleBytes: 128 } as const;
  encodeTensorMap(device, map, maps[name]);
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
