import { type ClassTraits, placesOf } from "./traits.ts";

/** Graph sizes: what fixes a plan's sections, grids and addresses. */
export interface GraphSizes {
  readonly maxBatch: number;
  readonly maxQueryTokens: number;
  /** Most new tokens of one request; default maxQueryTokens. */
  readonly maxQueryLength?: number;
  readonly maxColumns: number;
  readonly buckets?: readonly number[];
}

/** Levels that a captured step may have: a shared prefix and the rest. */
export const graphLevels = 2;

/** Bytes of `rows` partial rows: value_dim + 1 floats each (output and log-sum-exp). */
export function partialBytes(rows: number, valueDim: number): number {
  return rows * (valueDim + 1) * 4;
}

/**
 * Partial rows that no batch of one level exceeds: each processor leaves at most two pieces of
 * split tiles. A batch of several levels adds a partial row for every packed row and level.
 */
export function boundRows(classes: readonly ClassTraits[], processors: number): number {
  let rows = 0;
  for (const traits of classes) rows += 2 * placesOf(traits, processors) * traits.queryTile;
  return rows;
}

/**
 * Records that a step of `batch` requests can have in one class, under the graph's sizes; `chunks`
 * is how many pieces a tile may have under batchInvariant, else 0.
 */
export function recordCapacity(
  traits: ClassTraits,
  sizes: GraphSizes,
  batch: number,
  units: number,
  packedHeads: number,
  processors: number,
  chunks: number,
): number {
  const tiles = tilesOf(traits, sizes, batch, packedHeads);
  if (chunks > 0) return units * tiles * chunks;
  return units * graphLevels * tiles + 2 * placesOf(traits, processors);
}

/** Merges that such a step can have of one class: rows part where a tile starts or ends. */
export function mergeCapacity(
  traits: ClassTraits,
  sizes: GraphSizes,
  batch: number,
  units: number,
  packedHeads: number,
): number {
  return 2 * units * graphLevels * tilesOf(traits, sizes, batch, packedHeads);
}

function tilesOf(
  traits: ClassTraits,
  sizes: GraphSizes,
  batch: number,
  packedHeads: number,
): number {
  return batch + Math.ceil((sizes.maxQueryTokens * packedHeads) / traits.queryTile);
}

/** Keys of a batch-invariant chunk: pieces start at its absolute multiples. */
export const invariantChunk = 2048;

/** Batch-invariant chunks that a row of the graph's most columns has; a window adds one. */
export function chunksOf(sizes: GraphSizes, blockSize: number): number {
  return Math.ceil((sizes.maxColumns * blockSize) / invariantChunk) + 1;
}

/** Most ints of columns that a graph has room for: they are the last part of what is uploaded. */
const graphColumns = 1 << 18;

/**
 * Ints that the columns of narrowed tiles may take: under a graph as many as all its tiles of the
 * first class can list, and at most 1 MiB; else any.
 */
export function columnCapacity(options: {
  readonly graph?: GraphSizes;
  readonly visible?: unknown;
}): number {
  const { graph, visible } = options;
  if (visible === undefined) return 0;
  if (graph === undefined) return 0x7fffffff;
  const tiles = graphLevels * (graph.maxBatch + graph.maxQueryTokens);
  return Math.min(graphColumns, tiles * graph.maxColumns);
}

/** The buckets of a graph: those given, else powers of two up to the largest batch. */
export function bucketsOf(sizes: GraphSizes): number[] {
  const buckets = [...(sizes.buckets ?? [])].sort((a, b) => a - b);
  for (let size = 1; sizes.buckets === undefined && size < sizes.maxBatch; size *= 2)
    buckets.push(size);
  if (buckets.at(-1) !== sizes.maxBatch) buckets.push(sizes.maxBatch);
  return buckets.filter((size) => size <= sizes.maxBatch);
}
