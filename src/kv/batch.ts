import type { ContextPart } from "./context-part.ts";
import { OptionError, OutOfPagesError, PlanError } from "../errors.ts";
import { isMade, made } from "../made.ts";
import { counted, showAs } from "../shown.ts";
import { requireLength, requireOptions } from "../require.ts";
import { checkLayout, type Layout } from "./layout.ts";
import { integers, maxInt32 } from "./validate.ts";

/**
 * One step: which requests, how many new tokens each, where their K/V lie. Arrays may be longer
 * than the counts say and are reused by the next step of the same owner: then the batch is stale.
 */
export interface Batch {
  ok: true;
  /** Number of the step among those of its owner. */
  generation: number;
  /**
   * True once its owner reserved another step or rolled this one back. Every use of a stale batch,
   * reading its arrays included, throws a PlanError.
   */
  readonly stale: boolean;
  /** The SequencePool the batch belongs to, or null for one made by createBatch. */
  owner: object | null;
  requestCount: number;
  /** Query tokens. Tokens [tokenCount, paddedTokens) are padding, which nothing reads or writes. */
  tokenCount: number;
  paddedTokens: number;
  /** `[requestCount + 1]`: query tokens of request r are `[queryIndptr[r], queryIndptr[r + 1])`. */
  queryIndptr: Int32Array;
  /** `[requestCount]`: tokens of K/V including the new ones. */
  kvLengths: Int32Array;
  /** `[paddedTokens]`: position of each query token in its sequence; padding 0. */
  positions: Int32Array;
  /** `[paddedTokens]`: request of each query token; padding -1. */
  tokenRequests: Int32Array;
  /** By page group, [paddedTokens]: page * pageSize + offset of each new token; padding -1. */
  slotMappings: Int32Array[];
  layout: Layout;
  /** True when positions do not count up by one to the request's last key: look at each. */
  customPositions: boolean;
  /**
   * `[requestCount]`: of each request, the leading keys whose position is their place, its token's
   * number in the request; those behind may have been given others. null: all keys' are.
   */
  plainLengths: Int32Array | null;
  /** @internal Which keys of each request are here, where several processes share them. */
  readonly part?: ContextPart | undefined;
}

/** Too few free pages for a step; nothing was changed. */
export interface OutOfPages {
  readonly ok: false;
  /** Pages to free in `group` before the same step fits. */
  readonly pagesMissing: number;
  readonly group: number;
  readonly error: OutOfPagesError;
}

/** The OutOfPages result; the error (and its stack) is made only when looked at. */
export class OutOfPagesResult implements OutOfPages {
  readonly ok = false;

  constructor(
    readonly pagesMissing: number,
    readonly group: number,
  ) {}

  get error(): OutOfPagesError {
    return new OutOfPagesError(this.pagesMissing, this.group);
  }
}

/**
 * Throws unless `batch` is one that may be used: a PlanError for a stale one, the error of a step
 * that did not fit, or an OptionError for anything else.
 */
export function requireBatch(batch: Batch | OutOfPages | undefined): void {
  if (isMade("batch", batch)) {
    if ((batch as Batch).stale) throw staleBatch();
    return;
  }
  if (batch instanceof OutOfPagesResult) throw batch.error;
  const fix = "pass what cache.reserve or createBatch returned.";
  throw new OptionError("batch", batch, "a batch", fix);
}

/** A batch in a line. */
export function describeBatch({ requestCount, tokenCount, paddedTokens, layout }: Batch): string {
  const padding = paddedTokens > tokenCount ? ` and ${paddedTokens - tokenCount} of padding` : "";
  const what = `${counted(requestCount, "request")}, ${counted(tokenCount, "token")}${padding}`;
  return `Batch: ${what}, ${counted(layout.levels.length, "level")}`;
}

/** The error for a batch whose step is over. */
export function staleBatch(): PlanError {
  return new PlanError(
    "the batch is stale: its cache reserved another step since, or rolled this one back. " +
      "Fix: use the batch that reserve returned last, and end a step before you reserve the next.",
  );
}

/** What createBatch takes; lengths in tokens. */
export interface BatchOptions {
  /** New query tokens of each request. */
  queryLengths: ArrayLike<number>;
  /** Tokens of K/V of each request; may be left out when every level of the layout is dense. */
  kvLengths?: ArrayLike<number>;
  layout: Layout;
  /** Position of each query token; by default the last queryLength positions of the K/V. */
  positions?: ArrayLike<number>;
  /** True: the run takes keyPositions, which say where keys stand. Default: at their places. */
  keyPositions?: boolean;
  /** By page group, page * pageSize + offset of each query token, -1 to skip it. */
  slotMappings?: ArrayLike<number>[];
  /** Pads the token arrays up to this many tokens. */
  padTo?: number;
}

const batchOptions = [
  "queryLengths",
  "kvLengths",
  "layout",
  "positions",
  "keyPositions",
  "slotMappings",
  "padTo",
];

/**
 * A batch over any layout, made once and not reused. Throws OptionError when lengths, positions and
 * layout do not fit each other.
 */
