import { OptionError, PlanError, requireInteger } from "../errors.ts";
import type { Batch } from "../kv/batch.ts";
import type { Visible } from "../variant/variant.ts";
import { type CostModel, defaultCosts } from "./cost.ts";
import { Emitter } from "./emit.ts";
import { IntList, pieceInts } from "./list.ts";
import { Intervals } from "./merges.ts";
import { PieceOrder } from "./order.ts";
import { cutAtMultiples, cutToShare } from "./schedule.ts";
import { Tiles } from "./tiles.ts";
import { type ClassTraits, placesOf } from "./traits.ts";
import { walk } from "./walk.ts";
import {
  boundRows,
  bucketsOf,
  columnCapacity,
  graphLevels,
  type GraphSizes,
  invariantChunk,
} from "./workspace.ts";

/** What a planner is made for; everything else comes with the batch. */
export interface PlannerOptions {
  readonly queryHeads: number;
  readonly kvHeads: number;
  /** Elements of a key head and of a value head. */
  readonly keyDim: number;
  readonly valueDim: number;
  readonly kvElementBytes: number;
  /** Threads of a CPU, multiprocessors of a GPU. */
  readonly processors: number;
  readonly causal?: boolean;
  /** Keys before a query's own position that it sees; -1: all. */
  readonly windowLeft?: number;
  readonly mask?: "none" | "all" | "tail";
  readonly batchInvariant?: boolean;
  /** Lengths are known only on the device; those of the batch are upper bounds. */
  readonly deviceLengths?: boolean;
  /** A variant's mask decides about the pairs that `visible` does not call full: without it all. */
  readonly hookMasks?: boolean;
  /** Narrows the keys of each tile, unless lengths are known only on the device. */
  readonly visible?: Visible;
  /** Kernel classes by rising query tile. */
  readonly classes: readonly ClassTraits[];
  readonly graph?: GraphSizes;
  readonly costs?: CostModel;
}

/** One kernel launch of a plan: records [firstRecord, firstRecord + recordCount). */
export interface PlanLaunch {
  kernelClass: string;
  firstRecord: number;
  recordCount: number;
  /** Items launched: recordCount, or more under a graph (the rest are empty records). */
  grid: number;
}

/** Where each section starts in `sections`, in int32 units, multiples of 16. */
export interface PlanOffsets {
  positions: number;
  tokenRequests: number;
  queryIndptr: number;
  kvLengths: number;
  records: number;
  merges: number;
  parts: number;
  columns: number;
}

/** A schedule as data: one block of int32 for the device, launches, and exact sizes. Reused. */
export interface Plan {
  /** Raised by every plan. */
  generation: number;
  /** Generation of the planned batch. */
  batchGeneration: number;
  sections: Int32Array;
  /** Ints of `sections` that are valid. */
  sectionInts: number;
  /** Ints that the device needs room for: under a graph those of any step. */
  capacityInts: number;
  offsets: PlanOffsets;
  launches: PlanLaunch[];
  recordCount: number;
  mergeCount: number;
  /** Items of the merge launch; 0 without split rows, fixed under a graph. */
  mergeGrid: number;
  /** Rows of partial state, and how many the workspace is laid out for. */
  partialRows: number;
  partialCapacity: number;
  /** Exact bytes of partial state: partialCapacity x (valueDim + 1) x 4. */
  workspaceBytes: number;
  /** Bytes that no batch of one level exceeds (batchInvariant excepted). */
  boundBytes: number;
  /** Batch size of the graph bucket, 0 without a graph. */
  bucket: number;
}

/** A schedule replicated over processors may leave at most this part of them idle: about 3 %. */
const wasteMost = 1 / 32;

/**
 * Plans batches: packs query heads, counts visible keys, cuts the work for the processors and lists
 * records and merges (FlashInfer, MLSys 2025, section 3.3.1; Stream-K for the contiguous walk,
 * arXiv 2301.03598). Pure: the same batch gives the same plan. Makes no garbage once warm.
 */
