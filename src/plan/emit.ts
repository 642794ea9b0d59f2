import { PlanError } from "../errors.ts";
import type { Batch } from "../kv/batch.ts";
import type { Plan, PlannerOptions } from "./planner.ts";
import { type IntList, Piece, pieceInts, Tile, tileInts } from "./list.ts";
import { Interval, type Intervals, intervalInts } from "./merges.ts";
import type { PieceOrder } from "./order.ts";
import type { Tiles } from "./tiles.ts";
import { attentionRecordInts as recordInts, mergeRecordInts as mergeInts } from "./record.gen.ts";
import {
  chunksOf,
  columnCapacity,
  mergeCapacity,
  partialBytes,
  recordCapacity,
} from "./workspace.ts";

export { recordInts, mergeInts };

/** Writes schedules as the int32 sections that kernels read. */
export class Emitter {
  readonly #options: PlannerOptions;
  readonly #packedHeads: number;
  readonly #units: number;
  /** KV head of each unit. */
  readonly #kvHeads: Int32Array;
  #plan!: Plan;
  #batch!: Batch;
  #tiles!: Tiles;
  #pieces!: IntList;
  #at = 0;
  #partialRows = 0;
  /** Most pieces of a tile under batchInvariant and a graph, else 0. */
  #chunks = 0;

  constructor(options: PlannerOptions, packedHeads: number, units: number) {
    this.#options = options;
    this.#packedHeads = packedHeads;
    this.#units = units;
    this.#kvHeads = new Int32Array(units);
    for (let u = 0; u < units; u++) this.#kvHeads[u] = Math.floor((u * options.kvHeads) / units);
  }

  /** A plan of nothing, whose objects every later plan reuses. */
  emptyPlan(boundRows: number): Plan {
    const { valueDim, classes } = this.#options;
    const boundBytes = partialBytes(boundRows, valueDim);
    const launches = classes.map(({ name }) => ({
      ...{ kernelClass: name, firstRecord: 0, recordCount: 0, grid: 0 },
    }));
    const offsets = {
      ...{ positions: 0, tokenRequests: 0, queryIndptr: 0, kvLengths: 0 },
      ...{ records: 0, merges: 0, parts: 0, columns: 0 },
    };
    return {
      ...{ generation: 0, batchGeneration: -1, sections: new Int32Array(4096), sectionInts: 0 },
      capacityInts: 0,
      ...{ offsets, launches, recordCount: 0, mergeCount: 0, mergeGrid: 0, partialRows: 0 },
      ...{ partialCapacity: 0, workspaceBytes: 0, boundBytes, bucket: 0 },
    };
  }

