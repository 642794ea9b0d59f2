import type { Batch } from "../kv/batch.ts";
import type { Level } from "../kv/layout.ts";
import type { PlannerOptions } from "./options.ts";
import type { Plan } from "./plan.ts";
import type { PlanRecord } from "./record.ts";

/** Where a list of kept tokens lies: of a record, or of a whole layout row. */
export type Kept = Pick<PlanRecord, "level" | "positionStart" | "columnOffset">;

/** What a batch and a planner's options say of keys, read one by one, for the proof of a plan. */
export class KeysOfBatch {
  readonly #plan: Plan;
  readonly #batch: Batch;
  readonly #options: PlannerOptions;
  readonly #group: number;
  readonly #namedByToken = new Map<number, Set<number>>();

  constructor(plan: Plan, batch: Batch, options: PlannerOptions) {
    this.#plan = plan;
    this.#batch = batch;
    this.#options = options;
    this.#group = options.queryHeads / options.kvHeads;
  }

  /** Positions that visible() names for one row's query alone. */
  named(row: number): Set<number> {
    const token = Math.floor(row / this.#group);
    const known = this.#namedByToken.get(token);
    if (known !== undefined) return known;
    const { tokenRequests, positions, queryIndptr, kvLengths } = this.#batch;
    const request = tokenRequests[token];
    const tile = {
      request,
      queryStart: positions[token],
      queryEnd: positions[token] + 1,
      queryLength: queryIndptr[request + 1] - queryIndptr[request],
      kvLength: kvLengths[request],
    };
    const named = new Set<number>();
    this.#options.visible!(tile, {
      add(start, end) {
        const last = Math.min(end, tile.kvLength);
        for (let position = Math.max(0, start); position < last; position++) named.add(position);
      },
    });
    this.#namedByToken.set(token, named);
    return named;
  }

  /** Tokens that a row has of a logical column; 0: the column is not kept. */
  tokensOf(level: Level, row: number, column: number): number {
    const { blockSize } = this.#batch.layout;
    const length = level.kvLengths[row];
    const { columns, columnIndptr } = level;
    let place = column;
    if (columns !== null) {
      const list = columns.subarray(columnIndptr![row], columnIndptr![row + 1]);
      place = list.findIndex((each) => each >> 1 === column);
      if (place < 0) return 0;
    }
    return Math.max(0, Math.min(blockSize, length - place * blockSize));
  }

  /** All kept tokens of a layout row. */
  rowOf(l: number, row: number): Kept {
    const level = this.#batch.layout.levels[l];
    const columnOffset =
      level.columnIndptr === null ? -1 : this.columnBase(l) + level.columnIndptr[row];
    return { level: l, positionStart: level.positionStarts[row], columnOffset };
  }

  /** Where the columns of a level's sparse rows start; past the last level: where all end. */
  columnBase(l: number): number {
    let base = 0;
    for (const level of this.#batch.layout.levels.slice(0, l)) {
      if (level.columnIndptr !== null) base += level.columnIndptr[level.rowCount];
    }
    return base;
  }

  /** Position of a kept key. */
  position({ positionStart, columnOffset }: Kept, kept: number): number {
    if (columnOffset < 0) return positionStart + kept;
    const { blockSize } = this.#batch.layout;
    const column = columnOffset + Math.floor(kept / blockSize);
    const logical = this.#plan.sections[this.#plan.offsets.columns + column] >> 1;
    return positionStart + logical * blockSize + (kept % blockSize);
  }

  /**
   * Whether the key at a place may have been given another position: causal mask and window then
   * decide on the device.
   */
  moved(place: number, row: number): boolean {
    const { plainLengths, tokenRequests } = this.#batch;
    if (plainLengths === null) return false;
    return place >= plainLengths[tokenRequests[Math.floor(row / this.#group)]];
  }

  /** Whether causal mask and window let a row see a position (masks restrict further). */
  sees(position: number, row: number): boolean {
    const { causal = false, windowLeft = -1 } = this.#options;
    const query = this.#batch.positions[Math.floor(row / this.#group)];
    if (causal && position > query) return false;
    return windowLeft < 0 || position >= query - windowLeft;
  }

  /** Whether packed bits say nothing of a key: it lies before the tail, or its column is full. */
  unmasked(record: PlanRecord, row: number, position: number): boolean {
    const { mask = "none" } = this.#options;
    if (mask === "none") return true;
    const { layout, tokenRequests, queryIndptr, kvLengths } = this.#batch;
    const level = layout.levels[record.level];
    const { columns, columnIndptr } = level;
    if (columns !== null) {
      const column = Math.floor((position - record.positionStart) / layout.blockSize);
      const layoutRow = this.layoutRow(level, record.kvHead, row);
      const own = columns.subarray(columnIndptr![layoutRow], columnIndptr![layoutRow + 1]);
      return own.includes((column << 1) | 1);
    }
    if (mask === "all") return false;
    const request = tokenRequests[Math.floor(row / this.#group)];
    return position < kvLengths[request] - (queryIndptr[request + 1] - queryIndptr[request]);
  }

  /** The layout row that has a packed row's keys; -1: none. */
  layoutRow(level: Level, kvHead: number, row: number): number {
    const token = Math.floor(row / this.#group);
    for (let r = 0; r < level.requestRows; r++) {
      if (token < level.queryIndptr[r] || token >= level.queryIndptr[r + 1]) continue;
      return level.perHead ? r * this.#options.kvHeads + kvHead : r;
    }
    return -1;
  }
}
