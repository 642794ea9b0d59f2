import { OptionError } from "../errors.ts";
import { requireInteger, requireLength, requireOptions } from "../require.ts";
import { createLayout, createLevel, type Layout } from "./layout.ts";
import { indptr, integers } from "./validate.ts";

/** Ragged K/V of which each block of query rows keeps some blocks of columns. */
export interface BlockMaskOptions {
  /** `[requests + 1]`: query tokens and K/V tokens of each request. */
  queryIndptr: ArrayLike<number>;
  kvIndptr: ArrayLike<number>;
  /** Query tokens and K/V tokens a block; a request's last block may be cut short. */
  blockRows: number;
  blockColumns: number;
  /**
   * BSR: block row b, counted over all requests, keeps indices[indptr[b]...indptr[b + 1]),
   * ascending column blocks of its own request. With kvHeads, b = blockRow * kvHeads + kvHead.
   */
  indptr: ArrayLike<number>;
  indices: ArrayLike<number>;
  /** Given when each KV head keeps its own columns. */
  kvHeads?: number;
  /** By index, 1 where the block needs no further mask test; by default all of them. */
  full?: ArrayLike<number>;
  /**
   * By index, the pairs of its block, [blockRows, blockColumns]; 0 leaves one out. The layout is
   * then of tokens, and keeps what blocks with `full` have whole.
   */
  mask?: ArrayLike<number>;
}

const blockMaskOptions = [
  "queryIndptr",
  "kvIndptr",
  "blockRows",
  "blockColumns",
  "indptr",
  "indices",
  "kvHeads",
  "full",
  "mask",
];

/**
 * The layout of a block mask; OptionError for columns that are out of range, repeated or
 * unordered.
 */
export function blockMaskLayout(options: BlockMaskOptions): Layout {
  requireOptions("options", options, blockMaskOptions);
  const { blockRows, blockColumns, kvHeads } = options;
  requireInteger("blockRows", blockRows, 1, 0x7fffffff);
  requireInteger("blockColumns", blockColumns, 1, 0x7fffffff);
  const { full, mask } = options;
  const width = mask === undefined ? blockColumns : 1;
  const builder = new SparseBuilder(options.queryIndptr, options.kvIndptr, width, kvHeads);
  const { queries } = builder;
  let blocks = 0;
  for (let r = 0; r + 1 < queries.length; r++)
    blocks += Math.ceil((queries[r + 1] - queries[r]) / blockRows);
  const starts = indptr("indptr", options.indptr, blocks * builder.heads + 1);
  const indices = integers("indices", options.indices);
  requireLength("indices", options.indices, starts[blocks * builder.heads]);
  if (full !== undefined) requireLength("full", full, indices.length);
  if (mask !== undefined) requireLength("mask", mask, indices.length * blockRows * blockColumns);
  const bsr = { starts, indices, blockRows, blockColumns, full, mask };
  let row = 0;
  for (let r = 0; r + 1 < queries.length; r++) {
    for (let token = queries[r]; token < queries[r + 1]; token += blockRows) {
      if (mask === undefined) keepBlocks(builder, bsr, row, r, token);
      else {
        const end = Math.min(token + blockRows, queries[r + 1]);
        for (let each = token; each < end; each++)
          keepPairs(builder, bsr, row, r, each, each - token);
      }
      row += builder.heads;
    }
  }
  return builder.layout();
}

/** A block mask that was checked. */
interface Bsr {
  readonly starts: Int32Array;
  readonly indices: Int32Array;
  readonly blockRows: number;
  readonly blockColumns: number;
  readonly full: ArrayLike<number> | undefined;
  readonly mask: ArrayLike<number> | undefined;
}

/** Keeps the blocks of a block row, whose rows by head begin at `row`. Errors: OptionError. */
function keepBlocks(builder: SparseBuilder, bsr: Bsr, row: number, r: number, token: number): void {
  const { starts, indices, full } = bsr;
  builder.startRequestRow(r, token);
  for (let head = 0; head < builder.heads; head++) {
    for (let i = starts[row + head]; i < starts[row + head + 1]; i++)
      if (!builder.keep(indices[i], full === undefined || Boolean(full[i])))
        throw unsorted(i, indices[i], builder.columnCount(r));
    builder.endRow();
  }
}

/** Keeps what one query token of a block row sees within its blocks. Errors: OptionError. */
function keepPairs(
  builder: SparseBuilder,
  bsr: Bsr,
  row: number,
  r: number,
  token: number,
  within: number,
): void {
  const { starts, indices, blockRows, blockColumns, full } = bsr;
  const keys = builder.columnCount(r);
  const columns = Math.ceil(keys / blockColumns);
  builder.startRequestRow(r, token);
  for (let head = 0; head < builder.heads; head++) {
    for (let i = starts[row + head]; i < starts[row + head + 1]; i++) {
      const isNext = i === starts[row + head] || indices[i] > indices[i - 1];
      if (!isNext || indices[i] >= columns) throw unsorted(i, indices[i], columns);
      const first = indices[i] * blockColumns;
      const count = Math.min(blockColumns, keys - first);
      const at = (i * blockRows + within) * blockColumns;
      const isWhole = full !== undefined && Boolean(full[i]);
      for (let column = 0; column < count; column++)
        if (isWhole || bsr.mask![at + column]) builder.keep(first + column, true);
    }
    builder.endRow();
  }
}

