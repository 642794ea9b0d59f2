import { OptionError } from "../errors.ts";
import { requireInteger, requireLength } from "../require.ts";
import { counted, showAs } from "../shown.ts";
import { indptr, integers, maxInt32 } from "./validate.ts";

/**
 * One level: rows of KV, each serving a contiguous range of the batch's query tokens. Arrays may
 * be longer than the counts say. A request-row has one layout row, or one for each KV head
 * (`perHead`).
 */
export interface Level {
  /**
   * Layout rows. With `perHead` request-rows x kvHeads of them: row = requestRow * kvHeads +
   * kvHead.
   */
  rowCount: number;
  /** Request-rows: rowCount, or rowCount / kvHeads with `perHead`. */
  requestRows: number;
  perHead: boolean;
  /** Query tokens of request-row r: [queryIndptr[r], queryIndptr[r + 1]). */
  queryIndptr: Int32Array;
  /** First batch request of each request-row. */
  requests: Int32Array;
  /**
   * By layout row: its page-table row, or its first token when the layout is contiguous. Of a
   * pool's batch, the first entry of its row: as a table, the pool's has a stride of 1. With
   * `raggedRows` also -1 - the first token of a row that lies in no pages.
   */
  slots: Int32Array;
  /** By layout row: kept tokens (dense: all of the row's tokens). */
  kvLengths: Int32Array;
  /**
   * By layout row: position of logical column 0 in the sequence. In a layout over a page table it
   * is a multiple of the block size, and the page of a position is table[slot][position /
   * blockSize].
   */
  positionStarts: Int32Array;
  /** Sparse only, [rowCount + 1]: where each layout row's kept columns lie in `columns`. */
  columnIndptr: Int32Array | null;
  /** Sparse only: (logical column << 1 | full), ascending in a row; full needs no mask test. */
  columns: Int32Array | null;
}

/** Where K/V lie: levels whose attention states are merged, in blocks of `blockSize` tokens. */
export interface Layout {
  /** Tokens per block: the page size, or the width of a sparse column. */
  blockSize: number;
  /** True: slots are first tokens of ragged K/V. False: slots are page-table rows. */
  contiguous: boolean;
  levels: Level[];
  /** True: some rows of a paged layout lie in no pages, one token behind the other. */
  raggedRows?: boolean;
}

/** Block size given to dense ragged layouts, where any would do: kernels step by blocks. */
const denseBlockSize = 64;

/** An empty dense level with room for `rows` layout rows, one per request-row. */
export function createLevel(rows: number): Level {
  const level: Level = {
    rowCount: 0,
    requestRows: 0,
    perHead: false,
    queryIndptr: new Int32Array(rows + 1),
    requests: new Int32Array(rows),
    slots: new Int32Array(rows),
    kvLengths: new Int32Array(rows),
    positionStarts: new Int32Array(rows),
    columnIndptr: null,
    columns: null,
  };
  return showAs(level, describeLevel);
}

function describeLevel({ rowCount, perHead, kvLengths, columns }: Level): string {
  const keys = kvLengths.subarray(0, rowCount).reduce((sum, length) => sum + length, 0);
  const kind = `${columns === null ? "dense" : "sparse"}${perHead ? ", by KV head" : ""}`;
  return `Level: ${counted(rowCount, "row")} of ${counted(keys, "key")} in all, ${kind}`;
}

/** A layout, which console.log shows in a line. */
export function createLayout(blockSize: number, contiguous: boolean, levels: Level[]): Layout {
  return showAs({ blockSize, contiguous, levels }, describeLayout);
}

function describeLayout({ blockSize, contiguous, levels }: Layout): string {
  const kind = contiguous ? "ragged" : "paged";
  return `Layout: ${kind}, ${blockSize} tokens per block; ${levels.map(describeLevel).join("; ")}`;
}

/**
 * Ragged K/V: request r has query tokens [queryIndptr[r], queryIndptr[r + 1]) and K/V tokens
 * [kvIndptr[r], kvIndptr[r + 1]). Throws OptionError for an indptr that decreases or differs in
 * length.
 */
export function raggedLayout(queryIndptr: ArrayLike<number>, kvIndptr: ArrayLike<number>): Layout {
  const queries = indptr("queryIndptr", queryIndptr);
  const keys = indptr("kvIndptr", kvIndptr, queries.length);
  const rows = queries.length - 1;
  const level = createLevel(rows);
  level.rowCount = level.requestRows = rows;
  level.queryIndptr = queries;
  for (let row = 0; row < rows; row++) {
    level.requests[row] = row;
    level.slots[row] = keys[row];
    level.kvLengths[row] = keys[row + 1] - keys[row];
  }
  return createLayout(denseBlockSize, true, [level]);
}

/**
 * Paged K/V: request r has query tokens [queryIndptr[r], queryIndptr[r + 1]) and its first
 * kvLengths[r] tokens in the pages of page-table row slots[r]; or, where raggedStarts[r] is not
 * below 0, in no pages, from that token of the run's kRagged on.
 */
