import type { Batch } from "../kv/batch.ts";
import { keptOf } from "../kv/context-part.ts";
import type { Level } from "../kv/layout.ts";
import type { Visible } from "../variant/variant.ts";
import { IntList, Tile, tileInts } from "./list.ts";
import { anyClass, classFor, type ClassRange, type ClassTraits } from "./traits.ts";
import { VisibleKeys } from "./visible.ts";

/** What decides which keys a query sees, and how rows are packed. */
export interface TileOptions {
  readonly classes: readonly ClassTraits[];
  /** Query heads of a KV head: the rows that one token adds to a tile. */
  readonly group: number;
  readonly kvHeads: number;
  readonly causal: boolean;
  readonly mask: "none" | "all" | "tail";
  /** Lengths are known only on the device: keys are trimmed there. */
  readonly deviceLengths: boolean;
  readonly batchInvariant: boolean;
  /** A variant's mask decides about the pairs that `visible` does not call full: without it all. */
  readonly hookMasks: boolean;
  readonly visible: Visible | undefined;
  /** Most ints of the columns that narrowed tiles may list. */
  readonly columnsMost: number;
}

/**
 * Cuts every layout row into tiles of packed query rows and finds the keys that each tile sees.
 * A row's visible keys are a range of its kept keys: from the first that the tile's earliest
 * position sees by its window to the last that its latest position sees.
 */
export class Tiles {
  readonly list = new IntList(tileInts, 256);
  /** First tile of (head group, level), and the end: [groups * levels + 1]. */
  readonly starts = new IntList(1);
  /** 1 where tiles serve all KV heads alike, else the KV heads. */
  headGroups = 1;
  levels = 1;
  /** Columns of the batch's sparse rows; those of narrowed tiles are counted on from here. */
  batchColumns = 0;
  /** Columns of tiles that a variant narrowed. */
  readonly columns: IntList;
  readonly #options: TileOptions;
  #batch!: Batch;
  /** Keys before a query's own position that it sees; -1: all. */
  #windowLeft = -1;
  #range = anyClass;
  #minPosition = 0;
  #maxPosition = 0;
  #history = 0;
  /** Keys at a time of the class that batch-invariant plans use. */
  readonly #kvTile: number;
  readonly #visible: VisibleKeys | undefined;

  constructor(options: TileOptions) {
    this.#options = options;
    const { visible, batchInvariant, columnsMost } = options;
    this.#kvTile = options.classes[options.classes.length - 1].kvTile;
    // Counted along a list, keys would meet in other steps next to other queries.
    const narrow = batchInvariant
      ? { columnsMost: 0, alignment: this.#kvTile }
      : { columnsMost, alignment: 1 };
    if (visible !== undefined && !options.deviceLengths) {
      this.#visible = new VisibleKeys({ visible, ...narrow });
    }
    this.columns = this.#visible?.columns ?? new IntList(1, 0);
  }

  /** Rebuilds the tiles; `apart`: for each KV head; `range`: their classes, by their rows. */
  build(batch: Batch, apart: boolean, windowLeft: number, range: ClassRange = anyClass): void {
    this.#batch = batch;
    this.#windowLeft = windowLeft;
    this.#range = range;
    this.list.clear();
    this.starts.clear();
    this.headGroups = apart ? this.#options.kvHeads : 1;
    this.levels = batch.layout.levels.length;
    this.#visible?.clear();
    this.batchColumns = 0;
    for (let l = 0; l < this.levels; l++) this.batchColumns += columnsOf(batch.layout.levels[l]);
    for (let head = 0; head < this.headGroups; head++) {
      let columns = 0;
      for (let l = 0; l < this.levels; l++) {
        const level = batch.layout.levels[l];
        this.#addStart();
        if (head > 0 && !level.perHead) this.#addCopy(l, head);
        else this.#addLevel(l, level, apart ? head : -1, columns);
        columns += columnsOf(level);
      }
    }
    this.#addStart();
  }

  /** The tiles of a level whose rows serve all heads alike, for another head than the first. */
  #addCopy(l: number, kvHead: number): void {
    const { list, starts } = this;
    const end = starts.data[l + 1];
    for (let t = starts.data[l]; t < end; t++) {
      const at = list.add();
      list.data.copyWithin(at, t * tileInts, (t + 1) * tileInts);
      list.data[at + Tile.kvHead] = kvHead;
    }
  }

