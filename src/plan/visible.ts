import type { Batch } from "../kv/batch.ts";
import type { Level } from "../kv/layout.ts";
import type { Visible } from "../variant/variant.ts";
import { IntList } from "./list.ts";
import { rangeInts, Ranges } from "./ranges.ts";

/** How a tile's keys may be narrowed. */
export interface NarrowOptions {
  readonly visible: Visible;
  /** Most ints of the lists of a batch; a tile beyond has one range instead. 0: no lists. */
  readonly columnsMost: number;
  /** Keys at whose multiples a row's range starts. */
  readonly alignment: number;
}

/**
 * Narrows a tile to the keys that a variant's visible() names. One range becomes the tile's range;
 * where gaps of whole columns save a step of the kernel, the tile gets a list of columns. Keys of
 * such a list are counted along it, as those of a sparse layout are.
 */
export class VisibleKeys {
  /** The lists, one after the other: logical column << 1 | seen by all rows without a test. */
  readonly columns = new IntList(1, 256);
  /** Of the tile last narrowed: its kept tokens, those seen by all, where its list starts or -1. */
  start = 0;
  end = 0;
  fullStart = 0;
  fullEnd = 0;
  columnOffset = -1;

  readonly #options: NarrowOptions;
  /** What visible() said, then what causal, window and masks left of it. */
  #named = new Ranges();
  #other = new Ranges();
  readonly #own = new Ranges();
  readonly #limits = new Ranges();
  readonly #tile = { request: 0, queryStart: 0, queryEnd: 0, queryLength: 0, kvLength: 0 };
  #runStart = 0;
  #runEnd = 0;
  #at = 0;

  constructor(options: NarrowOptions) {
    this.#options = options;
  }

  /** Forgets the lists. */
  clear(): void {
    this.columns.clear();
  }

  /** Asks visible() about tokens [first, last], whatever requests they belong to. */
  look(batch: Batch, first: number, last: number): void {
    const { tokenRequests, positions } = batch;
    let token = first;
    while (token <= last) {
      const request = tokenRequests[token];
      let least = positions[token];
      let most = least;
      let next = token + 1;
      for (; next <= last && tokenRequests[next] === request; next++) {
        const position = positions[next];
        if (position < least) least = position;
        else if (position > most) most = position;
      }
      const into = token === first ? this.#named : this.#own;
      this.#ask(batch, request, least, most + 1, into);
      if (token !== first) this.#replace(this.#own, false);
      token = next;
    }
  }