export function createBatch(options: BatchOptions): Batch {
  requireOptions("options", options, batchOptions);
  const queryLengths = integers("queryLengths", options.queryLengths);
  const requestCount = queryLengths.length;
  const queryIndptr = new Int32Array(requestCount + 1);
  let tokenCount = 0;
  for (let r = 0; r < requestCount; r++) {
    tokenCount += queryLengths[r];
    if (tokenCount > tokensMost) throw tooManyTokens("queryLengths", tokenCount);
    queryIndptr[r + 1] = tokenCount;
  }
  checkLayout(options.layout, tokenCount, requestCount);
  const kvLengths = batchKvLengths(options, queryIndptr, requestCount);
  const paddedTokens = paddedCount(options.padTo, tokenCount);
  const positions = new Int32Array(paddedTokens);
  const tokenRequests = new Int32Array(paddedTokens).fill(-1, tokenCount);
  for (let r = 0; r < requestCount; r++) {
    const end = queryIndptr[r + 1];
    tokenRequests.fill(r, queryIndptr[r], end);
    for (let token = queryIndptr[r]; token < end; token++)
      positions[token] = kvLengths[r] - end + token;
  }
  const batch: Batch = {
    ok: true,
    generation: 1,
    stale: false,
    owner: null,
    requestCount,
    tokenCount,
    paddedTokens,
    queryIndptr,
    kvLengths,
    positions,
    tokenRequests,
    slotMappings: batchSlotMappings(options.slotMappings ?? [], tokenCount, paddedTokens),
    layout: options.layout,
    customPositions: writePositions(positions, options.positions, tokenCount),
    plainLengths: options.keyPositions ? new Int32Array(requestCount) : null,
  };
  return showAs(made("batch", batch), describeBatch);
}

/** Tokens after padding to `padTo`; throws OptionError when that is fewer than `tokenCount`. */
export function paddedCount(padTo: number | undefined, tokenCount: number): number {
  if (padTo === undefined) return tokenCount;
  if (Number.isInteger(padTo) && padTo >= tokenCount && padTo <= tokensMost) return padTo;
  throw new OptionError(
    "padTo",
    padTo,
    `an integer from ${tokenCount} (the step's tokens) to ${tokensMost}`,
    "choose a larger padding or fewer new tokens.",
  );
}

/** Throws an OptionError unless `positions` holds `tokenCount` integers from 0 to 2^31 - 2. */
export function checkPositions(positions: ArrayLike<number>, tokenCount: number): void {
  requireLength("positions", positions, tokenCount);
  for (let token = 0; token < tokenCount; token++) {
    const value = positions[token];
    if (typeof value !== "number" || (value | 0) !== value || value < 0 || value === maxInt32)
      throw new OptionError(
        `positions[${token}]`,
        value,
        `an integer from 0 to ${maxInt32 - 1}`,
        "give each new token's position in its sequence.",
      );
  }
}

/** New tokens of a step, at most: every array by token stays below 64 MB. */
export const tokensMost = 1 << 24;

/** The error for a step or a sequence of too many tokens. */
export function tooManyTokens(option: string, tokens: number, most = tokensMost): OptionError {
  return new OptionError(option, tokens, `at most ${most} tokens`, "split the step.");
}

/** Writes the caller's positions over the default ones; true when any differs. */
function writePositions(
  into: Int32Array,
  positions: ArrayLike<number> | undefined,
  tokenCount: number,
): boolean {
  if (positions === undefined) return false;
  checkPositions(positions, tokenCount);
  let custom = false;
  for (let token = 0; token < tokenCount; token++) {
    if (into[token] !== positions[token]) custom = true;
    into[token] = positions[token];
  }
  return custom;
}

function batchSlotMappings(
  given: ArrayLike<number>[],
  tokenCount: number,
  paddedTokens: number,
): Int32Array[] {
  if (!Array.isArray(given))
    throw new OptionError("slotMappings", given, "a list of lists", "give one by page group.");
  return Array.from(given, (mapping: ArrayLike<number>, group) => {
    requireLength(`slotMappings[${group}]`, mapping, tokenCount);
    const result = new Int32Array(paddedTokens).fill(-1, tokenCount);
    result.set(integers(`slotMappings[${group}]`, mapping, -1));
    return result;
  });
}

function batchKvLengths(
  options: BatchOptions,
  queryIndptr: Int32Array,
  requestCount: number,
): Int32Array {
  if (options.kvLengths !== undefined) {
    requireLength("kvLengths", options.kvLengths, requestCount);
    return integers("kvLengths", options.kvLengths);
  }
  const result = new Int32Array(requestCount);
  for (const level of options.layout.levels) {
    if (level.columns !== null)
      throw new OptionError(
        "kvLengths",
        undefined,
        "given with a sparse layout, which does not know the tokens it leaves out",
        "pass each request's whole K/V length.",
      );
    for (let row = 0; row < level.rowCount; row++) {
      if (level.kvLengths[row] === 0) continue;
      const end = level.positionStarts[row] + level.kvLengths[row];
      const requestRow = Math.floor((row * level.requestRows) / level.rowCount);
      let request = level.requests[requestRow];
      do result[request] = Math.max(result[request], end);
      while (++request < requestCount && queryIndptr[request] < level.queryIndptr[requestRow + 1]);
    }
  }
  return result;
}