  #addStart(): void {
    const at = this.starts.add();
    this.starts.data[at] = this.list.length;
  }

  /** `kvHead`: -1 where the tiles serve all alike. */
  #addLevel(l: number, level: Level, kvHead: number, columns: number): void {
    const { kvHeads, group, classes } = this.#options;
    const { queryIndptr, requestRows, requests, perHead, columnIndptr } = level;
    const { list } = this;
    for (let r = 0; r < requestRows; r++) {
      const firstToken = queryIndptr[r];
      const tokens = queryIndptr[r + 1] - firstToken;
      if (tokens === 0) continue;
      const row = perHead ? r * kvHeads + kvHead : r;
      const rows = tokens * group;
      const kernelClass = classFor(classes, rows, this.#range);
      const tile = classes[kernelClass].queryTile;
      for (let start = 0; start < rows; start += tile) {
        const count = rows - start < tile ? rows - start : tile;
        const at = list.add();
        const { data } = list;
        data[at + Tile.kvHead] = kvHead;
        data[at + Tile.level] = l;
        data[at + Tile.layoutRow] = row;
        data[at + Tile.request] = requests[r];
        data[at + Tile.rowStart] = firstToken * group + start;
        data[at + Tile.rowCount] = count;
        data[at + Tile.kernelClass] = kernelClass;
        data[at + Tile.columnOffset] = columnIndptr === null ? -1 : columns + columnIndptr[row];
        data[at + Tile.partial] = 0;
        data[at + Tile.firstMerge] = -1;
        data[at + Tile.pieceCount] = 0;
        data[at + Tile.firstPiece] = 0;
        const first = tokens === 1 ? firstToken : firstToken + ((start / group) | 0);
        const last = tokens === 1 ? firstToken : firstToken + (((start + count - 1) / group) | 0);
        this.#span(first, last);
        const narrows = this.#plainEnd(requests[r]) === maxPosition ? this.#visible : undefined;
        if (narrows !== undefined) this.#narrow(narrows, at, level, row, first, last);
        else if (columnIndptr === null) this.#dense(data, at, level, row);
        else this.#sparse(at, level, row);
      }
    }
  }

  /** Positions of tokens first to last, and the keys that all of them have before their queries. */
  #span(first: number, last: number): void {
    const { positions, tokenRequests, customPositions } = this.#batch;
    let least = positions[first];
    let most = positions[last];
    // Within a request, positions count up unless the caller gave others.
    if (first !== last && (customPositions || tokenRequests[first] !== tokenRequests[last])) {
      most = least;
      for (let token = first + 1; token <= last; token++) {
        const position = positions[token];
        if (position < least) least = position;
        else if (position > most) most = position;
      }
    }
    this.#minPosition = least;
    this.#maxPosition = most;
    if (this.#options.mask === "tail") this.#history = this.#leastHistory(first, last);
  }

  #leastHistory(first: number, last: number): number {
    const { tokenRequests, kvLengths, queryIndptr } = this.#batch;
    let history = 0x7fffffff;
    for (let token = first; token <= last; token++) {
      const request = tokenRequests[token];
      const queries = queryIndptr[request + 1] - queryIndptr[request];
      history = Math.min(history, kvLengths[request] - queries);
    }
    return history;
  }

  /** Positions below which keys of a request stand at their places; beyond all: everywhere. */
  #plainEnd(request: number): number {
    const { plainLengths, kvLengths } = this.#batch;
    const plain = plainLengths === null ? maxPosition : plainLengths[request];
    return plain < kvLengths[request] ? plain : maxPosition;
  }

  #dense(data: Int32Array, at: number, level: Level, row: number): void {
    const { causal, mask, deviceLengths, batchInvariant, hookMasks } = this.#options;
    const windowLeft = this.#windowLeft;
    const length = level.kvLengths[row];
    const origin = level.positionStarts[row];
    const plain = clamp(this.#plainEnd(data[at + Tile.request]) - origin, 0, length);
    const least = this.#minPosition - origin;
    const most = this.#maxPosition - origin;
    let start = 0;
    let end = length;
    let fullStart = 0;
    let fullEnd = deviceLengths ? 0 : length;
    if (!deviceLengths) {
      if (causal) {
        if (plain === length) end = clamp(most + 1, 0, length);
        fullEnd = clamp(least + 1, 0, plain);
      }
      if (windowLeft >= 0) {
        const { part } = this.#batch;
        start = clamp(keptOf(least - windowLeft, part), 0, part || plain >= end ? end : plain);
        fullStart = clamp(most - windowLeft, 0, end);
        fullEnd = fullEnd < plain ? fullEnd : plain;
      }
      if (mask === "all" || hookMasks || this.#visible !== undefined) fullEnd = 0;
      else if (mask === "tail") fullEnd = clamp(this.#history - origin, 0, fullEnd);
      if (batchInvariant) start -= start % this.#kvTile;
    }
    data[at + Tile.kvStart] = start;
    data[at + Tile.kvEnd] = end;
    data[at + Tile.fullStart] = fullStart < fullEnd ? fullStart : start;
    data[at + Tile.fullEnd] = fullStart < fullEnd ? fullEnd : start;
  }

  /** As dense or sparse does, within what the variant calls visible. */
  #narrow(
    keys: VisibleKeys,
    at: number,
    level: Level,
    row: number,
    first: number,
    last: number,
  ): void {
    const { causal, mask, classes } = this.#options;
    const windowLeft = this.#windowLeft;
    const { blockSize } = this.#batch.layout;
    const origin = level.positionStarts[row];
    const length = level.kvLengths[row];
    const least = this.#minPosition;
    const most = this.#maxPosition;
    const sparse = level.columns !== null;
    let end = sparse ? maxPosition : origin + length;
    let fullEnd = causal ? Math.min(least + 1, end) : end;
    if (causal) end = Math.min(most + 1, end);
    if (!sparse && mask === "all") fullEnd = 0;
    else if (!sparse && mask === "tail") fullEnd = Math.min(this.#history, fullEnd);
    const from = sparse ? 0 : origin;
    const start = windowLeft < 0 ? from : Math.max(least - windowLeft, from);
    const fullStart = windowLeft < 0 ? from : Math.max(most - windowLeft, from);
    keys.look(this.#batch, first, last);
    keys.limit(start, end, fullStart, fullEnd);
    const { data } = this.list;
    if (sparse) keys.sparse(level, row, blockSize, mask !== "none");
    else keys.dense(origin, length, blockSize, classes[data[at + Tile.kernelClass]].kvTile);
    data[at + Tile.kvStart] = keys.start;
    data[at + Tile.kvEnd] = keys.end;
    data[at + Tile.fullStart] = keys.fullStart;
    data[at + Tile.fullEnd] = keys.fullEnd;
    if (keys.columnOffset >= 0) {
      data[at + Tile.columnOffset] = this.batchColumns + keys.columnOffset;
    }
  }

  /**
   * Sparse rows: whole kept columns are trimmed at both ends; the first run of full ones is noted.
   */
  #sparse(at: number, level: Level, row: number): void {
    const { causal, mask, deviceLengths, hookMasks } = this.#options;
    const windowLeft = this.#windowLeft;
    const { blockSize } = this.#batch.layout;
    const columns = level.columns!;
    const base = level.columnIndptr![row];
    const count = level.columnIndptr![row + 1] - base;
    const length = level.kvLengths[row];
    const origin = level.positionStarts[row];
    const { data } = this.list;
    const plain = this.#plainEnd(data[at + Tile.request]);
    const cuts = causal && !deviceLengths && plain === maxPosition;
    const most = cuts ? this.#maxPosition : maxPosition;
    const passed = windowLeft >= 0 && !deviceLengths ? this.#minPosition - windowLeft : -1;
    const least = passed < plain ? passed : plain;
    let first = 0;
    while (
      first < count &&
      origin + (columns[base + first] >> 1) * blockSize + blockSize <= least
    ) {
      first++;
    }
    let end = count;
    while (end > first && origin + (columns[base + end - 1] >> 1) * blockSize > most) end--;
    let seen = end * blockSize;
    if (end > first) {
      const last = origin + (columns[base + end - 1] >> 1) * blockSize;
      seen -= Math.max(0, last + blockSize - 1 - most);
    }
    let fullFirst = first;
    let full = first;
    for (let c = first; c < end && !deviceLengths && !hookMasks && !this.#visible; c++) {
      const start = origin + (columns[base + c] >> 1) * blockSize;
      const isFull =
        (start + blockSize <= plain || (!causal && windowLeft < 0)) &&
        (mask === "none" || (columns[base + c] & 1) === 1) &&
        (!causal || start + blockSize - 1 <= this.#minPosition) &&
        (windowLeft < 0 || start >= this.#maxPosition - windowLeft);
      if (isFull) full = c + 1;
      else if (full > fullFirst) break;
      else fullFirst = full = c + 1;
    }
    data[at + Tile.kvStart] = Math.min(first * blockSize, length);
    data[at + Tile.kvEnd] = Math.min(seen, length);
    data[at + Tile.fullStart] = Math.min(fullFirst * blockSize, length);
    data[at + Tile.fullEnd] = Math.min(full * blockSize, length);
  }
}

/** Beyond every position. */
const maxPosition = 0x7fffffff;

function columnsOf({ columnIndptr, rowCount }: Level): number {
  return columnIndptr === null ? 0 : columnIndptr[rowCount];
}

function clamp(value: number, least: number, most: number): number {
  return value < least ? least : value > most ? most : value;
}
