/**
 * A growing list of fixed-size int32 items; clearing keeps the memory, so steps make no garbage.
 */
export class IntList {
  data: Int32Array;
  length = 0;

  /** @param stride ints of an item */
  constructor(
    readonly stride: number,
    capacity = 64,
  ) {
    this.data = new Int32Array(stride * capacity);
  }

  clear(): void {
    this.length = 0;
  }

  /** Adds an item of whatever the memory holds; returns the index of its first int. */
  add(): number {
    const at = this.length * this.stride;
    if (at + this.stride > this.data.length) this.reserve(this.length + 1);
    this.length++;
    return at;
  }

  /** Makes room for `items` in all. */
  reserve(items: number): void {
    if (items * this.stride <= this.data.length) return;
    const grown = new Int32Array(Math.max(items * this.stride, 2 * this.data.length));
    grown.set(this.data);
    this.data = grown;
  }
}

/** Fields of a tile: packed rows of one layout row against its visible keys. */
export const Tile = {
  /** -1: all KV heads alike. */
  kvHead: 0,
  level: 1,
  layoutRow: 2,
  request: 3,
  rowStart: 4,
  rowCount: 5,
  kvStart: 6,
  kvEnd: 7,
  fullStart: 8,
  fullEnd: 9,
  kernelClass: 10,
  firstPiece: 11,
  pieceCount: 12,
  /** 1: pieces write partial states. */
  partial: 13,
  columnOffset: 14,
  /** Of the merges of its rows, as intervals; -1: none. */
  firstMerge: 15,
} as const;

/** Ints of a tile. */
export const tileInts = 16;

/** Fields of a piece: part of a tile's keys, one record for each KV head. */
export const Piece = {
  tile: 0,
  kvStart: 1,
  kvEnd: 2,
  partialRow: 3,
  /** What is taken first has most: its cost, in a walk what is left of its stretch. */
  weight: 4,
} as const;

/** Ints of a piece. */
export const pieceInts = 5;
