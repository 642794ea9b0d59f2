import { type CostModel, pieceCost } from "./cost.ts";
import { type IntList, Tile, tileInts } from "./list.ts";
import { addPiece } from "./walk.ts";

/**
 * What a part may exceed a place's share by: parts a little shorter would be more than the places,
 * and the last of them would run in a round of their own.
 */
const excess = 1.1;

/**
 * The prefill schedule, whose pieces are taken longest first (Graham 1969). A tile is cut along its
 * keys only where it would hold more than about a place's share, into equal parts at multiples of
 * the class's key tile: as at most `places` tiles are longer than the share, parts number under
 * twice the places. Every piece has a record in each of `copies` heads.
 */
export function cutToShare(
  tiles: IntList,
  pieces: IntList,
  kernelClass: number,
  kvTile: number,
  places: number,
  copies: number,
  costs: CostModel,
): void {
  const share = (total(tiles, kernelClass, costs) * copies) / places;
  for (let t = 0; t < tiles.length; t++) {
    const at = t * tileInts;
    if (tiles.data[at + Tile.kernelClass] === kernelClass)
      cutTile(tiles, pieces, t, kvTile, share, costs);
  }
}

/** Cost of all tiles of a class, for one head. */
function total(tiles: IntList, kernelClass: number, costs: CostModel): number {
  const { data } = tiles;
  let sum = 0;
  for (let t = 0; t < tiles.length; t++) {
    const at = t * tileInts;
    if (data[at + Tile.kernelClass] !== kernelClass) continue;
    const keys = data[at + Tile.kvEnd] - data[at + Tile.kvStart];
    if (keys > 0) sum += pieceCost(costs, data[at + Tile.rowCount], keys);
  }
  return sum;
}

function cutTile(
  tiles: IntList,
  pieces: IntList,
  tile: number,
  kvTile: number,
  share: number,
  costs: CostModel,
): void {
  const { data } = tiles;
  const at = tile * tileInts;
  const start = data[at + Tile.kvStart];
  const end = data[at + Tile.kvEnd];
  const rows = data[at + Tile.rowCount];
  if (end <= start) return;
  const cost = pieceCost(costs, rows, end - start);
  data[at + Tile.firstPiece] = pieces.length;
  if (cost <= excess * share) {
    addPiece(pieces, tile, start, end, cost);
    data[at + Tile.pieceCount] = 1;
    return;
  }
  const keyTiles = Math.ceil(end / kvTile) - Math.floor(start / kvTile);
  const most = Math.max(1, Math.floor((end - start) / costs.leastKeys));
  const parts = Math.min(Math.ceil(cost / (excess * share) - 1e-9), most, keyTiles);
  let from = start;
  for (let part = 1; part <= parts; part++) {
    const cut = Math.round((start + ((end - start) * part) / parts) / kvTile) * kvTile;
    const to = part === parts ? end : Math.min(cut, end);
    if (to <= from) continue;
    addPiece(pieces, tile, from, to, pieceCost(costs, rows, to - from));
    data[at + Tile.pieceCount]++;
    from = to;
  }
}

/** Batch-invariant pieces: every tile cut at the absolute multiples of `chunk` keys. */
export function cutAtMultiples(
  tiles: IntList,
  pieces: IntList,
  chunk: number,
  costs: CostModel,
): void {
  const { data } = tiles;
  for (let tile = 0; tile < tiles.length; tile++) {
    const at = tile * tileInts;
    const end = data[at + Tile.kvEnd];
    const rows = data[at + Tile.rowCount];
    data[at + Tile.firstPiece] = pieces.length;
    for (let from = data[at + Tile.kvStart]; from < end;) {
      const to = Math.min(end, (Math.floor(from / chunk) + 1) * chunk);
      addPiece(pieces, tile, from, to, pieceCost(costs, rows, to - from));
      data[at + Tile.pieceCount]++;
      from = to;
    }
  }
}
