import type { ClassTraits } from "../../plan/traits.ts";
import type { DeviceFacts } from "./family.ts";

type SharedLimits = Pick<DeviceFacts, "sharedBytesPerBlock" | "sharedBytesPerProcessor">;

/** A class of the tiled kernels. */
export interface TiledClass extends ClassTraits {
  /** Its file, and the end of its entry's name. */
  readonly kernel: "decode" | "prefill";
  readonly threads: number;
  /** Tiles of keys and values in flight. */
  readonly stages: number;
  /** Keys that a warp of the decode kernel takes at a time. */
  readonly stepKeys?: number;
  readonly sharedBytes: number;
  /** How the decode kernel is launched where tiles are few. */
  readonly few?: {
    readonly kvTile: number;
    readonly cluster: number;
    readonly over: number;
    readonly threads: number;
    readonly sharedBytes: number;
  };
}

/** What decides the tiles of the tiled kernels. */
export interface TiledShape extends SharedLimits {
  readonly headDim: number;
  readonly valueDim: number;
  readonly kvElementBytes: number;
  /** Keys (values) pass through f32 before the product: fp8, a hook. */
  readonly keysChange: boolean;
  readonly valuesChange: boolean;
  /** The decode kernel widens fp8 keys (values) in registers: they do not pass through f32. */
  readonly keysWiden: boolean;
  readonly valuesWiden: boolean;
  /** Pairs of a key that turn in its tile; 0 without rotation. */
  readonly turnedPairs: number;
  /** Packed mask bits. */
  readonly masked: boolean;
  /** Keys may have been given positions. */
  readonly keyPositions: boolean;
  /** Tokens have scales. */
  readonly tokenScales: boolean;
  /** Scores meet no hook, token scale or mask bit, and elements do not change. */
  readonly plain: boolean;
  /** Rows have scales. */
  readonly scalesRows: boolean;
  /** 32-bit words that a variant's hooks keep of a row. */
  readonly rowWords: number;
  /** Elements of queries that a variant multiplies, as they come; 0: it multiplies none. */
  readonly queryDim: number;
  /** A variant multiplies outputs. */
  readonly multipliesOutputs: boolean;
  /** The last elements of keys lie in a tensor of their own. */
  readonly keysInTwo: boolean;
  /** Values have a page table of their own. */
  readonly valuePages: boolean;
  /** Plans may have steps for the class of short requests. */
  readonly shortSteps: boolean;
}

/** One way to cut a tile: threads of a block, keys at a time, tiles in flight. */
interface Cut {
  readonly queryTile: number;
  readonly threads: number;
  readonly kvTile: number;
  readonly stages: number;
}

/** Registers that a multiprocessor has, and that a thread takes at most. */
const processorRegisters = 65536;
const mostRegisters = 256;
/** Registers that suffice for a thread of few sums. */
const fewRegisters = 168;
/** Half of what Hopper's own kernels reach (hopper.ts), on an A100 as on an H200. */
const rowsPerByte = 37;
/** Shared memory that the driver keeps for each block. */
const reservedBytes = 1024;
/** Bytes of keys and values that a warp of the decode kernel takes at a time, about. */
const stepBytes = 8192;
/** Rows of eight chunks begin where their swizzle's pattern does. */
const panelBytes = 128;
/** A merged row that is multiplied, in kernels/attention/merge.h. */
const mergedRowBytes = 2308;
/** Blocks that share the keys of a short request: as many as every GPU has in a cluster. */
export const shortCluster = 8;
/** Wider rows than this do not fit a warp's registers: warps divide their columns among them. */
export const warpColumnsMost = 256;

/**
 * The classes of the tiled kernels (kernels/attention/tiled), by rising query tile: those whose
 * tiles fit the shared memory, of which there may be none.
 */