function unsorted(index: number, column: number, columns: number): OptionError {
  return new OptionError(
    `indices[${index}]`,
    column,
    `above the row's index before it and below ${columns}`,
    "sort each row's column blocks, each once and within its request.",
  );
}

/** Ragged K/V of which each query token keeps some tokens. */
export interface TokenMaskOptions {
  /** `[requests + 1]`: query tokens and K/V tokens of each request. */
  queryIndptr: ArrayLike<number>;
  kvIndptr: ArrayLike<number>;
  /**
   * Request after request, [query token, K/V token] (with kvHeads [query token, KV head, K/V
   * token]): 0 leaves out.
   */
  mask: ArrayLike<number>;
  /** Given when each KV head keeps its own tokens. */
  kvHeads?: number;
}

/**
 * The layout of a token mask, block size 1; neighbouring query tokens with equal rows share one.
 */
export function tokenMaskLayout(options: TokenMaskOptions): Layout {
  requireOptions("options", options, ["queryIndptr", "kvIndptr", "mask", "kvHeads"]);
  const { mask, kvHeads } = options;
  const builder = new SparseBuilder(options.queryIndptr, options.kvIndptr, 1, kvHeads);
  const { queries, keys, heads } = builder;
  let size = 0;
  for (let r = 0; r + 1 < queries.length; r++)
    size += (queries[r + 1] - queries[r]) * heads * (keys[r + 1] - keys[r]);
  requireLength("mask", mask, size);
  let at = 0;
  for (let r = 0; r + 1 < queries.length; r++) {
    const keyCount = keys[r + 1] - keys[r];
    const rowSize = heads * keyCount;
    for (let token = queries[r]; token < queries[r + 1]; token++, at += rowSize) {
      if (token > queries[r] && sameRow(mask, at, rowSize)) continue;
      builder.startRequestRow(r, token);
      for (let head = 0; head < heads; head++) {
        for (let key = 0; key < keyCount; key++)
          if (mask[at + head * keyCount + key]) builder.keep(key, true);
        builder.endRow();
      }
    }
  }
  return builder.layout();
}

function sameRow(mask: ArrayLike<number>, at: number, size: number): boolean {
  for (let i = at; i < at + size; i++)
    if (Boolean(mask[i]) !== Boolean(mask[i - size])) return false;
  return true;
}

/** Collects kept columns row by row. */
class SparseBuilder {
  readonly queries: Int32Array;
  readonly keys: Int32Array;
  readonly heads: number;
  readonly #perHead: boolean;
  readonly #blockSize: number;
  readonly #starts: number[] = [];
  readonly #requests: number[] = [];
  readonly #columns: number[] = [];
  readonly #columnIndptr = [0];
  readonly #kvLengths: number[] = [];
  #last = -1;
  #kept = 0;

  constructor(
    queryIndptr: ArrayLike<number>,
    kvIndptr: ArrayLike<number>,
    blockSize: number,
    kvHeads: number | undefined,
  ) {
    this.queries = indptr("queryIndptr", queryIndptr);
    this.keys = indptr("kvIndptr", kvIndptr, this.queries.length);
    if (kvHeads !== undefined) requireInteger("kvHeads", kvHeads, 1, 1 << 16);
    this.heads = kvHeads ?? 1;
    this.#perHead = kvHeads !== undefined;
    this.#blockSize = blockSize;
  }

  columnCount(request: number): number {
    return Math.ceil((this.keys[request + 1] - this.keys[request]) / this.#blockSize);
  }

  startRequestRow(request: number, firstToken: number): void {
    this.#requests.push(request);
    this.#starts.push(firstToken);
  }

  /**
   * Keeps a column of the row; false, and nothing kept, unless it follows the last within range.
   */
  keep(column: number, full: boolean): boolean {
    const request = this.#requests[this.#requests.length - 1];
    if (column <= this.#last || column >= this.columnCount(request)) return false;
    const start = column * this.#blockSize;
    this.#kept += Math.min(this.#blockSize, this.keys[request + 1] - this.keys[request] - start);
    this.#columns.push((column << 1) | Number(full));
    this.#last = column;
    return true;
  }

  endRow(): void {
    this.#columnIndptr.push(this.#columns.length);
    this.#kvLengths.push(this.#kept);
    this.#last = -1;
    this.#kept = 0;
  }

  layout(): Layout {
    const rows = this.#kvLengths.length;
    const level = createLevel(rows);
    level.rowCount = rows;
    level.requestRows = this.#requests.length;
    level.perHead = this.#perHead;
    level.requests = Int32Array.from(this.#requests);
    level.queryIndptr = Int32Array.from([...this.#starts, this.queries[this.queries.length - 1]]);
    for (let row = 0; row < rows; row++)
      level.slots[row] = this.keys[this.#requests[Math.floor(row / this.heads)]];
    level.kvLengths = Int32Array.from(this.#kvLengths);
    level.columnIndptr = Int32Array.from(this.#columnIndptr);
    level.columns = Int32Array.from(this.#columns);
    return createLayout(this.#blockSize, true, [level]);
  }
}
