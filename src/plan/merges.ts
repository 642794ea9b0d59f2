import { IntList, Tile, tileInts } from "./list.ts";
import type { Tiles } from "./tiles.ts";

/** Fields of an interval of packed rows that the same tiles cover. */
export const Interval = {
  headGroup: 0,
  rowStart: 1,
  rowEnd: 2,
  firstTile: 3,
  tileCount: 4,
} as const;

/** Ints of an interval. */
export const intervalInts = 5;

/**
 * Finds, for every packed row, which tiles hold parts of its state: a sweep over the levels at
 * once. Rows with one part write their output; rows with more write partial states, which merge
 * in the order of level and key; rows with none get an empty piece, so that 0 and -inf are
 * written.
 */
export class Intervals {
  /** Intervals whose rows need a merge. */
  readonly merged = new IntList(intervalInts);
  /** Intervals that no tile with keys covers. */
  readonly empty = new IntList(intervalInts);
  /** Tiles of the merged intervals. */
  readonly tiles = new IntList(1);
  #cursors = new Int32Array(4);

  /** Sweeps all head groups; marks the tiles whose pieces are partial. */
  sweep(tiles: Tiles, rowEnd: number): void {
    this.merged.clear();
    this.empty.clear();
    this.tiles.clear();
    if (tiles.levels === 1) {
      for (let group = 0; group < tiles.headGroups; group++) this.#single(tiles, group, rowEnd);
      return;
    }
    if (this.#cursors.length < tiles.levels) this.#cursors = new Int32Array(tiles.levels);
    // Marking comes first: whether a tile's pieces are partial decides where its other rows go.
    for (let group = 0; group < tiles.headGroups; group++) this.#pass(tiles, group, rowEnd, true);
    for (let group = 0; group < tiles.headGroups; group++) this.#pass(tiles, group, rowEnd, false);
  }

  /** One level: every tile is an interval of its own, and rows between tiles are empty. */
  #single(tiles: Tiles, group: number, rowEnd: number): void {
    const { data } = tiles.list;
    const starts = tiles.starts.data;
    let row = 0;
    for (let t = starts[group]; t < starts[group + 1]; t++) {
      const at = t * tileInts;
      const start = data[at + Tile.rowStart];
      if (start > row) addInterval(this.empty, group, row, start, 0, 0);
      row = start + data[at + Tile.rowCount];
      const count = data[at + Tile.pieceCount];
      if (count === 0) {
        addInterval(this.empty, group, start, row, 0, 0);
      } else if (count > 1) {
        data[at + Tile.partial] = 1;
        data[at + Tile.firstMerge] = this.merged.length;
        addInterval(this.merged, group, start, row, this.tiles.length, 1);
        this.#addTile(t);
      }
    }
    if (row < rowEnd) addInterval(this.empty, group, row, rowEnd, 0, 0);
  }

  #pass(tiles: Tiles, group: number, rowEnd: number, marking: boolean): void {
    const { data } = tiles.list;
    const { levels } = tiles;
    const starts = tiles.starts.data;
    const cursors = this.#cursors;
    for (let l = 0; l < levels; l++) cursors[l] = starts[group * levels + l];
    let row = 0;
    while (row < rowEnd) {
      let next = rowEnd;
      let parts = 0;
      let partial = 0;
      const firstTile = this.tiles.length;
      for (let l = 0; l < levels; l++) {
        const end = starts[group * levels + l + 1];
        let t = cursors[l];
        while (t < end && tileEnd(data, t) <= row) t++;
        cursors[l] = t;
        if (t === end) continue;
        const at = t * tileInts;
        const start = data[at + Tile.rowStart];
        if (start > row) {
          if (start < next) next = start;
          continue;
        }
        if (tileEnd(data, t) < next) next = tileEnd(data, t);
        if (data[at + Tile.pieceCount] === 0) continue;
        parts += data[at + Tile.pieceCount];
        partial |= data[at + Tile.partial];
        if (!marking) this.#addTile(t);
      }
      if (marking) {
        if (parts > 1) this.#mark(tiles, group, row);
      } else if (parts === 0) {
        addInterval(this.empty, group, row, next, 0, 0);
        this.tiles.length = firstTile;
      } else if (partial === 1) {
        for (let i = firstTile; i < this.tiles.length; i++) {
          const at = this.tiles.data[i] * tileInts;
          if (data[at + Tile.firstMerge] < 0) data[at + Tile.firstMerge] = this.merged.length;
        }
        addInterval(this.merged, group, row, next, firstTile, this.tiles.length - firstTile);
      } else {
        this.tiles.length = firstTile;
      }
      row = next;
    }
  }

  #addTile(tile: number): void {
    const at = this.tiles.add();
    this.tiles.data[at] = tile;
  }

  /** Marks every tile with pieces that covers `row`. */
  #mark(tiles: Tiles, group: number, row: number): void {
    const { data } = tiles.list;
    const starts = tiles.starts.data;
    for (let l = 0; l < tiles.levels; l++) {
      const t = this.#cursors[l];
      if (t === starts[group * tiles.levels + l + 1]) continue;
      const at = t * tileInts;
      if (data[at + Tile.rowStart] <= row && data[at + Tile.pieceCount] > 0) {
        data[at + Tile.partial] = 1;
      }
    }
  }
}

function tileEnd(data: Int32Array, tile: number): number {
  return data[tile * tileInts + Tile.rowStart] + data[tile * tileInts + Tile.rowCount];
}

function addInterval(
  list: IntList,
  group: number,
  rowStart: number,
  rowEnd: number,
  firstTile: number,
  tileCount: number,
): void {
  const at = list.add();
  list.data[at + Interval.headGroup] = group;
  list.data[at + Interval.rowStart] = rowStart;
  list.data[at + Interval.rowEnd] = rowEnd;
  list.data[at + Interval.firstTile] = firstTile;
  list.data[at + Interval.tileCount] = tileCount;
}