export function tiledClasses(shape: TiledShape): readonly TiledClass[] {
  const wide = isWide(shape);
  const classes = wide
    ? [tileClass("cuda.wide16", 16, shape)]
    : [decodeClass(8, shape), shortClass(shape), decodeClass(16, shape)];
  if (shape.headDim <= 128 && shape.valueDim <= 128) classes.push(decodeClass(32, shape));
  classes.push(tileClass("cuda.tile64", 64, shape));
  if (!wide) classes.push(tileClass("cuda.tile128", 128, shape));
  return classes.filter((row) => row !== undefined);
}

/** 8 to 32 rows; each warp takes keys of its own, as many in flight as memory holds. */
function decodeClass(queryTile: number, shape: TiledShape): TiledClass | undefined {
  const { headDim, valueDim, kvElementBytes } = shape;
  const warps = Math.max(headDim, valueDim) > 128 ? 2 : 4;
  const short = (headDim + valueDim) * kvElementBytes <= stepBytes / 32;
  // The scores of 32 rows and keys do not fit the registers beside wide sums.
  const stepKeys = short && queryTile * valueDim <= 2048 ? 32 : 16;
  const cuts = [4, 3, 2, 1].map((stages) => {
    const cut = { queryTile, threads: 32 * warps, kvTile: 16 * warps, stepKeys, stages };
    return { cut, sharedBytes: decodeBytes(cut, shape) };
  });
  const paired = cuts.find(({ sharedBytes }) => resident(sharedBytes, shape) >= 2);
  const fit = paired ?? firstFit(cuts, shape);
  if (fit === undefined) return undefined;
  const { cut, sharedBytes } = fit;
  const registers = queryTile <= 16 ? fewRegisters : mostRegisters;
  const most = Math.floor(processorRegisters / (cut.threads * registers));
  const blocks = Math.min(resident(sharedBytes, shape), most);
  // As many warps on a processor in one block as else in two.
  const twice = { ...cut, threads: 2 * cut.threads, kvTile: 2 * cut.kvTile };
  const few = { ...twice, cluster: 1, over: 1 / 2, sharedBytes: decodeBytes(twice, shape) };
  const multiplies = shape.queryDim > 0 || shape.multipliesOutputs;
  const fits = resident(few.sharedBytes, shape) >= 1 && blocks === 2 && !multiplies;
  return {
    ...cut,
    ...(queryTile === 8 && fits ? { few } : {}),
    name: `cuda.decode${queryTile}`,
    kernel: "decode",
    sharedBytes,
    cluster: 1,
    blocksPerProcessor: blocks,
    schedule: "walk",
    take: "longest-first",
    mergesRows: true,
    rowsPerKey: rowsPerByte * shape.kvElementBytes,
  };
}

/** 8 rows of few short requests; the blocks of a cluster share their keys out, warp by warp. */
function shortClass(shape: TiledShape): TiledClass | undefined {
  const usual = decodeClass(8, shape);
  if (usual === undefined || !shape.shortSteps) return undefined;
  const { few: _, ...row } = usual;
  const cut = { ...row, threads: 256, kvTile: 128, stepKeys: row.stepKeys!, stages: 2 };
  // Rows of all blocks, in pieces of 64 columns with their bases and sums.
  const received = shortCluster * 8 * (shape.valueDim / 64) * (4 * 64 + 8) + 8;
  const sharedBytes = decodeBytes(cut, shape) + received;
  if (resident(sharedBytes, shape) < 1) return undefined;
  return {
    ...cut,
    name: "cuda.short8",
    sharedBytes,
    cluster: shortCluster,
    blocksPerProcessor: 1,
    schedule: "whole",
    costs: { splitKeys: Infinity },
    shortRequests: { keysLeast: 129, keysMost: 3072, oneClusterKeysMost: 1024 },
  };
}

