import { OptionError } from "../../errors.ts";
import type { TensorMap } from "../../ffi/params.gen.ts";
import { ropeRange } from "../../ops/rope.ts";
import { encodeTensorMap } from "../../tensor/tensor-map.ts";
import { dtypeBytes, dtypeCode, isFp8 } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { CudaVariant } from "../../variant/emit-cuda.ts";
import type { ResolvedOptions } from "../options.ts";
import { cudaVariant } from "../variant/cuda.ts";
import { liesApart, operandType, optionConstants } from "./cuda.ts";
import type { DeviceFacts, KernelClass, KernelFamily, KernelOffer } from "./family.ts";
import {
  boxRows,
  changingCuts,
  type Cut,
  cuts,
  fp8Cuts,
  hookedKeysMost,
  fewRowsCuts,
  invariantCut,
  kibibytes,
  pairedCut,
  panelColumns,
  plainCuts,
  rowsOf,
  splitCut,
  turningCuts,
} from "./hopper-cuts.ts";
import { tiled } from "./tiled.ts";

/**
 * Many query rows on Hopper (9.0), by warpgroup-wide products and bulk copies
 * (kernels/attention/hopper); requests of few rows go to the tiled kernels.
 */
export const hopper: KernelFamily = { name: "hopper", offer };

/**
 * An H200's processor computes about 5.0e12 operations per second, and its share of the memory's
 * rate is 34 GB/s: 4 operations for each element of a row, 4 bytes for each of a key and value.
 */
const rowsPerKey = 147;
/** Half the bytes, at about 1.3 times the rate. */
const fp8RowsPerKey = 96;
/** Tiles of fp8 whose products the tensor cores sum before f32 does, and by fastAccumulation. */
const [sumTiles, fastSumTiles] = [5, 16];
/**
 * The classes that take decodes with a shared prefix in one launch, as runs of both ways say
 * (docs/kernels/hopper.md): a key takes 8.7 ns for each tile of 64 rows, 15 of 128, and launches in
 * turn take 21 and 15 us more.
 */
const paired = { rowsPerKey: 110, pieceKeys: 128, launchKeys: 1400 };
const alone = { rowsPerKey: 129, pieceKeys: 256, launchKeys: 1000 };
const panelRowBytes = 128;

function offer(facts: DeviceFacts, options: ResolvedOptions): KernelOffer | OptionError {
  const refused = refusal(facts, options);
  if (refused !== undefined) return refused;
  const { headDim, valueDim } = options;
  const variant = cudaVariant(options);
  if (variant?.multiplies.query || variant?.multiplies.output)
    return refuse("variant", options.variant!.name, "without products of rows");
  const asked = askedBy(options, variant);
  const still = asked.fp8Products ? fp8Cuts : cuts;
  const fits = asked.rawKeyBytes > 0 ? changingCuts : asked.turnedPairs > 0 ? turningCuts : still;
  const plain = fits === cuts && variant === undefined && !asked.noted && !options.batchInvariant;
  const cut = (plain ? [...plainCuts, ...cuts] : fits)
    .map((each) => (options.batchInvariant ? invariantCut(each) : each))
    .filter(({ kvTile }) => kvTile <= hookedKeysMost || !asked.hooked || fits === cuts)
    .filter((each) => each.keyDim === headDim && each.valueDim === valueDim)
    .find((each) => sharedBytesOf(each, asked) <= facts.sharedBytesPerBlock);
  if (cut === undefined) {
    const allowed = fits.map((each) => `${each.keyDim}/${each.valueDim}`).join(", ");
    return refuse("headDim", `${headDim}/${valueDim}`, allowed);
  }
  const others = tiled.offer(facts, options);
  if (others instanceof OptionError) return others;
  const made = (each: Cut) => kernelClass(each, options, asked, variant?.attention);
  const small = plain ? fewRowsCuts(cut) : [];
  const rows = [...small, cut].map((each) => withSplit(each, made));
  // Requests of up to 64 rows of wide heads stay there.
  const least = Math.min(64 * Math.max(2, cut.groups), rows[0].queryTile);
  const smaller = others.classes.filter(({ queryTile }) => queryTile < least);
  const known = plain && takesTogether(options) ? withCascades(rows, cut, options, asked) : rows;
  return { ...others, classes: [...smaller, ...known] };
}

