import type { Batch } from "../kv/batch.ts";
import { MergeEmitter } from "./emit-merges.ts";
import { type IntList, Piece, pieceInts, Tile, tileInts } from "./list.ts";
import { Interval, intervalInts } from "./merges.ts";
import type { PlannerOptions } from "./options.ts";
import { emptyPlan, type Plan } from "./plan.ts";
import { AttentionRecordField as Field, attentionRecordInts } from "./record.gen.ts";
import type { Schedule } from "./schedule.ts";
import { Sections } from "./sections.ts";
import { type ClassTraits, placesOf } from "./traits.ts";
import {
  boundRows,
  graphInts,
  invariantRows,
  partialBytes,
  recordCapacity,
  requireRoom,
} from "./workspace.ts";

/** Writes schedules as the int32 sections that kernels read. */
export class Emitter {
  /** What every call of emit() fills. */
  readonly plan: Plan;
  readonly #options: PlannerOptions;
  readonly #schedule: Schedule;
  readonly #group: number;
  readonly #out = new Sections();
  readonly #merges: MergeEmitter;
  #partialRows = 0;
  /** What {@link graphInts} said last. */
  #room: { readonly blockSize: number; readonly ints: number } | undefined;

  constructor(options: PlannerOptions, schedule: Schedule) {
    this.#options = options;
    this.#schedule = schedule;
    this.#group = options.queryHeads / options.kvHeads;
    this.#merges = new MergeEmitter(options, schedule, this.#out);
    this.plan = emptyPlan(options.classes);
    this.plan.boundBytes = partialBytes(boundRows(options), options.valueDim);
  }

  /**
   * Fills the plan from the schedule; `bucket`: the graph's batch size, 0 without a graph; `into`:
   * where its sections are written if they fit.
   */
  emit(batch: Batch, bucket: number, into?: Int32Array): Plan {
    const plan = this.plan;
    this.#out.start(into);
    this.#partialRows = 0;
    plan.bucket = bucket;
    this.#writeBatch(batch);
    plan.mergedByKernels = this.#merges.byKernels(batch.requestCount, bucket);
    this.#writeRecords(batch);
    this.#merges.emit(plan);
    this.#writeColumns(batch);
    this.#size(batch);
    plan.generation++;
    return plan;
  }

  /** What the plan takes of memory, and what any step of its graph does. */
  #size(batch: Batch): void {
    const plan = this.plan;
    const { graph, valueDim, batchInvariant } = this.#options;
    if (graph !== undefined && batchInvariant) {
      const rows = invariantRows(this.#options, batch.layout.blockSize);
      plan.boundBytes = partialBytes(rows, valueDim);
    }
    const bound = plan.boundBytes / partialBytes(1, valueDim);
    plan.partialRows = this.#partialRows;
    plan.partialCapacity = graph === undefined ? plan.partialRows : bound;
    plan.workspaceBytes = partialBytes(plan.partialCapacity, valueDim);
    plan.sections = this.#out.data;
    plan.sectionInts = this.#out.at;
    const more = graph === undefined ? 0 : this.#graphInts(batch.layout.blockSize);
    plan.capacityInts = Math.max(plan.sectionInts, plan.offsets.records + more);
  }

  /** As graphInts, which a cache's plans need again and again. */
  #graphInts(blockSize: number): number {
    if (this.#room?.blockSize !== blockSize)
      this.#room = { blockSize, ints: graphInts(this.#options, blockSize) };
    return this.#room.ints;
  }