/** 64 or 128 rows (or 16 of wide ones) against tiles of keys that the whole block takes. */
function tileClass(name: string, queryTile: number, shape: TiledShape): TiledClass | undefined {
  const { headDim, valueDim, plain, turnedPairs } = shape;
  const threads = tileThreads(queryTile, valueDim);
  // Where a warp has 32 rows, wide keys and options leave registers for half a tile at a time.
  const tall = queryTile > threads / 2;
  const halves = tall && valueDim > 64 && (headDim > 128 || !plain);
  const few = tall
    ? valueDim <= 64 && plain && turnedPairs === 0
    : threads === 128 && valueDim <= 64;
  const registers = few ? fewRegisters : mostRegisters;
  const most = Math.max(1, Math.floor(processorRegisters / (threads * registers)));
  let best: { cut: Cut; sharedBytes: number; blocks: number } | undefined;
  for (const kvTile of [64, 32, 16]) {
    for (const stages of [2, 1]) {
      if (stages === 1 && (changes(shape) || (halves && kvTile === 64))) continue;
      const cut = { queryTile, threads, kvTile, stages };
      const sharedBytes = tileBytes(cut, shape);
      const blocks = Math.min(resident(sharedBytes, shape), most);
      if (blocks > (best?.blocks ?? 0)) best = { cut, sharedBytes, blocks };
    }
    if (best !== undefined && best.blocks >= Math.min(2, most)) break;
  }
  if (best === undefined) return undefined;
  return {
    ...best.cut,
    name,
    kernel: "prefill",
    sharedBytes: best.sharedBytes,
    cluster: 1,
    blocksPerProcessor: best.blocks,
    // Up to 64 rows wait for memory, unless the class has to take all larger requests, too.
    schedule: queryTile === 16 || (queryTile === 64 && !isWide(shape)) ? "walk" : "share",
    take: "longest-first",
    rowsPerKey: rowsPerByte * shape.kvElementBytes,
  };
}

/** Whether columns do not fit a warp. */
function isWide({ headDim, valueDim }: TiledShape): boolean {
  return headDim > warpColumnsMost || valueDim > warpColumnsMost;
}

function changes({ keysChange, valuesChange }: TiledShape): boolean {
  return keysChange || valuesChange;
}

function tileThreads(queryTile: number, valueDim: number): number {
  // The sums of 32 rows per warp, or of columns beyond these, do not fit the registers.
  if (queryTile === 128) return valueDim <= 128 ? 128 : 256;
  if (queryTile === 16) return 128;
  return 128 * 2 ** Math.ceil(Math.log2(Math.max(1, valueDim / warpColumnsMost)));
}

function firstFit<T extends { sharedBytes: number }>(
  cuts: readonly T[],
  shape: TiledShape,
): T | undefined {
  return cuts.find(({ sharedBytes }) => sharedBytes <= shape.sharedBytesPerBlock);
}

/** Blocks that a multiprocessor's shared memory holds. */
function resident(sharedBytes: number, shape: TiledShape): number {
  if (sharedBytes > shape.sharedBytesPerBlock) return 0;
  return Math.floor(shape.sharedBytesPerProcessor / (sharedBytes + reservedBytes));
}

/** Shared memory of kernels/attention/tiled/warps.h. */
function decodeBytes(
  { queryTile, threads, stages, stepKeys }: Cut & { stepKeys: number },
  shape: TiledShape,
): number {
  const { headDim, valueDim } = shape;
  const keyRow = rowBytes(roundUp(headDim, 16) / 8);
  const valueRow = rowBytes(roundUp(valueDim, 16) / 8);
  const keysPass = shape.keysChange && !shape.keysWiden;
  const valuesPass = shape.valuesChange && !shape.valuesWiden;
  const storedKey = shape.keysWiden ? rowBytes(headDim / 16) : keyRow;
  const storedValue = shape.valuesWiden ? rowBytes(valueDim / 16) : valueRow;
  const stage =
    (keysPass ? rawBytes(headDim, shape) : storedKey) +
    (valuesPass ? rawBytes(valueDim, shape) : storedValue);
  const changed = (keysPass ? keyRow : 0) + (valuesPass ? valueRow : 0);
  const ring = stepKeys * (stages * stage + changed);
  const sums = queryTile * 4 * (roundUp(valueDim, 16) + 8);
  const tokens = stepKeys * (addressBytes(shape) + tokenBytes(shape) * stages);
  const warp = roundUp(Math.max(ring, sums) + 8 * queryTile + tokens, panelBytes);
  // Of warps that are done, as room for products of rows.
  const merge = shape.multipliesOutputs ? mergedRowBytes : 0;
  const warps = Math.max((threads / 32) * warp, merge, productBytes(queryTile, shape));
  const state = rowFactBytes(queryTile, shape) + 376 + 4 * queryTile;
  return roundUp(withRotation(queryTile * keyRow + state, shape), panelBytes) + warps;
}

