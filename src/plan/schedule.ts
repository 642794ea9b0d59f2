import { type CostModel, pieceCost } from "./cost.ts";
import { type IntList, Piece, pieceInts, Tile, tileInts } from "./list.ts";
import { addPiece } from "./walk.ts";

const buckets = 1024;

/**
 * The prefill schedule: longest processing time first (Graham 1969), ties by lowest index; costs
 * within a thousandth of the longest count as equal. A tile is cut along its keys only where it
 * would hold more than a processor's share, into equal parts at multiples of the class's key tile:
 * as at most `processors` tiles are longer than the share, parts number under twice the processors.
 */
export class LongestFirst {
  /** Pieces of the last schedule in the order in which they are taken. */
  order = new Int32Array(256);
  count = 0;
  readonly #offsets = new Int32Array(buckets + 1);

  /** Cuts the tiles of one class into pieces and orders them. */
  schedule(
    tiles: IntList,
    pieces: IntList,
    kernelClass: number,
    kvTile: number,
    processors: number,
    units: number,
    costs: CostModel,
  ): void {
    const first = pieces.length;
    const share = (total(tiles, kernelClass, costs) * units) / processors;
    for (let t = 0; t < tiles.length; t++) {
      const at = t * tileInts;
      if (tiles.data[at + Tile.kernelClass] === kernelClass)
        cutTile(tiles, pieces, t, kvTile, share, costs);
    }
    this.#sort(pieces, first);
  }

  /** Orders all pieces longest first, as batch-invariant plans need. */
  orderAll(pieces: IntList): void {
    this.#sort(pieces, 0);
  }

  #sort(pieces: IntList, first: number): void {
    const count = (this.count = pieces.length - first);
    if (count === 0) return;
    if (this.order.length < count) this.order = new Int32Array(2 * count);
    const { data } = pieces;
    const { order } = this;
    const offsets = this.#offsets;
    offsets.fill(0);
    let most = 1;
    for (let p = first; p < pieces.length; p++) {
      const cost = data[p * pieceInts + Piece.cost];
      if (cost > most) most = cost;
    }
    const scale = (buckets - 1) / most;
    for (let p = first; p < pieces.length; p++) {
      offsets[buckets - ((data[p * pieceInts + Piece.cost] * scale) | 0)]++;
    }
    for (let b = 1; b <= buckets; b++) offsets[b] += offsets[b - 1];
    for (let p = first; p < pieces.length; p++) {
      const bucket = buckets - 1 - ((data[p * pieceInts + Piece.cost] * scale) | 0);
      order[offsets[bucket]++] = p;
    }
  }
}

/** Cost of all tiles of a class, for one unit. */
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
  if (cost <= share) {
    addPiece(pieces, tile, start, end, -1, Math.ceil(cost));
    data[at + Tile.pieceCount] = 1;
    return;
  }
  const keyTiles = Math.ceil(end / kvTile) - Math.floor(start / kvTile);
  const most = Math.max(1, Math.floor((end - start) / costs.leastKeys));
  const parts = Math.min(Math.ceil(cost / share - 1e-9), most, keyTiles);
  let from = start;
  for (let part = 1; part <= parts; part++) {
    const cut = Math.round((start + ((end - start) * part) / parts) / kvTile) * kvTile;
    const to = part === parts ? end : Math.min(cut, end);
    if (to <= from) continue;
    addPiece(pieces, tile, from, to, -1, Math.ceil(pieceCost(costs, rows, to - from)));
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
      addPiece(pieces, tile, from, to, -1, Math.ceil(pieceCost(costs, rows, to - from)));
      data[at + Tile.pieceCount]++;
      from = to;
    }
  }
}
