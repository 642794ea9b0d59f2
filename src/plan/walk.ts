import { type CostModel, pieceCost } from "./cost.ts";
import { type IntList, Piece, Tile, tileInts } from "./list.ts";

/**
 * The decode schedule: tiles in order, cut into contiguous stretches of equal cost, one for each
 * processor. A processor's stretch ends inside at most one tile and begins inside at most one, so
 * it writes at most two partial states; a tile cut in k pieces has k - 1 cuts, of which there are
 * fewer than processors. Cuts fall on multiples of `kvTile`.
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
  // Each cut makes one more piece. Where there is little work, it is cut for fewer processors.
  const even = (total + costs.pieceKeys * (processors - 1)) / processors;
  const share = Math.max(even, pieceCost(costs, mostRows, costs.leastKeys));
  let processor = 0;
  let left = share;
  for (let t = 0; t < tiles.length; t++) {
    const at = t * tileInts;
    if (data[at + Tile.kernelClass] !== kernelClass) continue;
    const rows = data[at + Tile.rowCount];
    const end = data[at + Tile.kvEnd];
    let start = data[at + Tile.kvStart];
    data[at + Tile.firstPiece] = pieces.length;
    while (start < end) {
      const cost = pieceCost(costs, rows, end - start);
      const perKey = 1 + costs.rowKeys * rows;
      let cut = end;
      if (cost > left && processor < processors - 1) {
        const keys = (left - costs.pieceKeys) / perKey;
        const aligned = Math.round((start + keys) / kvTile) * kvTile;
        if (aligned - start < costs.leastKeys) {
          // Too little is left here for a piece: the next processor starts with this tile.
          if (left < share) {
            processor++;
            left += share;
            continue;
          }
        } else if (end - aligned >= costs.leastKeys) {
          cut = aligned;
        }
      }
      addPiece(pieces, t, start, cut, processor, pieceCost(costs, rows, cut - start));
      data[at + Tile.pieceCount]++;
      left -= pieceCost(costs, rows, cut - start);
      start = cut;
      // A cut ends the processor's stretch, and so does a full one; what rounding left is carried
      // on.
      if (start < end && left > 0) {
        processor++;
        left += share;
      }
      while (left <= 0 && processor < processors - 1) {
        processor++;
        left += share;
      }
    }
  }
}

/** Costs only order pieces: what int32 cannot hold counts as equal. */
const maxCost = 0x7fffffff;

/** Appends a piece. */
export function addPiece(
  pieces: IntList,
  tile: number,
  start: number,
  end: number,
  processor: number,
  cost: number,
): void {
  const at = pieces.add();
  const { data } = pieces;
  data[at + Piece.tile] = tile;
  data[at + Piece.kvStart] = start;
  data[at + Piece.kvEnd] = end;
  data[at + Piece.partialRow] = -1;
  data[at + Piece.processor] = processor;
  data[at + Piece.cost] = cost < maxCost ? cost : maxCost;
}
