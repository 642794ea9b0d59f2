import { type CostModel, defaultCosts, pieceCost, startCost } from "./cost.ts";
import { IntList, Piece, pieceInts, Tile, tileInts } from "./list.ts";
import { PieceOrder } from "./order.ts";
import { addPiece } from "./walk.ts";

/** Capacities that are tried, from an even share of the work on. */
const raises = 8;

/** Fields of a part of a rest. */
const Part = { start: 0, end: 1, weight: 2 } as const;
const partInts = 3;

/**
 * Tiles as bins are packed, for kernels to which cuts cost much. Tiles longer than the places'
 * capacity are cut into pieces that fill places, and rests; then each place left takes the longest
 * rest and, again and again, the longest that still fits. Only rests that fit nowhere are cut, to
 * fill what is free. There are at most as many cuts as places, and few in all. A piece weighs what
 * its place has left, as in a walk.
 */
export class Packing {
  readonly #free: Float64Array;
  /** Tiles without what fills places; as pieces, whose partialRow is their first part. */
  readonly #rests = new IntList(pieceInts);
  readonly #order = new PieceOrder(1);
  /** By place in the order, the first rest from there on that is in no place. */
  #next = new Int32Array(256);
  /** Of all rests, those of one side by side. */
  readonly #parts = new IntList(partInts);

  #costs: CostModel = defaultCosts;
  #kernelClass = 0;
  #kvTile = 1;
  #places = 1;

  /** @param most places */
  constructor(
    readonly tiles: IntList,
    most: number,
  ) {
    this.#free = new Float64Array(most);
  }