/** Why these kernels do not take the options there, if they do not. */
function refusal(facts: DeviceFacts, options: ResolvedOptions): OptionError | undefined {
  const { computeMajor, computeMinor } = facts;
  const { kvDtype } = options;
  const operands = operandType(options);
  if (computeMajor !== 9) {
    return refuse("device", `compute ${computeMajor}.${computeMinor}`, "compute 9.0");
  }
  if (dtypeBytes(operands) !== 2 || (kvDtype !== operands && !isFp8(kvDtype))) {
    return refuse("kvDtype", kvDtype, "f16 or bf16, as the queries, or fp8");
  }
  // Rows see a range of tokens: positions that are places ascend. Boxes are of one tensor.
  const apart = liesApart(options);
  if (apart !== undefined) return refuse(...apart);
  // f16 holds probabilities times scales relative to the largest scale so far, of any row.
  if (options.tokenScales && operands === "f16" && options.batchInvariant) {
    return refuse("tokenScales", true, "false in f16 under batchInvariant");
  }
  return undefined;
}

/**
 * Whether products are of fp8: nothing turns or changes what they take, probabilities meet no scale
 * that fp8 does not hold, and sums of a few tiles may begin at whichever tile a record's rows see.
 */
function multipliesFp8(options: ResolvedOptions, variant: CudaVariant | undefined): boolean {
  const { dtype, kvDtype, headDim, valueDim, rope, tokenScales } = options;
  const isE4m3 = dtype === "f8e4m3" && kvDtype === "f8e4m3";
  const hooks = ["query", "key", "value"] as const;
  const changes = rope !== undefined || hooks.some((hook) => variant?.hooks.has(hook) === true);
  const weighs = tokenScales || variant?.softmax === false;
  const may = !changes && !weighs && !options.batchInvariant;
  return isE4m3 && headDim === 128 && valueDim === 128 && may;
}

function refuse(option: string, value: unknown, allowed: string): OptionError {
  const fix = "use kernels of another family, or a GPU of compute capability 9.0.";
  return new OptionError(option, value, `${allowed} for the Hopper kernels`, fix);
}

/** What options ask of shared memory beside the tiles. */
interface Asked {
  /** Mask bits lie somewhere for each row. */
  readonly masked: boolean;
  /** A hook of logits or masks. */
  readonly hooked: boolean;
  /** 32-bit words that hooks keep of a row. */
  readonly rowWords: number;
  /** Pairs of a key that turn; 0 without rotation. */
  readonly turnedPairs: number;
  /** Tiles are noted: positions, slots and scales of their keys. */
  readonly noted: boolean;
  /** Products are of fp8. */
  readonly fp8Products: boolean;
  /** Rows have scales: those of fp8 queries. */
  readonly scalesRows: boolean;
  /** Bytes of an element of keys and values that are changed on their way; 0: they are not. */
  readonly rawKeyBytes: number;
  readonly rawValueBytes: number;
}

function askedBy(options: ResolvedOptions, variant: CudaVariant | undefined): Asked {
  const { rope, headDim, dtype, kvDtype } = options;
  const rotates = rope !== undefined;
  const masked = options.mask !== "none";
  const hooked = variant?.hooks.has("logits") === true || variant?.hooks.has("mask") === true;
  const weighs = variant?.softmax === false;
  const fp8Products = multipliesFp8(options, variant);
  const widens = kvDtype !== operandType(options) && !fp8Products;
  const hooksValues = variant?.hooks.has("value") === true;
  const hooksKeys = hooksValues || variant?.hooks.has("key") === true;
  return {
    fp8Products,
    scalesRows: isFp8(dtype),
    rawKeyBytes: widens || hooksKeys ? dtypeBytes(kvDtype) : 0,
    rawValueBytes: widens || hooksValues ? dtypeBytes(kvDtype) : 0,
    masked,
    hooked,
    turnedPairs: rotates ? ropeRange(rope, headDim).dim / 2 : 0,
    rowWords: variant?.rowWords ?? 0,
    noted: masked || options.tokenScales || hooked || weighs || hooksKeys || rotates,
  };
}

