import { OptionError, PlanError } from "../errors.ts";
import type { Batch } from "../kv/batch.ts";
import { Division } from "./beside.ts";
import { type CostModel, defaultCosts } from "./cost.ts";
import { Emitter } from "./emit.ts";
import { IntList, pieceInts, Tile, tileInts } from "./list.ts";
import { Intervals } from "./merges.ts";
import { checkPlannerOptions, type PlannerOptions } from "./options.ts";
import { PieceOrder } from "./order.ts";
import { Packing } from "./pack.ts";
import type { Plan } from "./plan.ts";
import { cutAtMultiples, cutToShare } from "./share.ts";
import { classOfShort, largestClass } from "./short.ts";
import { Tiles } from "./tiles.ts";
import { classOfAll } from "./together.ts";
import { anyClass, placesOf } from "./traits.ts";
import { shareOf, walk } from "./walk.ts";
import { leaveWhole, Makespan, takeBack } from "./whole.ts";
import { bucketsOf, columnCapacity, graphLevels, invariantChunk } from "./workspace.ts";

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
  /** By class, for a walk or shares. */
  readonly #classCosts: readonly CostModel[];
  readonly #tiles: Tiles;
  readonly #pieces = new IntList(pieceInts, 256);
  readonly #intervals = new Intervals();
  readonly #order: PieceOrder;
  readonly #makespan: Makespan;
  readonly #packing: Packing;
  readonly #emitter: Emitter;
  readonly #division: Division;
  readonly #buckets: number[];
  readonly #group: number;
  /** Places where records of each class run at once. */
  readonly #places: number[];
  /** Of them, those that the walk of one KV head is cut for; 0: heads are walked in turn. */
  readonly #headPlaces: number[];
  /** The same where tiles are few, and processors have a block each. */
  readonly #fewPlaces: number[];
  readonly #fewHeadPlaces: number[];
  /** Tiles of each class in the step. */
  readonly #tileCounts: Int32Array;
  /** A class may take all tiles of a step with a shared prefix. */
  readonly #together: boolean;
  readonly #range = { ...anyClass };

  /** Errors: OptionError. */
  constructor(options: PlannerOptions) {
    checkPlannerOptions(options);
    this.options = options;
    this.#costs = options.costs ?? defaultCosts;
    const { queryHeads, kvHeads, classes, graph } = options;
    this.#classCosts = classes.map((traits) => ({ ...this.#costs, ...traits.costs }));
    this.#group = queryHeads / kvHeads;
    this.#tiles = new Tiles({
      classes,
      group: this.#group,
      kvHeads,
      causal: options.causal ?? false,
      mask: options.mask ?? "none",
      deviceLengths: options.deviceLengths ?? false,
      batchInvariant: options.batchInvariant ?? false,
      hookMasks: options.hookMasks ?? false,
      visible: options.visible,
      columnsMost: columnCapacity(options),
    });
    this.#places = classes.map((traits) => placesOf(traits, options.processors));
    // Whole tiles have a place each, however heads are walked.
    this.#headPlaces = this.#places.map((places, c) =>
      classes[c].shortRequests === undefined ? replicas(kvHeads, places) : places,
    );
    this.#fewPlaces = classes.map(({ few }) =>
      placesOf({ blocksPerProcessor: 1, cluster: few?.cluster ?? 1 }, options.processors),
    );
    this.#fewHeadPlaces = this.#fewPlaces.map((places) => replicas(kvHeads, places));
    this.#tileCounts = new Int32Array(classes.length);
    this.#together = classes.some(({ together }) => together !== undefined);
    this.#order = new PieceOrder(classes.length);
    this.#makespan = new Makespan(Math.max(...this.#places));
    this.#packing = new Packing(this.#tiles.list, Math.max(...this.#places));
    this.#emitter = new Emitter(options, {
      tiles: this.#tiles,
      pieces: this.#pieces,
      order: this.#order,
      intervals: this.#intervals,
    });
    this.#division = new Division(classes, options.processors);
    this.#buckets = graph === undefined ? [] : bucketsOf(graph);
  }

  /**
   * Plans one batch, its sections in `into` if they fit there, with the window of the options or
   * another. The Plan is reused by the next call.
   * Errors: PlanError for a batch over the graph's sizes, OptionError for several levels under
   * batchInvariant.
   */
  plan(batch: Batch, into?: Int32Array, windowLeft = this.options.windowLeft ?? -1): Plan {
    const bucket = this.#bucketOf(batch);
    const { levels } = batch.layout;
    if (this.options.batchInvariant && levels.length > 1) {
      const fix = "plan without shared prefixes, or without batchInvariant.";
      throw new OptionError("batch.layout.levels", levels.length, "1 under batchInvariant", fix);
    }
    let apart = this.#headPlaces.includes(0) && !this.options.batchInvariant;
    for (let l = 0; l < levels.length; l++) apart ||= levels[l].perHead;
    this.#choose(batch, bucket, windowLeft);
    this.#tiles.build(batch, apart, windowLeft, this.#range);
    // A graph's grids are those of any step.
    const part = bucket > 0 ? 0 : this.#division.partOf(this.#tiles.list, this.#copies(apart));
    this.#seeFew(bucket, apart, part > 0);
    this.#cut(apart, part);
    this.#intervals.sweep(this.#tiles, batch.tokenCount * this.#group);
    const plan = this.#emitter.emit(batch, bucket, into);
    if (part > 0) this.#division.limit(part, plan.launches);
    return plan;
  }

  /** Which classes the step's tiles may be in. */
  #choose(batch: Batch, bucket: number, windowLeft: number): void {
    const all = this.#classOfAll(batch, bucket, windowLeft);
    this.#range.least = Math.max(0, all);
    this.#range.most = all >= 0 ? all : largestClass(batch, this.options, windowLeft);
  }

  /**
   * The class of all tiles, -1: each has that of its rows. A graph launches every class anyway, and
   * of windows and unknown lengths too little is known here.
   */
  #classOfAll(batch: Batch, bucket: number, windowLeft: number): number {
    const { batchInvariant, deviceLengths } = this.options;
    if (batchInvariant) return this.options.classes.length - 1;
    if (bucket > 0 || deviceLengths) return -1;
    const short = classOfShort(batch, this.options, windowLeft);
    if (short >= 0 || !this.#together || windowLeft >= 0) return short;
    return classOfAll(batch, this.options);
  }

  /**
   * Notes of which classes there are few tiles, each of so many records; of a graph's step, which
   * launches as any step of its bucket does, requests count. More warps sum in another order.
   * Where others have a part of the processors to themselves, two small blocks read more.
   */
  #seeFew(bucket: number, apart: boolean, divided: boolean): void {
    const { classes, processors, kvHeads, batchInvariant } = this.options;
    const { data, length } = this.#tiles.list;
    this.#tileCounts.fill(0);
    for (let t = 0; t < length; t++) this.#tileCounts[data[t * tileInts + Tile.kernelClass]]++;
    for (let c = 0; c < classes.length; c++) {
      const launch = this.#emitter.plan.launches[c];
      const places = this.#fewPlaces[c];
      launch.few = false;
      // Heads that follow one schedule need places of their own: with none nothing would be cut.
      const cuts = apart || this.#fewHeadPlaces[c] > 0;
      const { few } = classes[c];
      if (few === undefined || batchInvariant || !cuts || divided) continue;
      const records = bucket > 0 ? kvHeads * bucket : this.#tileCounts[c] * this.#copies(apart);
      // Fewer are cut anyway.
      launch.few = records <= processors && records > few.over * places;
    }
  }

  /**
   * Cuts the tiles into pieces and orders them; `apart`: those of each KV head; `part`: of the
   * processors, for those that compute, 0: they are not divided.
   */
  #cut(apart: boolean, part: number): void {
    const { classes, kvHeads, batchInvariant } = this.options;
    const pieces = this.#pieces;
    const { list } = this.#tiles;
    pieces.clear();
    if (batchInvariant) {
      // Every tile is of the last class.
      for (let c = 0; c < classes.length - 1; c++) this.#order.asMade(pieces, c, 0);
      cutAtMultiples(list, pieces, invariantChunk, this.#costs);
      this.#order.heaviestFirst(pieces, classes.length - 1, 0);
      return;
    }
    for (let c = 0; c < classes.length; c++) {
      const { schedule, take, few } = classes[c];
      const costs = this.#classCosts[c];
      const isFew = this.#emitter.plan.launches[c].few;
      const kvTile = isFew ? few!.kvTile : classes[c].kvTile;
      const ownPlaces = isFew ? this.#fewPlaces[c] : this.#places[c];
      const ofHead = isFew ? this.#fewHeadPlaces[c] : this.#headPlaces[c];
      const places = part > 0 ? this.#division.placesOf(c, part) : ownPlaces;
      const dividedOfHead = Math.max(1, Math.floor(places / kvHeads));
      const headPlaces = apart ? places : part > 0 ? dividedOfHead : ofHead;
      const first = pieces.length;
      if (schedule === "share") {
        // Few tiles have a place each: only those that are longer than most are cut.
        const records = this.#tileCounts[c] * this.#copies(apart);
        const most = isFew ? Math.min(places, records) : places;
        cutToShare(list, pieces, c, kvTile, most, this.#copies(apart), costs);
      } else if (schedule === "walk" || !this.#cutsLittle(c, headPlaces)) {
        walk(list, pieces, c, kvTile, headPlaces, costs);
      }
      if (take === "as-made") this.#order.asMade(pieces, c, first);
      else this.#order.heaviestFirst(pieces, c, first);
    }
  }

  /** Records of a tile: one for each KV head, unless tiles are of one head each. */
  #copies(apart: boolean): number {
    return apart ? 1 : this.options.kvHeads;
  }

  /**
   * Makes pieces of a class's whole tiles, unless an even share would end earlier by more than
   * cutting costs; then packs them. False: a walk is better.
   */
  #cutsLittle(c: number, places: number): boolean {
    const pieces = this.#pieces;
    const costs = this.#classCosts[c];
    const first = pieces.length;
    const total = leaveWhole(this.#tiles.list, pieces, c, costs);
    this.#order.heaviestFirst(pieces, c, first);
    const last = this.#makespan.of(places, pieces, this.#order.pieces, first, pieces.length);
    if (last <= shareOf(costs, total, places) + (costs.splitKeys ?? 0)) return true;
    takeBack(this.#tiles.list, pieces, first);
    return this.#packing.pack(pieces, c, this.options.classes[c].kvTile, places, costs);
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
        `the batch has ${levels.length} levels, a graph holds ${graphLevels}; ` +
          "nothing was changed. " +
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
 * Places for each KV head when all follow one schedule: places / heads where that keeps nearly all
 * busy, else 0.
 */
function replicas(heads: number, places: number): number {
  const each = Math.max(1, Math.floor(places / heads));
  const rounds = Math.ceil((heads * each) / places);
  return (heads * each) / (rounds * places) >= 1 - wasteMost ? each : 0;
}