  /** Appends the pieces of a class; false, and nothing is changed: no capacity suffices. */
  pack(
    pieces: IntList,
    kernelClass: number,
    kvTile: number,
    places: number,
    costs: CostModel,
  ): boolean {
    const { tiles } = this;
    const { data } = tiles;
    this.#costs = costs;
    this.#kernelClass = kernelClass;
    this.#kvTile = kvTile;
    this.#places = places;
    let total = 0;
    let least = 0;
    let count = 0;
    for (let t = 0; t < tiles.length; t++) {
      const at = t * tileInts;
      const keys = data[at + Tile.kvEnd] - data[at + Tile.kvStart];
      if (data[at + Tile.kernelClass] !== kernelClass || keys <= 0) continue;
      const rows = data[at + Tile.rowCount];
      total += pieceCost(costs, rows, keys);
      least = Math.max(least, pieceCost(costs, rows, costs.leastKeys));
      count++;
    }
    const share = (total + costs.pieceKeys * Math.max(0, places - count)) / places;
    // Pieces that fill places are of whole key tiles.
    const step = Math.max(kvTile, share / 64);
    const keyTiles = Math.ceil((share - costs.pieceKeys) / kvTile);
    const even = Math.max(least, costs.pieceKeys + keyTiles * kvTile);
    for (let raise = 0; raise < raises; raise++) {
      const capacity = even + raise * step;
      const filled = this.#fill(capacity);
      if (filled < 0 || !this.#place(filled, capacity)) continue;
      this.#emit(pieces, capacity);
      return true;
    }
    return false;
  }

  /** Cuts off what fills places and lists the rests; returns how many are full, -1: too many. */
  #fill(capacity: number): number {
    const { tiles } = this;
    const { data } = tiles;
    const rests = this.#rests;
    rests.clear();
    let filled = 0;
    for (let t = 0; t < tiles.length; t++) {
      const at = t * tileInts;
      let start = data[at + Tile.kvStart];
      const end = data[at + Tile.kvEnd];
      if (data[at + Tile.kernelClass] !== this.#kernelClass || end <= start) continue;
      const rows = data[at + Tile.rowCount];
      while (this.#cost(rows, end - start) > capacity) {
        start = this.#cutOf(start, end, rows, capacity);
        if (start < 0 || ++filled > this.#places) return -1;
      }
      addPiece(rests, t, start, end, this.#cost(rows, end - start));
    }
    return filled;
  }

  /** Places the rests behind the filled places; false: some do not fit, even cut. */
  #place(filled: number, capacity: number): boolean {
    const free = this.#free;
    this.#order.heaviestFirst(this.#rests, 0, 0);
    const count = this.#rests.length;
    if (this.#next.length <= count) this.#next = new Int32Array(2 * count);
    for (let i = 0; i <= count; i++) this.#next[i] = i;
    this.#parts.clear();
    for (let place = filled; place < this.#places; place++) {
      free[place] = capacity;
      for (let i = this.#after(0); i < count; i = this.#after(this.#fitting(i + 1, free[place]))) {
        if (this.#weight(i) > free[place]) continue;
        this.#placeWhole(i, free[place]);
        free[place] -= this.#weight(i);
      }
    }
    for (let i = this.#after(0); i < count; i = this.#after(i + 1))
      if (!this.#placeCut(i, filled)) return false;
    return true;
  }

  #placeWhole(i: number, free: number): void {
    const { data } = this.#rests;
    const rest = this.#order.pieces[i] * pieceInts;
    data[rest + Piece.partialRow] = this.#parts.length;
    this.#addPart(data[rest + Piece.kvStart], data[rest + Piece.kvEnd], free);
    this.#next[i] = i + 1;
  }

  /** Cuts a rest to fill the emptiest places behind those filled; false: there is no room. */
  #placeCut(i: number, filled: number): boolean {
    const places = this.#places;
    const free = this.#free;
    const { data } = this.#rests;
    const rest = this.#order.pieces[i] * pieceInts;
    const rows = this.tiles.data[data[rest + Piece.tile] * tileInts + Tile.rowCount];
    const end = data[rest + Piece.kvEnd];
    data[rest + Piece.partialRow] = this.#parts.length;
    for (let start = data[rest + Piece.kvStart]; start < end;) {
      let best = filled;
      for (let p = filled + 1; p < places; p++) if (free[p] > free[best]) best = p;
      if (best === places) return false;
      const cut = this.#cutOf(start, end, rows, free[best]);
      if (cut < 0) return false;
      this.#addPart(start, cut, free[best]);
      free[best] -= this.#cost(rows, cut - start);
      start = cut;
    }
    return true;
  }

  #emit(pieces: IntList, capacity: number): void {
    const { tiles } = this;
    const rests = this.#rests.data;
    const parts = this.#parts.data;
    for (let r = 0; r < this.#rests.length; r++) {
      const rest = r * pieceInts;
      const tile = rests[rest + Piece.tile];
      const at = tile * tileInts;
      const rows = tiles.data[at + Tile.rowCount];
      const end = tiles.data[at + Tile.kvEnd];
      tiles.data[at + Tile.firstPiece] = pieces.length;
      for (let start = tiles.data[at + Tile.kvStart]; start < rests[rest + Piece.kvStart];) {
        const cut = this.#cutOf(start, end, rows, capacity);
        addPiece(pieces, tile, start, cut, capacity);
        start = cut;
      }
      for (let part = rests[rest + Piece.partialRow] * partInts; ; part += partInts) {
        addPiece(
          pieces,
          tile,
          parts[part + Part.start],
          parts[part + Part.end],
          parts[part + Part.weight],
        );
        if (parts[part + Part.end] === end) break;
      }
      tiles.data[at + Tile.pieceCount] = pieces.length - tiles.data[at + Tile.firstPiece];
    }
  }

  #addPart(start: number, end: number, weight: number): void {
    const at = this.#parts.add();
    const { data } = this.#parts;
    data[at + Part.start] = start;
    data[at + Part.end] = end;
    data[at + Part.weight] = Math.ceil(weight);
  }

  #weight(i: number): number {
    return this.#rests.data[this.#order.pieces[i] * pieceInts + Piece.weight];
  }

  /** The first rest from `i` on in the order that is in no place. */
  #after(i: number): number {
    const next = this.#next;
    while (next[i] !== i) i = next[i] = next[next[i]];
    return i;
  }

  /** About the first from `i` on that costs at most as much as is free. */
  #fitting(i: number, free: number): number {
    let end = this.#rests.length;
    while (i < end) {
      const middle = (i + end) >> 1;
      if (this.#weight(middle) > free) i = middle + 1;
      else end = middle;
    }
    return i;
  }

  #cost(rows: number, keys: number): number {
    return pieceCost(this.#costs, rows, keys);
  }

  /**
   * Where a piece from `start` ends that costs at most so much, if a piece remains behind it, at a
   * multiple of the key tile then; -1: nowhere.
   */
  #cutOf(start: number, end: number, rows: number, most: number): number {
    if (this.#cost(rows, end - start) <= most) return end;
    const { rowKeys, leastKeys } = this.#costs;
    const keys = (most - startCost(this.#costs, rows)) / (1 + rowKeys * rows);
    const last = Math.min(start + keys, end - leastKeys);
    const cut = Math.floor(last / this.#kvTile) * this.#kvTile;
    return cut - start >= leastKeys ? cut : -1;
  }
}