function kernelClass(
  cut: Cut,
  options: ResolvedOptions,
  asked: Asked,
  variant: string | undefined,
): KernelClass {
  const { kvTile, groups, valueGroups, cluster, keysMost, promptsOnly } = cut;
  const changes = asked.rawKeyBytes > 0 || asked.turnedPairs > 0 || asked.fp8Products;
  const threads = 128 * (groups + valueGroups + (changes ? 2 : 1));
  const sharedBytes = sharedBytesOf(cut, asked);
  const products = `fp8${options.fastAccumulation ? "-fast" : ""}.`;
  const kind = `${asked.fp8Products ? products : ""}${promptsOnly ? "short" : "tile"}`;
  return {
    name: `hopper.${kind}${rowsOf(cut)}`,
    queryTile: rowsOf(cut),
    kvTile,
    cluster,
    blocksPerProcessor: cut.blocks,
    keysMost,
    promptsOnly,
    schedule: "share",
    take: "few-heads",
    rowsPerKey: asked.fp8Products ? fp8RowsPerKey : rowsPerKey,
    entry: "attention_hopper",
    image: {
      source: `attention/hopper/${valueGroups > 0 ? "wide" : "prefill"}.cu`,
      constants: {
        ...constantsOf(cut, options, asked),
        FB_THREADS: threads,
        FB_SHARED_BYTES: sharedBytes,
      },
      variant,
    },
    launch: { threads, sharedBytes, persistent: true, programmatic: true },
    bindMaps: ({ k, v }, { headDim, valueDim }, maps) => {
      bindPlane(k, headDim, cut, asked.rawKeyBytes > 0, maps.k);
      bindPlane(v, valueDim, cut, asked.rawValueBytes > 0, maps.v);
    },
  };
}

/** A class of the cut, with a kernel for few tiles where there is one. */
function withSplit(cut: Cut, made: (cut: Cut) => KernelClass): KernelClass {
  const split = splitCut(cut);
  if (split === undefined) return made(cut);
  const { entry, image, launch, kvTile, cluster } = made(split);
  const few = { kvTile, cluster, over: 2 / 3 };
  return { ...made(cut), few, fewKernel: { entry, image, launch } };
}

/** Whether plans may put all tiles into one class: not those of unknown lengths. */
function takesTogether({ graph, deviceLengths }: ResolvedOptions): boolean {
  return !deviceLengths && (graph === undefined || graph.sharedPrefix === true);
}

/** The classes, behind those of 64 and 128 rows others that take decodes with a shared prefix. */
function withCascades(
  rows: readonly KernelClass[],
  cut: Cut,
  options: ResolvedOptions,
  asked: Asked,
): readonly KernelClass[] {
  const half = pairedCut(cut);
  if (half === undefined) return rows;
  const [few, more, ...others] = rows;
  const pair = cascadeOf(kernelClass(half, options, asked, undefined), paired);
  return [few, pair, more, cascadeOf(more, alone), ...others];
}

/** Every tile costs what all of its rows do, however few a record has. */
function cascadeOf(row: KernelClass, { rowsPerKey, pieceKeys, launchKeys }: typeof paired) {
  return {
    ...row,
    name: `hopper.cascade${row.queryTile}`,
    take: "longest-first",
    rowsPerKey,
    costs: { pieceKeys, rowKeys: 0 },
    together: { launchKeys },
  } as const;
}