  /** The batch's own arrays, at sizes fixed by the graph if there is one. */
  #writeBatch(batch: Batch): void {
    const { graph } = this.#options;
    const { offsets } = this.plan;
    const out = this.#out;
    const tokens = graph?.maxQueryTokens ?? batch.paddedTokens;
    const requests = graph?.maxBatch ?? batch.requestCount;
    offsets.positions = out.copy(batch.positions, batch.paddedTokens, tokens);
    offsets.tokenRequests = out.copy(batch.tokenRequests, batch.paddedTokens, tokens);
    offsets.queryIndptr = out.copy(batch.queryIndptr, batch.requestCount + 1, requests + 1);
    offsets.kvLengths = out.copy(batch.kvLengths, batch.requestCount, requests);
  }

  /** Columns of sparse rows, then those of tiles that a variant narrowed. */
  #writeColumns({ layout: { levels } }: Batch): void {
    const out = this.#out;
    const base = (this.plan.offsets.columns = out.at);
    // A layout's full bits speak of packed masks: what a hook hides, they do not know.
    const kept = this.#options.hookMasks ? ~1 : ~0;
    let at = base;
    for (let l = 0; l < levels.length; l++) {
      const level = levels[l];
      if (level.columns === null) continue;
      const count = level.columnIndptr![level.rowCount];
      out.ensure(at + count);
      for (let i = 0; i < count; i++) out.data[at + i] = level.columns[i] & kept;
      at += count;
    }
    const { data, length } = this.#schedule.tiles.columns;
    out.at = at;
    out.copy(data, length, length);
  }

  #writeRecords(batch: Batch): void {
    const plan = this.plan;
    const out = this.#out;
    const { graph, classes, kvHeads } = this.#options;
    const { blockSize } = batch.layout;
    const { order, intervals } = this.#schedule;
    plan.offsets.records = out.at;
    let first = 0;
    for (let c = 0; c < plan.launches.length; c++) {
      const launch = plan.launches[c];
      launch.firstRecord = first;
      if (c === 0) this.#writeEmpty(batch, intervals.empty);
      const [start, end] = [order.starts[c], order.starts[c + 1]];
      const heads = this.#headsAtOnce(classes[c], end - start);
      for (let head = 0; head < kvHeads; head += heads) {
        this.#writeClass(batch, start, end, head, Math.min(head + heads, kvHeads));
      }
      launch.recordCount = (out.at - plan.offsets.records) / attentionRecordInts - first;
      launch.grid = launch.recordCount;
      if (graph !== undefined) {
        // Empty records (no rows) up to the graph's grid.
        launch.grid = recordCapacity(this.#options, classes[c], plan.bucket, blockSize);
        requireRoom(launch.recordCount, launch.grid);
        out.clearTo(plan.offsets.records + (first + launch.grid) * attentionRecordInts);
      }
      launch.itemsAtOnce = launch.grid;
      first += launch.grid;
    }
    plan.recordCount = first;
  }

  /**
   * KV heads whose records come together: all, or as few as give every place two pieces, so that
   * the last of them end at about the same time.
   */
  #headsAtOnce(traits: ClassTraits, pieces: number): number {
    const { kvHeads, processors } = this.#options;
    if (traits.take !== "few-heads" || this.#schedule.tiles.headGroups > 1) return kvHeads;
    const least = Math.ceil((2 * placesOf(traits, processors)) / Math.max(1, pieces));
    const turns = Math.max(1, Math.floor(kvHeads / least));
    return Math.ceil(kvHeads / turns);
  }

  /**
   * Records of KV heads [firstHead, lastHead) of the pieces at places [start, end) of the order,
   * those of one piece side by side.
   * One plain loop over local arrays: this is where most of a plan's time goes.
   */
  #writeClass(batch: Batch, start: number, end: number, firstHead: number, lastHead: number): void {
    const schedule = this.#schedule;
    const order = schedule.order.pieces;
    const tiles = schedule.tiles.list.data;
    const pieces = schedule.pieces.data;
    const { levels } = batch.layout;
    const { plan } = this;
    const merged = schedule.intervals.merged.length;
    const group = this.#group;
    const { kvHeads } = this.#options;
    const out = this.#out;
    const each = (schedule.tiles.headGroups > 1 ? 1 : lastHead - firstHead) * attentionRecordInts;
    out.ensure(out.at + (end - start) * each);
    const { data } = out;
    let { at } = out;
    for (let i = start; i < end; i++) {
      const piece = order[i] * pieceInts;
      const tile = pieces[piece + Piece.tile] * tileInts;
      const head = tiles[tile + Tile.kvHead];
      const first = head < 0 ? firstHead : head;
      const last = head < 0 ? lastHead : head + 1;
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
      const merge = isPartial && plan.mergedByKernels ? tiles[tile + Tile.firstMerge] : -1;
      let partial = -1;
      if (isPartial) {
        if (firstHead === 0) {
          pieces[piece + Piece.partialRow] = this.#partialRows;
          this.#partialRows += rows * (head < 0 ? kvHeads : 1);
        }
        partial = pieces[piece + Piece.partialRow] + rows * (head < 0 ? firstHead : 0);
      }
      for (let kvHead = first; kvHead < last; kvHead++) {
        data[at + Field.kvHead] = kvHead;
        data[at + Field.queryHeadStart] = kvHead * group;
        data[at + Field.queryHeadCount] = group;
        data[at + Field.rowStart] = rowStart;
        data[at + Field.rowCount] = rows;
        data[at + Field.slot] = slot;
        data[at + Field.kvStart] = kvStart;
        data[at + Field.kvEnd] = kvEnd;
        data[at + Field.fullStart] = fullStart;
        data[at + Field.fullEnd] = fullEnd;
        data[at + Field.positionStart] = position;
        data[at + Field.columnOffset] = columnOffset;
        data[at + Field.partialRow] = partial;
        data[at + Field.request] = request;
        data[at + Field.level] = l;
        data[at + Field.firstMerge] = merge < 0 ? -1 : merge + (head < 0 ? kvHead : 0) * merged;
        at += attentionRecordInts;
        if (isPartial) partial += rows;
      }
    }
    out.at = at;
  }

  /** Records without keys, for rows that no tile covers: they write 0 and -inf. */
  #writeEmpty(batch: Batch, empty: IntList): void {
    const group = this.#group;
    const { kvHeads, classes } = this.#options;
    const apart = this.#schedule.tiles.headGroups > 1;
    const most = classes[0].queryTile;
    const out = this.#out;
    for (let i = 0; i < empty.length; i++) {
      const interval = i * intervalInts;
      const head = empty.data[interval + Interval.headGroup];
      const end = empty.data[interval + Interval.rowEnd];
      for (let row = empty.data[interval + Interval.rowStart]; row < end; row += most) {
        for (let kvHead = apart ? head : 0; kvHead < (apart ? head + 1 : kvHeads); kvHead++) {
          const { at } = out;
          out.clearTo(at + attentionRecordInts);
          const { data } = out;
          data[at + Field.kvHead] = kvHead;
          data[at + Field.queryHeadStart] = kvHead * group;
          data[at + Field.queryHeadCount] = group;
          data[at + Field.rowStart] = row;
          data[at + Field.rowCount] = Math.min(most, end - row);
          data[at + Field.columnOffset] = -1;
          data[at + Field.partialRow] = -1;
          data[at + Field.firstMerge] = -1;
          data[at + Field.request] = batch.tokenRequests[Math.floor(row / group)];
        }
      }
    }
  }
}