  #ask(batch: Batch, request: number, queryStart: number, queryEnd: number, into: Ranges): void {
    const { queryIndptr, kvLengths } = batch;
    const tile = this.#tile;
    tile.request = request;
    tile.queryStart = queryStart;
    tile.queryEnd = queryEnd;
    tile.queryLength = queryIndptr[request + 1] - queryIndptr[request];
    tile.kvLength = kvLengths[request];
    into.clear(tile.kvLength);
    this.#options.visible(tile, into);
  }

  #replace(by: Ranges, both: boolean): void {
    this.#other.combine(this.#named, by, both);
    const named = this.#other;
    this.#other = this.#named;
    this.#named = named;
  }

  /**
   * Cuts what visible() said to positions [start, end), of which [fullStart, fullEnd) need no other
   * test.
   */
  limit(start: number, end: number, fullStart: number, fullEnd: number): void {
    const limits = this.#limits;
    limits.clear();
    const full = fullStart < fullEnd;
    const middle = full ? fullStart : end;
    if (start < middle) limits.push(start, middle, 0);
    if (full) limits.push(fullStart, fullEnd, 1);
    if (full && fullEnd < end) limits.push(fullEnd, end, 0);
    this.#replace(limits, true);
  }

  /**
   * Narrows a dense row that starts at position `origin`; `step`: keys whose reading pays a list.
   */
  dense(origin: number, length: number, blockSize: number, step: number): void {
    const { data, length: count } = this.#named.list;
    this.columnOffset = -1;
    if (count === 0) return this.#nothing();
    const from = data[0] - origin;
    const to = data[count * rangeInts - 2] - origin;
    const before = this.columns.length;
    if (this.#options.columnsMost > 0 && this.#gaps() >= step) {
      this.#begin();
      let last = -1;
      for (let i = 0; i < count * rangeInts; i += rangeInts) {
        const start = data[i] - origin;
        const end = data[i + 1] - origin;
        const inside = Math.floor(end / blockSize);
        let column = Math.floor(start / blockSize);
        if (column <= last) column = last + 1;
        while (column * blockSize < end) {
          const position = column * blockSize;
          if (position >= start && column < inside) {
            this.#keepWhole(column, inside, blockSize, data[i + 2]);
            column = inside;
          } else {
            const tokens = length - position < blockSize ? length - position : blockSize;
            this.#keep(column++, origin + position, tokens, blockSize, true);
          }
        }
        last = column - 1;
      }
      const kept = (this.columns.length - before) * blockSize;
      if (to - from - kept >= step && this.columns.length <= this.#options.columnsMost) {
        this.columnOffset = before;
        return this.#end();
      }
      this.columns.length = before;
    }
    this.start = this.#aligned(from);
    this.end = to;
    this.fullStart = this.fullEnd = this.start;
    for (let i = 0; i < count * rangeInts; i += rangeInts) {
      if (data[i + 2] === 0 || data[i + 1] - data[i] <= this.fullEnd - this.fullStart) continue;
      this.fullStart = data[i] - origin;
      this.fullEnd = data[i + 1] - origin;
    }
  }

  /** Positions between the ranges. */
  #gaps(): number {
    const { data, length } = this.#named.list;
    let gaps = 0;
    for (let i = rangeInts; i < length * rangeInts; i += rangeInts) gaps += data[i] - data[i - 2];
    return gaps;
  }

  /**
   * Narrows a sparse row to those of its columns that are named; columns side by side stay where
   * they are. `masked`: only columns with a full bit need no test of packed bits.
   */
  sparse(level: Level, row: number, blockSize: number, masked: boolean): void {
    const { data, length: count } = this.#named.list;
    const columns = level.columns!;
    const base = level.columnIndptr![row];
    const end = level.columnIndptr![row + 1];
    const kept = level.kvLengths[row];
    const before = this.columns.length;
    let first = -1;
    let last = -1;
    let i = 0;
    this.#begin();
    for (let c = base; c < end; c++) {
      const start = level.positionStarts[row] + (columns[c] >> 1) * blockSize;
      const tokens = c < end - 1 ? blockSize : kept - (end - 1 - base) * blockSize;
      while (i < count * rangeInts && data[i + 1] <= start) i += rangeInts;
      if (i === count * rangeInts) break;
      if (data[i] >= start + tokens) continue;
      if (first < 0) first = c;
      last = c;
      this.#keep(columns[c] >> 1, start, tokens, blockSize, !masked || (columns[c] & 1) === 1);
    }
    this.columnOffset = -1;
    if (first < 0) return this.#nothing();
    this.#end();
    const isWhole = this.columns.length - before === last - first + 1;
    if (!isWhole && this.#options.columnsMost > 0) {
      this.columnOffset = before;
      return;
    }
    // The row's own list serves.
    this.columns.length = before;
    const shift = (first - base) * blockSize;
    this.start = this.#aligned(this.start + shift);
    this.fullStart = isWhole ? this.fullStart + shift : this.start;
    this.fullEnd = isWhole ? this.fullEnd + shift : this.start;
    const whole = (last + 1 - base) * blockSize;
    this.end = isWhole ? this.end + shift : whole < kept ? whole : kept;
  }

  #begin(): void {
    this.#at = this.columns.length;
    this.#runStart = this.#runEnd = 0;
    this.start = -1;
    this.fullStart = this.fullEnd = 0;
  }

  /** Appends columns [first, end), all of which lie in one range. */
  #keepWhole(first: number, end: number, blockSize: number, full: number): void {
    const { columns } = this;
    const from = columns.length;
    columns.reserve(from + end - first);
    columns.length = from + end - first;
    const { data } = columns;
    const shift = 2 * (first - from) + full;
    for (let at = from; at < columns.length; at++) data[at] = 2 * at + shift;
    const start = (from - this.#at) * blockSize;
    if (this.start < 0) this.start = start;
    this.end = start + (end - first) * blockSize;
    if (full === 1) this.#full(start, this.end);
  }

  /** Appends a column of `tokens` tokens from a position on to the list. */
  #keep(column: number, position: number, tokens: number, blockSize: number, plain: boolean): void {
    const { data, length: count } = this.#named.list;
    const at = this.columns.add();
    const first = (at - this.#at) * blockSize;
    let full = 0;
    for (let i = this.#firstRange(position); i < count * rangeInts; i += rangeInts) {
      if (data[i] >= position + tokens) break;
      const from = data[i] > position ? data[i] - position : 0;
      const to = data[i + 1] < position + tokens ? data[i + 1] - position : tokens;
      if (this.start < 0) this.start = first + from;
      this.end = first + to;
      if (!plain || data[i + 2] === 0) continue;
      this.#full(first + from, first + to);
      if (to - from === tokens) full = 1;
    }
    this.columns.data[at] = (column << 1) | full;
  }

  /** Notes that all rows see kept tokens [start, end); the longest run of such tokens is kept. */
  #full(start: number, end: number): void {
    if (start !== this.#runEnd) this.#runStart = start;
    this.#runEnd = end;
    if (end - this.#runStart <= this.fullEnd - this.fullStart) return;
    this.fullStart = this.#runStart;
    this.fullEnd = end;
  }

  /** Ranges are few, or columns are many: the first that ends behind a position is searched. */
  #firstRange(position: number): number {
    const { data, length } = this.#named.list;
    let low = 0;
    let high = length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (data[middle * rangeInts + 1] <= position) low = middle + 1;
      else high = middle;
    }
    return low * rangeInts;
  }

  #end(): void {
    if (this.fullStart === this.fullEnd) this.fullStart = this.fullEnd = this.start;
  }

  #aligned(start: number): number {
    return start - (start % this.#options.alignment);
  }

  #nothing(): void {
    this.start = this.end = this.fullStart = this.fullEnd = 0;
  }
}