function constantsOf(cut: Cut, options: ResolvedOptions, { fp8Products }: Asked) {
  const tiles = options.fastAccumulation ? fastSumTiles : sumTiles;
  return {
    ...optionConstants(options),
    FB_QUERY_TILE: rowsOf(cut),
    FB_KV_TILE: cut.kvTile,
    FB_MIN_BLOCKS: cut.blocks,
    FB_CLUSTER: cut.cluster,
    FB_STAGES: cut.stages,
    FB_RAW_STAGES: cut.rawStages,
    FB_QUERY_BUFFERS: cut.queryBuffers,
    FB_QUERIES_KEPT: cut.keepsQueries ? 1 : 0,
    ...(cut.splitsKeys ? { FB_SPLIT_KEYS: 1 } : {}),
    ...(cut.valueGroups > 0 ? { FB_VALUE_GROUPS: cut.valueGroups } : {}),
    ...(fp8Products ? { FB_Q_TYPE: dtypeCode("f8e4m3"), FB_SUM_TILES: tiles } : {}),
    FB_INVARIANT: options.batchInvariant ? 1 : 0,
  };
}

/** Shared memory of kernels/attention/hopper/facts.h. */
function sharedBytesOf(cut: Cut, asked: Asked): number {
  const { masked, turnedPairs, rowWords, noted, fp8Products, rawKeyBytes, rawValueBytes } = asked;
  const { keyDim, valueDim, kvTile, groups, valueGroups, stages, queryBuffers } = cut;
  const panels = (dim: number) => Math.ceil(dim / (fp8Products ? panelRowBytes : panelColumns));
  const rows = 64 * groups;
  const queries = queryBuffers * panels(keyDim) * rows * panelRowBytes;
  // Values that are transposed have a row for each column.
  const valueRows = fp8Products ? valueDim : panels(valueDim) * kvTile;
  const tiles = stages * (panels(keyDim) * kvTile + valueRows) * panelRowBytes;
  // Probabilities, and rows' ends, on their way to those who multiply values.
  const passed = valueGroups > 0 ? kibibytes(rows * (panelRowBytes + 2 * 4 + 12) + 6 * 8) : 0;
  const longSums = fp8Products ? 4 * rows * valueDim : 0;
  // The second block's rows on their way to the first.
  const half = cut.splitsKeys ? 16 * 128 * (valueDim / 8 + 1) + 2 * 8 : 0;
  const raw = cut.rawStages * kvTile * (keyDim * rawKeyBytes + valueDim * rawValueBytes);
  const notes = noted ? stages * 16 * kvTile : 0;
  const positions = turnedPairs > 0 ? 4 * rows : 8;
  const words = Math.max(8, 4 * rowWords * rows);
  const scales = asked.scalesRows ? 4 * rows : 0;
  const rowFacts = 8 * rows + scales + positions + 16 * (masked ? rows : 1) + words;
  const tasks = 3 * (64 + 56) + 2 * (16 * groups + 8 + rowFacts);
  const barriers = 8 * (8 * stages + 13 + queryBuffers + 8);
  const inAll =
    queries + tiles + passed + raw + longSums + half + 16 * turnedPairs + notes + tasks + barriers;
  return kibibytes(inAll + 4 * 8); // of the mail
}

/**
 * The map of keys or values: [columns, rows, heads, pages], in boxes of a panel's columns, or of
 * whole rows where they land raw.
 */
function bindPlane(plane: Tensor, dim: number, cut: Cut, raw: boolean, map: TensorMap) {
  const bytes = dtypeBytes(plane.dtype);
  const paged = plane.shape.length === 4;
  const [pages, rows, heads] = paged ? plane.shape : [1, ...plane.shape];
  const [pageStride, rowStride, headStride] = paged ? plane.strides : [0, ...plane.strides];
  encodeTensorMap(
    plane.device,
    {
      address: plane.address,
      dtype: plane.dtype,
      extents: [dim, rows, heads, pages],
      strides: [bytes * rowStride, bytes * headStride, bytes * pageStride],
      box: [raw ? dim : panelRowBytes / bytes, paged ? boxRows(rows, cut) : cut.kvTile, 1, 1],
      swizzleBytes: raw ? 0 : 128,
    },
    map,
  );
}
