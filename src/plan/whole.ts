import { type CostModel, pieceCost } from "./cost.ts";
import { type IntList, Piece, pieceInts, Tile, tileInts } from "./list.ts";
import { addPiece } from "./walk.ts";

/** Appends a piece for each whole tile of a class; returns the cost of all. */
export function leaveWhole(
  tiles: IntList,
  pieces: IntList,
  kernelClass: number,
  costs: CostModel,
): number {
  const { data } = tiles;
  let total = 0;
  for (let t = 0; t < tiles.length; t++) {
    const at = t * tileInts;
    if (data[at + Tile.kernelClass] !== kernelClass) continue;
    const start = data[at + Tile.kvStart];
    const end = data[at + Tile.kvEnd];
    data[at + Tile.firstPiece] = pieces.length;
    data[at + Tile.pieceCount] = end > start ? 1 : 0;
    if (end <= start) continue;
    const cost = pieceCost(costs, data[at + Tile.rowCount], end - start);
    addPiece(pieces, t, start, end, cost);
    total += cost;
  }
  return total;
}

/** Takes the pieces from `first` on back, and what their tiles know of them. */
export function takeBack(tiles: IntList, pieces: IntList, first: number): void {
  for (let p = first; p < pieces.length; p++) {
    const tile = pieces.data[p * pieceInts + Piece.tile];
    tiles.data[tile * tileInts + Tile.pieceCount] = 0;
  }
  pieces.length = first;
}

/** When places that take pieces in their order, each the next when it is free, are done. */
export class Makespan {
  /** A heap by time: what lies at i is no later than what lies at 2 i + 1 and 2 i + 2. */
  readonly #free: Float64Array;

  /** @param most places */
  constructor(most: number) {
    this.#free = new Float64Array(most);
  }

  /** The cost after which the last place is done. */
  of(places: number, pieces: IntList, order: Int32Array, start: number, end: number): number {
    const free = this.#free;
    free.fill(0);
    let last = 0;
    for (let i = start; i < end; i++) {
      const done = free[0] + pieces.data[order[i] * pieceInts + Piece.weight];
      if (done > last) last = done;
      this.#occupy(places, done);
    }
    return last;
  }

  /** The place that is free first is busy until `done`. */
  #occupy(places: number, done: number): void {
    const free = this.#free;
    let at = 0;
    for (let next = 1; next < places; next = 2 * at + 1) {
      if (next + 1 < places && free[next + 1] < free[next]) next++;
      if (free[next] >= done) break;
      free[at] = free[next];
      at = next;
    }
    free[at] = done;
  }
}
