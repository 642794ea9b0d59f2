import { PlanError } from "../errors.ts";
import type { GraphSizes, PlannerOptions } from "./options.ts";
import { attentionRecordInts, mergeRecordInts } from "./record.gen.ts";
import { sectionUnit } from "./sections.ts";
import { type ClassTraits, placesOf } from "./traits.ts";

/** Levels that a captured step may have: a shared prefix and the rest. */
export const graphLevels = 2;

/** Bytes of `rows` partial rows: value_dim + 1 floats each (output and log-sum-exp). */
export function partialBytes(rows: number, valueDim: number): number {
  return rows * (valueDim + 1) * 4;
}

/**
 * Partial rows that no batch of one level exceeds: each place leaves at most two pieces of split
 * tiles. A batch of several levels adds a partial row for every packed row and level, for which a
 * graph has room.
 */
export function boundRows({ classes, processors, graph, queryHeads }: PlannerOptions): number {
  let rows = 0;
  for (const traits of classes)
    if (!traits.together && !traits.shortRequests)
      rows += 2 * placesOf(traits, processors) * traits.queryTile;
  return graph === undefined ? rows : rows + graphLevels * graph.maxQueryTokens * queryHeads;
}

/** Partial rows of any step under batchInvariant and a graph. */
export function invariantRows(options: PlannerOptions, blockSize: number): number {
  const graph = options.graph!;
  return graph.maxQueryTokens * options.queryHeads * chunksOf(graph, blockSize);
}

/** Records that a step of `batch` requests can have in one class, under the graph's sizes. */
export function recordCapacity(
  options: PlannerOptions,
  traits: ClassTraits,
  batch: number,
  blockSize: number,
): number {
  const { kvHeads, processors, batchInvariant } = options;
  const tiles = tilesOf(options, traits, batch);
  if (batchInvariant) return kvHeads * tiles * chunksOf(options.graph!, blockSize);
  return kvHeads * graphLevels * tiles + 2 * placesOf(traits, processors);
}

/**
 * Merges that such a step can have: rows part where a token's begin, of those tokens with which a
 * level's row begins or ends, and where a tile begins within a row.
 */
export function mergeCapacity(options: PlannerOptions, batch: number): number {
  const { kvHeads, graph } = options;
  let parts = Math.min(tokensOf(graph!, batch), 2 * graphLevels * batch);
  for (const traits of options.classes)
    parts += graphLevels * (tilesOf(options, traits, batch) - batch);
  return kvHeads * parts;
}

/** Ints of a plan from its records on that a graph has room for, whatever the plan's bucket. */
export function graphInts(options: PlannerOptions, blockSize: number): number {
  const { maxBatch } = options.graph!;
  let records = 0;
  for (const traits of options.classes)
    records += recordCapacity(options, traits, maxBatch, blockSize);
  const merges = Math.min(records, mergeCapacity(options, maxBatch));
  const sections = [records * attentionRecordInts, merges * mergeRecordInts, 2 * records];
  const ints = sections.reduce((sum, section) => sum + section + sectionUnit, 0);
  return ints + columnCapacity(options);
}

/** Tiles of one class and level, for each KV head. */
function tilesOf(options: PlannerOptions, { queryTile }: ClassTraits, batch: number): number {
  const { queryHeads, kvHeads, graph } = options;
  return batch + Math.ceil((tokensOf(graph!, batch) * (queryHeads / kvHeads)) / queryTile);
}

function tokensOf({ maxQueryTokens, maxQueryLength = maxQueryTokens }: GraphSizes, batch: number) {
  return Math.min(maxQueryTokens, batch * maxQueryLength);
}

/** Merges that kernels can count: a plan of more has a launch that merges. */
export const countedMerges = 32_704;

/** Errors: PlanError for more records or merges than the graph's grid holds. */
export function requireRoom(needed: number, grid: number): void {
  if (needed <= grid) return;
  throw new PlanError(
    `the batch needs ${needed} records or merges, the graph's grid holds ${grid}. ` +
      "Fix: create with a larger graph, or split the batch.",
  );
}

/** Keys of a batch-invariant chunk: pieces start at its absolute multiples. */
export const invariantChunk = 2048;

/** Batch-invariant chunks that a row of the graph's most columns has; a window adds one. */
function chunksOf(sizes: GraphSizes, blockSize: number): number {
  return Math.ceil((sizes.maxColumns * blockSize) / invariantChunk) + 1;
}

/** Most ints of columns that a graph has room for: they are the last part of what is uploaded. */
const graphColumns = 1 << 18;

/**
 * Ints that the columns of narrowed tiles may take: under a graph as many as all its tiles of the
 * first class can list, and at most 1 MiB; else any.
 */
export function columnCapacity({ graph, visible }: PlannerOptions): number {
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
