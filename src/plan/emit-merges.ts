import { Piece, pieceInts, Tile, tileInts } from "./list.ts";
import { Interval, intervalInts } from "./merges.ts";
import type { PlannerOptions } from "./options.ts";
import type { Plan } from "./plan.ts";
import { MergeRecordField as Field, mergeRecordInts } from "./record.gen.ts";
import type { Schedule } from "./schedule.ts";
import type { Sections } from "./sections.ts";
import { placesOf } from "./traits.ts";
import { countedMerges, mergeCapacity, requireRoom } from "./workspace.ts";

/** Writes the merges of split rows and their parts, once all records are written. */
export class MergeEmitter {
  readonly #options: PlannerOptions;
  readonly #schedule: Schedule;
  readonly #out: Sections;
  readonly #group: number;

  constructor(options: PlannerOptions, schedule: Schedule, out: Sections) {
    this.#options = options;
    this.#schedule = schedule;
    this.#out = out;
    this.#group = options.queryHeads / options.kvHeads;
  }

  /**
   * Whether the kernels of all split rows merge them (under a graph, those of any step): where rows
   * have few parts, since tiles, over all heads, are at least a quarter of what runs at once. One
   * block takes longer than a launch for many parts.
   */
  byKernels(requests: number, bucket: number): boolean {
    const { graph, classes, kvHeads, processors } = this.#options;
    if (4 * kvHeads * (bucket || requests) < placesOf(classes[0], processors)) return false;
    if (graph !== undefined) {
      const most = mergeCapacity(this.#options, bucket);
      return most <= countedMerges && classes.every(({ mergesRows }) => mergesRows);
    }
    const { tiles, intervals } = this.#schedule;
    if (intervals.merged.length * kvHeads > countedMerges) return false;
    const { data, length } = tiles.list;
    for (let at = 0; at < length * tileInts; at += tileInts) {
      if (data[at + Tile.partial] === 0) continue;
      if (!classes[data[at + Tile.kernelClass]].mergesRows) return false;
    }
    return true;
  }

  /** Errors: PlanError for more merges than the graph's bucket can have. */
  emit(plan: Plan): void {
    const out = this.#out;
    const { graph, kvHeads } = this.#options;
    const { merged } = this.#schedule.intervals;
    const each = this.#schedule.tiles.headGroups > 1 ? 1 : kvHeads;
    plan.mergeCount = merged.length * each;
    plan.mergeGrid = graph === undefined ? plan.mergeCount : this.#capacity(plan);
    requireRoom(plan.mergeCount, plan.mergeGrid);
    plan.offsets.merges = out.at;
    out.clearTo(out.at + plan.mergeGrid * mergeRecordInts);
    out.close(out.at);
    plan.offsets.parts = out.at;
    let at = plan.offsets.merges;
    // Those of a record's rows lie side by side.
    for (let h = 0; h < each; h++) {
      for (let i = 0; i < merged.length; i++, at += mergeRecordInts) {
        const head = merged.data[i * intervalInts + Interval.headGroup];
        this.#write(plan, at, i, each === 1 ? head : h, h);
      }
    }
    // A shared tile is in the merges of all its sharers, so parts may outnumber records.
    const least = graph === undefined ? 0 : 2 * plan.recordCount;
    out.clearTo(Math.max(out.at, plan.offsets.parts + least));
    out.close(out.at);
  }

  /** Merges that a plan of the graph's bucket has room for. */
  #capacity(plan: Plan): number {
    return Math.min(plan.recordCount, mergeCapacity(this.#options, plan.bucket));
  }

  /** The merge of an interval's rows of one KV head: the `replica`-th that its tiles serve. */
  #write(plan: Plan, at: number, interval: number, kvHead: number, replica: number): void {
    const out = this.#out;
    const { merged, tiles } = this.#schedule.intervals;
    const i = interval * intervalInts;
    const rowStart = merged.data[i + Interval.rowStart];
    const firstPart = out.at;
    const firstTile = merged.data[i + Interval.firstTile];
    for (let t = 0; t < merged.data[i + Interval.tileCount]; t++) {
      this.#writeParts(tiles.data[firstTile + t] * tileInts, rowStart, replica);
    }
    const { data } = out;
    data[at + Field.queryHeadStart] = kvHead * this.#group;
    data[at + Field.queryHeadCount] = this.#group;
    data[at + Field.rowStart] = rowStart;
    data[at + Field.rowCount] = merged.data[i + Interval.rowEnd] - rowStart;
    data[at + Field.partStart] = firstPart - plan.offsets.parts;
    data[at + Field.partCount] = out.at - firstPart;
  }

  /** The partial rows, in key order, at which a tile's pieces hold the interval's first row. */
  #writeParts(tile: number, rowStart: number, replica: number): void {
    const out = this.#out;
    const tiles = this.#schedule.tiles.list.data;
    const pieces = this.#schedule.pieces.data;
    const rows = tiles[tile + Tile.rowCount];
    const alike = tiles[tile + Tile.kvHead] < 0;
    const within = rowStart - tiles[tile + Tile.rowStart] + (alike ? replica * rows : 0);
    const first = tiles[tile + Tile.firstPiece];
    const count = tiles[tile + Tile.pieceCount];
    out.ensure(out.at + count);
    const { data, at } = out;
    for (let p = 0; p < count; p++) {
      data[at + p] = pieces[(first + p) * pieceInts + Piece.partialRow] + within;
    }
    out.at = at + count;
  }
}