export class Planner {
  readonly options: PlannerOptions;
  readonly #costs: CostModel;
  readonly #tiles: Tiles;
  readonly #pieces = new IntList(pieceInts, 256);
  readonly #intervals = new Intervals();
  readonly #order: PieceOrder;
  readonly #emitter: Emitter;
  readonly #buckets: number[];
  readonly #packedHeads: number;
  readonly #units: number;
  /** Places where records of each class run at once. */
  readonly #places: number[];
  /** Of them, those that the walk of one unit is cut for; 0: units are walked one after another. */
  readonly #unitPlaces: number[];
  readonly #plan: Plan;

  /** Errors: OptionError. */
  constructor(options: PlannerOptions) {
    checkPlannerOptions(options);
    this.options = options;
    this.#costs = options.costs ?? defaultCosts;
    const { queryHeads, kvHeads, classes, graph } = options;
    this.#packedHeads = queryHeads / kvHeads;
    this.#units = queryHeads / this.#packedHeads;
    this.#tiles = new Tiles({
      classes,
      packedHeads: this.#packedHeads,
      units: this.#units,
      kvHeads,
      causal: options.causal ?? false,
      windowLeft: options.windowLeft ?? -1,
      mask: options.mask ?? "none",
      deviceLengths: options.deviceLengths ?? false,
      batchInvariant: options.batchInvariant ?? false,
      hookMasks: options.hookMasks ?? false,
      visible: options.visible,
      columnsMost: columnCapacity(options),
    });
    this.#places = classes.map((traits) => placesOf(traits, options.processors));
    this.#unitPlaces = this.#places.map((places) => replicas(this.#units, places));
    this.#order = new PieceOrder(classes.length);
    this.#emitter = new Emitter(options, this.#packedHeads, this.#units);
    this.#buckets = graph === undefined ? [] : bucketsOf(graph);
    this.#plan = this.#emitter.emptyPlan(this.#boundRows());
  }

  /**
   * Plans one batch. The Plan is reused by the next call. Errors: PlanError for a batch over the
   * graph's sizes, OptionError for several levels under batchInvariant.
   */
  plan(batch: Batch): Plan {
    const bucket = this.#bucketOf(batch);
    const { levels } = batch.layout;
    if (this.options.batchInvariant && levels.length > 1) {
      const fix = "plan without shared prefixes, or without batchInvariant.";
      throw new OptionError("batch.layout.levels", levels.length, "1 under batchInvariant", fix);
    }
    let expanded = this.#unitPlaces.includes(0) && !this.options.batchInvariant;
    for (let l = 0; l < levels.length; l++) expanded ||= levels[l].perHead;
    this.#tiles.build(batch, expanded);
    this.#schedule(expanded);
    this.#intervals.sweep(this.#tiles, batch.tokenCount * this.#packedHeads);
    this.#emitter.emit(
      this.#plan,
      batch,
      this.#tiles,
      this.#pieces,
      this.#order,
      this.#intervals,
      bucket,
    );
    return this.#plan;
  }

  #schedule(expanded: boolean): void {
    const { classes, batchInvariant } = this.options;
    const pieces = this.#pieces;
    const { list } = this.#tiles;
    pieces.clear();
    if (batchInvariant) {
      // Every tile is of the last class.
      for (let c = 0; c < classes.length - 1; c++) this.#order.asMade(pieces, c, 0);
      cutAtMultiples(list, pieces, invariantChunk, this.#costs);
      this.#order.longestFirst(pieces, classes.length - 1, 0);
      return;
    }
    for (let c = 0; c < classes.length; c++) {
      const { schedule, take, kvTile } = classes[c];
      const places = this.#places[c];
      const first = pieces.length;
      if (schedule === "walk") {
        walk(list, pieces, c, kvTile, expanded ? places : this.#unitPlaces[c], this.#costs);
      } else {
        const units = expanded ? 1 : this.#units;
        cutToShare(list, pieces, c, kvTile, places, units, this.#costs);
      }
      if (take === "as-made") this.#order.asMade(pieces, c, first);
      else this.#order.longestFirst(pieces, c, first);
    }
  }

  #boundRows(): number {
    const { classes, processors, graph, queryHeads } = this.options;
    const rows = boundRows(classes, processors);
    return graph === undefined ? rows : rows + graphLevels * graph.maxQueryTokens * queryHeads;
  }

  /** The bucket's batch size, 0 without a graph. */
  #bucketOf(batch: Batch): number {
    const { graph } = this.options;
    if (graph === undefined) return 0;
    const { requestCount, paddedTokens, kvLengths, layout } = batch;
    const { maxBatch, maxQueryTokens, maxColumns } = graph;
    if (requestCount > maxBatch) throw overGraph("maxBatch", requestCount, maxBatch);
    if (paddedTokens > maxQueryTokens) {
      throw overGraph("maxQueryTokens", paddedTokens, maxQueryTokens);
    }
    const { queryIndptr } = batch;
    const { maxQueryLength = maxQueryTokens } = graph;
    for (let r = 0; r < requestCount; r++) {
      const length = queryIndptr[r + 1] - queryIndptr[r];
      if (length > maxQueryLength) throw overGraph("maxQueryLength", length, maxQueryLength);
    }
    let longest = 0;
    for (let r = 0; r < requestCount; r++) if (kvLengths[r] > longest) longest = kvLengths[r];
    const columns = Math.ceil(longest / layout.blockSize);
    if (columns > maxColumns) throw overGraph("maxColumns", columns, maxColumns);
    const { levels } = layout;
    if (levels.length > graphLevels) {
      throw new PlanError(
        `the batch has ${levels.length} levels, a graph holds ${graphLevels}; nothing was changed. ` +
          "Fix: share one prefix level, or plan without { graph }.",
      );
    }
    for (let l = 0; l < levels.length; l++) {
      if (levels[l].columns === null) continue;
      throw new PlanError("a sparse layout has no fixed sizes. Fix: plan it without { graph }.");
    }
    let bucket = 0;
    while (this.#buckets[bucket] < requestCount) bucket++;
    return this.#buckets[bucket];
  }
}