export function pagesLayout(
  pageSize: number,
  queryIndptr: Int32Array,
  slots: Int32Array,
  kvLengths: Int32Array,
  raggedStarts?: ArrayLike<number>,
): Layout {
  requireInteger("pageSize", pageSize, 1, maxInt32);
  for (const [option, value] of Object.entries({ queryIndptr, slots, kvLengths }))
    if (!(value instanceof Int32Array))
      throw new OptionError(option, value, "an Int32Array", "use Int32Array.from.");
  requireLength("queryIndptr", queryIndptr, kvLengths.length + 1);
  requireLength("slots", slots, kvLengths.length);
  const level = createLevel(kvLengths.length);
  level.rowCount = level.requestRows = kvLengths.length;
  level.queryIndptr = queryIndptr;
  level.slots = slots;
  level.kvLengths = kvLengths;
  for (let row = 0; row < level.rowCount; row++) level.requests[row] = row;
  const layout = createLayout(pageSize, false, [level]);
  if (raggedStarts === undefined) return layout;
  requireLength("raggedStarts", raggedStarts, kvLengths.length);
  const starts = integers("raggedStarts", raggedStarts, -1, maxInt32 - 1);
  level.slots = slots.map((slot, row) => (starts[row] < 0 ? slot : -1 - starts[row]));
  layout.raggedRows = starts.some((start) => start >= 0);
  return layout;
}

/**
 * Throws an OptionError unless the layout's rows lie within a batch of that many tokens and
 * requests.
 */
export function checkLayout(layout: Layout, tokenCount: number, requestCount: number): void {
  if (typeof layout !== "object" || layout === null)
    throw layoutError("layout", layout, "a layout, such as of raggedLayout");
  const { levels, blockSize } = layout;
  requireInteger("layout.blockSize", blockSize, 1, maxInt32);
  if (!Array.isArray(levels) || levels.length === 0)
    throw layoutError("layout.levels", levels, "a list of one level or more");
  for (let i = 0; i < levels.length; i++)
    checkLevel(`layout.levels[${i}]`, levels[i], layout, tokenCount, requestCount);
}

function checkLevel(
  name: string,
  level: Level,
  layout: Layout,
  tokenCount: number,
  requestCount: number,
): void {
  if (typeof level !== "object" || level === null)
    throw layoutError(name, level, "a level, such as of raggedLayout");
  for (const part of ["queryIndptr", "requests", "slots", "kvLengths", "positionStarts"] as const)
    if (!(level[part] instanceof Int32Array))
      throw layoutError(`${name}.${part}`, level[part], "an Int32Array");
  const rows = level.rowCount;
  if (!Number.isInteger(rows) || rows < 0 || level.slots.length < rows)
    throw layoutError(`${name}.rowCount`, rows, `an integer from 0 to ${level.slots.length}`);
  const { requestRows } = level;
  requireInteger(`${name}.requestRows`, requestRows, 0, maxInt32);
  if (!Number.isInteger(rows / (requestRows || 1)) || (!level.perHead && requestRows !== rows))
    throw layoutError(`${name}.requestRows`, requestRows, "rowCount, or rowCount / kvHeads");
  let before = 0;
  for (let row = 0; row <= requestRows; row++) {
    const token = level.queryIndptr[row];
    if (!(token >= before && token <= tokenCount))
      throw layoutError(`${name}.queryIndptr[${row}]`, token, `${before} to ${tokenCount}`);
    before = token;
    const request = level.requests[row];
    if (row < requestRows && !(request >= 0 && request < requestCount))
      throw layoutError(`${name}.requests[${row}]`, request, `0 to ${requestCount - 1}`);
  }
  for (let row = 0; row < rows; row++) {
    const length = level.kvLengths[row];
    if (!(length >= 0)) throw layoutError(`${name}.kvLengths[${row}]`, length, "0 or more");
    const slot = level.slots[row];
    if (!(slot >= 0) && !(slot < 0 && layout.raggedRows && !layout.contiguous))
      throw layoutError(`${name}.slots[${row}]`, slot, "0 or more");
    const start = level.positionStarts[row];
    if (!(start >= 0) || (!layout.contiguous && start % layout.blockSize !== 0))
      throw layoutError(
        `${name}.positionStarts[${row}]`,
        start,
        layout.contiguous ? "0 or more" : `a multiple of blockSize (${layout.blockSize})`,
      );
  }
  if (level.columns === null) return;
  if (!(level.columns instanceof Int32Array) || !(level.columnIndptr instanceof Int32Array))
    throw layoutError(`${name}.columns`, level.columns, "Int32Arrays, with columnIndptr");
  checkColumns(name, level, level.columns, layout.blockSize);
}

function checkColumns(name: string, level: Level, columns: Int32Array, blockSize: number): void {
  let before = 0;
  for (let row = 0; row <= level.rowCount; row++) {
    const start = level.columnIndptr?.[row] ?? -1;
    if (!(start >= before && start <= columns.length))
      throw layoutError(`${name}.columnIndptr[${row}]`, start, `${before} to ${columns.length}`);
    for (let i = before; i < start; i++) {
      const least = i === before ? 0 : (columns[i - 1] >> 1) + 1;
      if (columns[i] >> 1 < least)
        throw layoutError(`${name}.columns[${i}]`, columns[i] >> 1, `ascending from ${least} on`);
    }
    const count = start - before;
    if (row > 0 && Math.ceil(level.kvLengths[row - 1] / blockSize) !== count) {
      const allowed = `tokens of the row's ${count} columns, ${blockSize} each but the last`;
      throw layoutError(`${name}.kvLengths[${row - 1}]`, level.kvLengths[row - 1], allowed);
    }
    before = start;
  }
}

function layoutError(option: string, value: unknown, allowed: string): OptionError {
  return new OptionError(option, value, allowed, "make the layout for this batch's requests.");
}
