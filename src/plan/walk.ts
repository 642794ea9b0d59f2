import { type CostModel, pieceCost } from "./cost.ts";
import { type IntList, Piece, Tile, tileInts } from "./list.ts";

/**
 * The decode schedule: tiles in order, cut into contiguous stretches of equal cost, one for each
 * processor. A processor's stretch ends inside at most one tile and begins inside at most one, so
 * it writes at most two partial states; a tile cut in k pieces has k - 1 cuts, of which there are
 * fewer than processors. Cuts fall on multiples of `kvTile`. A piece weighs what is left of its
 * stretch: taken in this order, pieces begin about when they do in their stretches, whoever takes
 * them.
 */
export function walk(
  tiles: IntList,
  pieces: IntList,
  kernelClass: number,
  kvTile: number,
  processors: number,
  costs: CostModel,
): void {
  let total = 0;
  let mostRows = 0;
  const { data } = tiles;
  for (let t = 0; t < tiles.length; t++) {
    const at = t * tileInts;
    if (data[at + Tile.kernelClass] !== kernelClass) continue;
    const keys = data[at + Tile.kvEnd] - data[at + Tile.kvStart];
    const rows = data[at + Tile.rowCount];
    if (rows > mostRows) mostRows = rows;
    if (keys > 0) total += pieceCost(costs, rows, keys);
  }
  // Where there is little work, it is cut for fewer processors.
  const least = pieceCost(costs, mostRows, costs.leastKeys);
  const wanted = Math.max(least, shareOf(costs, total, processors));
  let rest = total;
  let processor = 0;
  let share = wanted;
  let left = share;
  for (let t = 0; t < tiles.length; t++) {
    const at = t * tileInts;
    if (data[at + Tile.kernelClass] !== kernelClass) continue;
    const rows = data[at + Tile.rowCount];
    const perKey = 1 + costs.rowKeys * rows;
    const end = data[at + Tile.kvEnd];
    let start = data[at + Tile.kvStart];
    data[at + Tile.firstPiece] = pieces.length;
    while (start < end) {
      let cut = end;
      const fits = pieceCost(costs, rows, end - start) <= left || processor === processors - 1;
      if (!fits) {
        const keys = (left - costs.pieceKeys) / perKey;
        const aligned = Math.round((start + keys) / kvTile) * kvTile;
        if (aligned - start >= costs.leastKeys) {
          if (end - aligned >= costs.leastKeys) cut = aligned;
        } else if (left < share) {
          // Too little is left here for a piece: the next processor starts with this tile.
          processor++;
          left = share = Math.max(wanted, shareOf(costs, rest, processors - processor));
          continue;
        }
      }
      const cost = pieceCost(costs, rows, cut - start);
      addPiece(pieces, t, start, cut, left);
      data[at + Tile.pieceCount]++;
      left -= cost;
      rest -= cost - (cut < end ? costs.pieceKeys : 0);
      start = cut;
      // A cut ends the processor's stretch, and so does a full one. A deficit from rounding is
      // shared again; a surplus makes no later share smaller, so that pieces stay alike.
      if ((start < end || left <= 0) && processor < processors - 1) {
        processor++;
        left = share = Math.max(wanted, shareOf(costs, rest, processors - processor));
      }
    }
  }
}

/** What each of some processors takes of work that is cut once for all but the first. */
export function shareOf(costs: CostModel, cost: number, processors: number): number {
  return (cost + costs.pieceKeys * (processors - 1)) / processors;
}

/** Weights only order pieces: what int32 cannot hold counts as equal. */
const maxWeight = 0x7fffffff;

/** Appends a piece. */
export function addPiece(
  pieces: IntList,
  tile: number,
  start: number,
  end: number,
  weight: number,
): void {
  const at = pieces.add();
  const { data } = pieces;
  data[at + Piece.tile] = tile;
  data[at + Piece.kvStart] = start;
  data[at + Piece.kvEnd] = end;
  data[at + Piece.partialRow] = -1;
  data[at + Piece.weight] = weight < maxWeight ? Math.ceil(weight) : maxWeight;
}