function overGraph(what: string, value: number, most: number): PlanError {
  return new PlanError(
    `the batch needs ${what} ${value}, the graph holds ${most}; nothing was changed. ` +
      `Fix: create with a larger graph.${what}, or split the batch.`,
  );
}

/**
 * Places for each unit when all units follow one schedule: places / units where that keeps nearly
 * all busy, else 0.
 */
function replicas(units: number, places: number): number {
  const each = Math.max(1, Math.floor(places / units));
  const rounds = Math.ceil((units * each) / places);
  return (units * each) / (rounds * places) >= 1 - wasteMost ? each : 0;
}

function checkPlannerOptions(options: PlannerOptions): void {
  const { queryHeads, kvHeads, classes, processors, graph } = options;
  requireInteger("kvHeads", kvHeads, 1);
  requireInteger("queryHeads", queryHeads, 1);
  requireInteger("processors", processors, 1);
  requireInteger("valueDim", options.valueDim, 1);
  if (queryHeads % kvHeads !== 0) {
    const fix = "give every KV head as many query heads.";
    throw new OptionError("queryHeads", queryHeads, `a multiple of kvHeads (${kvHeads})`, fix);
  }
  if (classes.length === 0) {
    throw new OptionError("classes", "none", "one class or more", "pass those of a device.");
  }
  if (graph === undefined) return;
  requireInteger("graph.maxBatch", graph.maxBatch, 1);
  requireInteger("graph.maxQueryTokens", graph.maxQueryTokens, 1);
  requireInteger("graph.maxColumns", graph.maxColumns, 1);
  if (graph.maxQueryLength !== undefined) {
    requireInteger("graph.maxQueryLength", graph.maxQueryLength, 1, graph.maxQueryTokens);
  }
  graph.buckets?.forEach((size) => requireInteger("graph.buckets", size, 1, graph.maxBatch));
}
