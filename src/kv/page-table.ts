import { OptionError } from "../errors.ts";
import type { RowSpace } from "./row-space.ts";

/** Entries of a piece of the table, as a power of two. */
const pieceBits = 16;
const pieceMask = (1 << pieceBits) - 1;

/** A row of more columns than this is moved on the device rather than sent again. */
const sentMost = 256;

/**
 * The host copy of a page group's device page table, int32 by entry, and what the device lacks of
 * it. Rows lie where `rows` says. Entries past a sequence's pages are stale and never read, nor are
 * those of pages that its window passed: -1 here, anything on the device.
 */
export class PageTable {
  readonly rows: RowSpace;
  /** Slots of which the device lacks columns [from[slot], to[slot]), none if from >= to. */
  readonly changed: Int32Array;
  changedCount = 0;
  readonly from: Int32Array;
  readonly to: Int32Array;
  /** (first entry, new first entry, entries) of rows to move on the device, in order and first. */
  moves: Int32Array = new Int32Array(3 * 16);
  moveCount = 0;
  readonly #isChanged: Uint8Array;
  /** Entries in pieces, each made when it is first written: the table never moves as a whole. */
  readonly #pieces: Int32Array[] = [];

  constructor(rows: RowSpace) {
    const slots = rows.starts.length;
    this.rows = rows;
    this.changed = new Int32Array(slots);
    this.from = new Int32Array(slots);
    this.to = new Int32Array(slots);
    this.#isChanged = new Uint8Array(slots);
  }

  /** Bytes of the host copy, which grows by pieces. */
  get hostBytes(): number {
    const pieces = this.#pieces.reduce((count) => count + 1, 0);
    return pieces * (4 << pieceBits) + 13 * this.from.length;
  }

  /** The page at an entry that was written. */
  at(entry: number): number {
    return this.#pieces[entry >> pieceBits][entry & pieceMask];
  }

  /** The page at a slot's column; OptionError outside its row. */
  get(slot: number, column: number): number {
    this.#check(slot, column);
    return this.at(this.rows.starts[slot] + column);
  }

  /** Notes the page of a slot's column (-1: passed); OptionError outside its row. */
  set(slot: number, column: number, page: number): void {
    this.#check(slot, column);
    if ((page | 0) !== page || page < -1)
      throw new OptionError("page", page, "an integer of -1 or more", "pass an allocated page.");
    const entry = this.rows.starts[slot] + column;
    this.#piece(entry)[entry & pieceMask] = page;
    if (page >= 0) this.#send(slot, column, column + 1);
  }

  /** The pages of a slot's first columns. */
  copy(slot: number, columns: number): Int32Array {
    const result = new Int32Array(columns);
    const start = this.rows.starts[slot];
    for (let column = 0; column < columns; column++) result[column] = this.at(start + column);
    return result;
  }

  /** Writes entries [first, first + count) to into[at...]. */
  read(first: number, count: number, into: Int32Array, at: number): void {
    for (let i = 0; i < count; i++) into[at + i] = this.at(first + i);
  }

  /** Takes a row's first columns along from the entries where it was. */
  moved(slot: number, before: number, columns: number): void {
    const start = this.rows.starts[slot];
    for (let done = 0; done < columns;) {
      const source = before + done;
      const target = start + done;
      const room = Math.max(source & pieceMask, target & pieceMask);
      const count = Math.min(columns - done, pieceMask + 1 - room);
      const piece = this.#pieces[source >> pieceBits];
      const at = source & pieceMask;
      this.#piece(target).set(piece.subarray(at, at + count), target & pieceMask);
      done += count;
    }
    if (columns > sentMost)
      this.moves = withTriple(this.moves, this.moveCount++, before, start, columns);
    else if (columns > 0) this.#send(slot, 0, columns);
  }

  /** Forgets what the device lacks of a slot's columns from `columns` on. */
  cut(slot: number, columns: number): void {
    if (this.to[slot] > columns) this.to[slot] = columns;
  }

  /** Forgets all that the device lacks, after it went there. */
  clearUpdates(): void {
    for (let i = 0; i < this.changedCount; i++) {
      const slot = this.changed[i];
      this.#isChanged[slot] = this.from[slot] = this.to[slot] = 0;
    }
    this.changedCount = this.moveCount = 0;
  }

  #send(slot: number, from: number, to: number): void {
    if (this.#isChanged[slot] === 0) {
      this.#isChanged[slot] = 1;
      this.changed[this.changedCount++] = slot;
    }
    const isNone = this.from[slot] >= this.to[slot];
    if (isNone || from < this.from[slot]) this.from[slot] = from;
    if (isNone || to > this.to[slot]) this.to[slot] = to;
  }

  #piece(entry: number): Int32Array {
    return (this.#pieces[entry >> pieceBits] ??= new Int32Array(1 << pieceBits));
  }

  #check(slot: number, column: number): void {
    const { capacities } = this.rows;
    if (!(slot >= 0 && slot < capacities.length && (slot | 0) === slot)) {
      const allowed = `an integer from 0 to ${capacities.length - 1}`;
      throw new OptionError("slot", slot, allowed, "use a live slot.");
    }
    if (!(column >= 0 && column < capacities[slot] && (column | 0) === column))
      throw new OptionError(
        "column",
        column,
        `an integer from 0 to ${capacities[slot] - 1}`,
        "grow the row first.",
      );
  }
}

/** Writes a triple at a place, in an array of twice the size where it is full, and returns it. */
export function withTriple(
  triples: Int32Array,
  place: number,
  a: number,
  b: number,
  c: number,
): Int32Array {
  let result = triples;
  const at = 3 * place;
  if (at === triples.length) {
    result = new Int32Array(2 * at);
    result.set(triples);
  }
  result[at] = a;
  result[at + 1] = b;
  result[at + 2] = c;
  return result;
}