/** Shared memory of kernels/attention/tiled/block.h. */
function tileBytes({ queryTile, kvTile, threads, stages }: Cut, shape: TiledShape): number {
  const { headDim, valueDim, keysChange, valuesChange } = shape;
  const warps = threads / 32;
  const rowWarps = queryTile / (queryTile > 16 * warps ? 32 : 16);
  const columnWarps = warps / rowWarps;
  const warpChunks = roundUp(valueDim, 16 * columnWarps) / columnWarps / 8;
  const keyRow = rowBytes(roundUp(headDim, 16) / 8);
  const valueRow = rowBytes(warpChunks * columnWarps, warpChunks);
  const tiles = (keysChange ? 1 : stages) * keyRow + (valuesChange ? 1 : stages) * valueRow;
  const raw =
    (keysChange ? rawBytes(headDim, shape) : 0) + (valuesChange ? rawBytes(valueDim, shape) : 0);
  const places = 4 * (addressBytes(shape) + tokenBytes(shape)) * kvTile;
  const state = rowFactBytes(queryTile, shape) + 128 + 16 * warps;
  const planes = Math.max(kvTile * (tiles + raw), productBytes(queryTile, shape));
  return withRotation(queryTile * keyRow + planes + places + state, shape);
}

/** Room of kernels/attention/tiled/project.h: a row of queries, all rows of outputs. */
function productBytes(queryTile: number, shape: TiledShape): number {
  const { queryDim, headDim, valueDim, multipliesOutputs } = shape;
  const queries = queryDim > 0 ? 4 * (queryDim + headDim) : 0;
  return Math.max(queries, multipliesOutputs ? 4 * queryTile * (roundUp(valueDim, 16) + 8) : 0);
}

/** Bytes of one of Tokens of kernels/attention/common/locate.h, and of one of RowAddresses. */
function tokenBytes({ masked, keyPositions, valuePages, tokenScales }: TiledShape): number {
  return 12 + (tokenScales ? 8 : 0) + (masked && keyPositions ? 4 : 0) + (valuePages ? 4 : 0);
}
function addressBytes({ keysInTwo }: TiledShape): number {
  return keysInTwo ? 24 : 16;
}

/** Bytes with Rotation of kernels/attention/tiled/rotate.h behind them. */
function withRotation(bytes: number, { turnedPairs }: TiledShape): number {
  return roundUp(bytes, 16) + 16 * turnedPairs;
}

/** Bytes of RowFacts in kernels/attention/common/rows.h. */
function rowFactBytes(queryTile: number, shape: TiledShape): number {
  const { masked, rowWords, scalesRows } = shape;
  return (
    (scalesRows ? 16 : 12) * queryTile +
    16 * (masked ? queryTile : 1) +
    Math.max(8, 4 * rowWords * queryTile)
  );
}

/** A row of 16-byte chunks in shared memory: whole groups of eight, or an odd number. */
function rowBytes(chunks: number, slice = chunks): number {
  return (slice % 8 === 0 ? chunks : chunks | 1) * 16;
}

function rawBytes(dim: number, { kvElementBytes }: TiledShape): number {
  return roundUp(dim * kvElementBytes, 16);
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