  /** Fills the plan. */
  emit(
    plan: Plan,
    batch: Batch,
    tiles: Tiles,
    pieces: IntList,
    order: PieceOrder,
    intervals: Intervals,
    bucket: number,
  ): void {
    this.#plan = plan;
    this.#batch = batch;
    this.#tiles = tiles;
    this.#pieces = pieces;
    this.#at = 0;
    this.#partialRows = 0;
    plan.bucket = bucket;
    const { graph: sizes, batchInvariant } = this.#options;
    const fixed = sizes !== undefined && batchInvariant === true;
    this.#chunks = fixed ? chunksOf(sizes, batch.layout.blockSize) : 0;
    this.#writeBatch();
    this.#writeRecords(intervals.empty, order);
    this.#writeMerges(intervals);
    this.#writeColumns();
    const { valueDim, graph, queryHeads } = this.#options;
    plan.partialRows = this.#partialRows;
    if (graph !== undefined && this.#chunks > 0) {
      const rows = graph.maxQueryTokens * queryHeads * this.#chunks;
      plan.boundBytes = partialBytes(rows, valueDim);
    }
    const bound = plan.boundBytes / partialBytes(1, valueDim);
    plan.partialCapacity = graph === undefined ? plan.partialRows : bound;
    plan.workspaceBytes = partialBytes(plan.partialCapacity, valueDim);
    plan.sectionInts = this.#at;
    const columnsMost = graph === undefined ? 0 : columnCapacity(this.#options);
    plan.capacityInts = Math.max(this.#at, plan.offsets.columns + columnsMost);
    plan.batchGeneration = batch.generation;
    plan.generation++;
  }

  /** The batch's own arrays, at sizes fixed by the graph if there is one. */
  #writeBatch(): void {
    const { graph } = this.#options;
    const { offsets } = this.#plan;
    const batch = this.#batch;
    const tokens = graph?.maxQueryTokens ?? batch.paddedTokens;
    const requests = graph?.maxBatch ?? batch.requestCount;
    offsets.positions = this.#copy(batch.positions, batch.paddedTokens, tokens);
    offsets.tokenRequests = this.#copy(batch.tokenRequests, batch.paddedTokens, tokens);
    offsets.queryIndptr = this.#copy(batch.queryIndptr, batch.requestCount + 1, requests + 1);
    offsets.kvLengths = this.#copy(batch.kvLengths, batch.requestCount, requests);
  }

  /** Columns of sparse rows, then those of tiles that a variant narrowed. */
  #writeColumns(): void {
    const { offsets } = this.#plan;
    const { levels } = this.#batch.layout;
    offsets.columns = this.#at;
    // A layout's full bits speak of packed masks: what a hook hides, they do not know.
    const kept = this.#options.hookMasks ? ~1 : ~0;
    let columns = 0;
    for (let l = 0; l < levels.length; l++) {
      const level = levels[l];
      if (level.columns === null) continue;
      const count = level.columnIndptr![level.rowCount];
      this.#ensure(offsets.columns + columns + count);
      const { sections } = this.#plan;
      const base = offsets.columns + columns;
      for (let i = 0; i < count; i++) sections[base + i] = level.columns[i] & kept;
      columns += count;
    }
    const { data, length } = this.#tiles.columns;
    const at = offsets.columns + columns;
    // What the list holds past its length lies behind the sections: whole arrays copy fastest.
    this.#ensure(at + data.length);
    this.#plan.sections.set(data, at);
    this.#align(at + length);
  }

  #copy(source: Int32Array, count: number, capacity: number): number {
    const at = this.#at;
    // What an array holds past its count is overwritten below: whole arrays copy fastest.
    const whole = source.length <= 4 * count + 64;
    this.#ensure(at + Math.max(capacity, whole ? source.length : count));
    const { sections } = this.#plan;
    if (whole) sections.set(source, at);
    else for (let i = 0; i < count; i++) sections[at + i] = source[i];
    sections.fill(0, at + count, at + capacity);
    this.#align(at + capacity);
    return at;
  }

  #writeRecords(empty: IntList, order: PieceOrder): void {
    const plan = this.#plan;
    const { classes, graph, processors } = this.#options;
    plan.offsets.records = this.#at;
    let first = 0;
    for (let c = 0; c < classes.length; c++) {
      const launch = plan.launches[c];
      launch.firstRecord = first;
      if (c === 0) this.#writeEmpty(empty);
      this.#writeClass(order.pieces, order.starts[c], order.starts[c + 1]);
      launch.recordCount = (this.#at - plan.offsets.records) / recordInts - first;
      launch.grid = launch.recordCount;
      if (graph !== undefined) {
        const [units, heads] = [this.#units, this.#packedHeads];
        launch.grid = recordCapacity(
          classes[c],
          graph,
          plan.bucket,
          units,
          heads,
          processors,
          this.#chunks,
        );
        if (launch.recordCount > launch.grid) throw overGrid(launch.recordCount, launch.grid);
        this.#clear(launch.grid - launch.recordCount);
      }
      first = (this.#at - plan.offsets.records) / recordInts;
    }
    plan.recordCount = first;
  }

  /**
   * Records of the pieces at places [start, end) of the order, those of one piece side by side.
   * One plain loop over local arrays: this is where most of a plan's time goes.
   */
  #writeClass(order: Int32Array, start: number, end: number): void {
    const tiles = this.#tiles.list.data;
    const pieces = this.#pieces.data;
    const { levels } = this.#batch.layout;
    const units = this.#units;
    const heads = this.#packedHeads;
    const kvHeads = this.#kvHeads;
    this.#ensure(this.#at + (end - start) * (this.#tiles.unitGroups > 1 ? 1 : units) * recordInts);
    const { sections } = this.#plan;
    let at = this.#at;
    for (let i = start; i < end; i++) {
      const piece = order[i] * pieceInts;
      const tile = pieces[piece + Piece.tile] * tileInts;
      const unit = tiles[tile + Tile.unit];
      const first = unit < 0 ? 0 : unit;
      const last = unit < 0 ? units : unit + 1;
      const rowStart = tiles[tile + Tile.rowStart];
      const rows = tiles[tile + Tile.rowCount];
      const l = tiles[tile + Tile.level];
      const level = levels[l];
      const layoutRow = tiles[tile + Tile.layoutRow];
      const slot = level.slots[layoutRow];
      const position = level.positionStarts[layoutRow];
      const columnOffset = tiles[tile + Tile.columnOffset];
      const request = tiles[tile + Tile.request];
      const kvStart = pieces[piece + Piece.kvStart];
      const kvEnd = pieces[piece + Piece.kvEnd];
      let fullStart = tiles[tile + Tile.fullStart];
      let fullEnd = tiles[tile + Tile.fullEnd];
      if (fullStart < kvStart) fullStart = kvStart;
      if (fullEnd > kvEnd) fullEnd = kvEnd;
      if (fullStart >= fullEnd) fullStart = fullEnd = kvStart;
      const isPartial = tiles[tile + Tile.partial] === 1;
      let partial = isPartial ? this.#partialRows : -1;
      pieces[piece + Piece.partialRow] = partial;
      if (isPartial) this.#partialRows += rows * (last - first);
      for (let u = first; u < last; u++) {
        sections[at] = kvHeads[u];
        sections[at + 1] = u * heads;
        sections[at + 2] = heads;
        sections[at + 3] = rowStart;
        sections[at + 4] = rows;
        sections[at + 5] = slot;
        sections[at + 6] = kvStart;
        sections[at + 7] = kvEnd;
        sections[at + 8] = fullStart;
        sections[at + 9] = fullEnd;
        sections[at + 10] = position;
        sections[at + 11] = columnOffset;
        sections[at + 12] = partial;
        sections[at + 13] = request;
        sections[at + 14] = l;
        sections[at + 15] = 0;
        at += recordInts;
        if (isPartial) partial += rows;
      }
    }
    this.#at = at;
  }

  /** Records without keys, for rows that no tile covers: they write 0 and -inf. */
  #writeEmpty(empty: IntList): void {
    const heads = this.#packedHeads;
    const expanded = this.#tiles.unitGroups > 1;
    const most = this.#options.classes[0].queryTile;
    for (let i = 0; i < empty.length; i++) {
      const interval = i * intervalInts;
      const group = empty.data[interval + Interval.group];
      const end = empty.data[interval + Interval.rowEnd];
      for (let row = empty.data[interval + Interval.rowStart]; row < end; row += most) {
        for (let u = expanded ? group : 0; u < (expanded ? group + 1 : this.#units); u++) {
          const at = this.#record();
          const { sections } = this.#plan;
          sections.fill(0, at, at + recordInts);
          sections[at] = this.#kvHeads[u];
          sections[at + 1] = u * heads;
          sections[at + 2] = heads;
          sections[at + 3] = row;
          sections[at + 4] = Math.min(most, end - row);
          sections[at + 11] = -1;
          sections[at + 12] = -1;
          sections[at + 13] = this.#batch.tokenRequests[Math.floor(row / heads)];
        }
      }
    }
  }

  #record(): number {
    const at = this.#at;
    this.#at += recordInts;
    this.#ensure(this.#at);
    return at;
  }

  /** Empty records (no rows) up to a graph's grid. */
  #clear(records: number): void {
    const end = this.#at + records * recordInts;
    this.#ensure(end);
    this.#plan.sections.fill(0, this.#at, end);
    this.#at = end;
  }

  #writeMerges(intervals: Intervals): void {
    const plan = this.#plan;
    const { merged } = intervals;
    const perInterval = this.#tiles.unitGroups > 1 ? 1 : this.#units;
    plan.mergeCount = merged.length * perInterval;
    const capacity = this.#mergeCapacity();
    if (plan.mergeCount > capacity) throw overGrid(plan.mergeCount, capacity);
    plan.mergeGrid = capacity;
    plan.offsets.merges = this.#at;
    this.#align(this.#at + capacity * mergeInts);
    plan.offsets.parts = this.#at;
    if (this.#options.graph !== undefined) plan.sections.fill(0, plan.offsets.merges, this.#at);
    let at = plan.offsets.merges;
    for (let i = 0; i < merged.length; i++) {
      const group = merged.data[i * intervalInts + Interval.group];
      for (let u = 0; u < perInterval; u++, at += mergeInts) {
        this.#writeMerge(at, intervals, i, perInterval === 1 ? group : u, u);
      }
    }
    // A shared tile stands in the merges of all its sharers, so parts may outnumber records.
    const least = this.#options.graph === undefined ? 0 : 2 * plan.recordCount;
    const end = Math.max(this.#at, plan.offsets.parts + least);
    this.#ensure(end);
    plan.sections.fill(0, this.#at, end);
    this.#align(end);
  }

  /** Merges that the plan has room for: its own, or all that the graph's bucket can have. */
  #mergeCapacity(): number {
    const plan = this.#plan;
    const { classes, graph } = this.#options;
    if (graph === undefined) return plan.mergeCount;
    let merges = 0;
    for (let c = 0; c < classes.length; c++) {
      merges += mergeCapacity(classes[c], graph, plan.bucket, this.#units, this.#packedHeads);
    }
    return Math.min(plan.recordCount, merges);
  }

  #writeMerge(
    at: number,
    intervals: Intervals,
    interval: number,
    unit: number,
    replica: number,
  ): void {
    const { data } = intervals.merged;
    const i = interval * intervalInts;
    const rowStart = data[i + Interval.rowStart];
    const firstPart = this.#at;
    const firstTile = data[i + Interval.firstTile];
    for (let t = 0; t < data[i + Interval.tileCount]; t++) {
      this.#writeParts(intervals.tiles.data[firstTile + t] * tileInts, rowStart, replica);
    }
    const { sections, offsets } = this.#plan;
    sections[at] = unit * this.#packedHeads;
    sections[at + 1] = this.#packedHeads;
    sections[at + 2] = rowStart;
    sections[at + 3] = data[i + Interval.rowEnd] - rowStart;
    sections[at + 4] = firstPart - offsets.parts;
    sections[at + 5] = this.#at - firstPart;
    sections[at + 6] = 0;
    sections[at + 7] = 0;
  }

  /** The partial rows, in key order, at which a tile's pieces hold the interval's first row. */
  #writeParts(tile: number, rowStart: number, replica: number): void {
    const tiles = this.#tiles.list.data;
    const pieces = this.#pieces.data;
    const rows = tiles[tile + Tile.rowCount];
    const unit = tiles[tile + Tile.unit];
    const within = rowStart - tiles[tile + Tile.rowStart] + (unit < 0 ? replica * rows : 0);
    const first = tiles[tile + Tile.firstPiece];
    const count = tiles[tile + Tile.pieceCount];
    this.#ensure(this.#at + count);
    const { sections } = this.#plan;
    for (let p = first; p < first + count; p++) {
      sections[this.#at++] = pieces[p * pieceInts + Piece.partialRow] + within;
    }
  }

  /** Moves on to the next multiple of 16 ints, over zeros: equal plans are equal bit for bit. */
  #align(ints: number): void {
    const end = (ints + 15) & ~15;
    this.#ensure(end);
    this.#plan.sections.fill(0, ints, end);
    this.#at = end;
  }

  #ensure(ints: number): void {
    const plan = this.#plan;
    if (ints <= plan.sections.length) return;
    const grown = new Int32Array(Math.max(ints, 2 * plan.sections.length));
    grown.set(plan.sections);
    plan.sections = grown;
  }
}

function overGrid(records: number, grid: number): PlanError {
  return new PlanError(
    `the batch needs ${records} records or merges, the graph's grid holds ${grid}. ` +
      "Fix: create with a larger graph, or split the batch.",
  );
}
