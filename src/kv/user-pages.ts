import { OptionError } from "../errors.ts";
import { requireInteger, requireLength, requireList, requireOptions } from "../require.ts";
import { counted, showAs } from "../shown.ts";
import { pagesLayout, type Layout } from "./layout.ts";
import { identity } from "./step-batch.ts";
import { indptr, type Integers, integers, maxInt32 } from "./validate.ts";

/** Pages that the caller manages, as FlashInfer's wrappers take them. */
export interface UserPagesOptions {
  /** `[requests + 1]`: new query tokens of each request. */
  queryIndptr: Integers;
  /** `[requests + 1]`: request r's pages are `indices[indptr[r]...indptr[r + 1])`. */
  indptr: Integers;
  /** May be longer than indptr says. */
  indices: Integers;
  /** `[requests]`: tokens in the last page, new ones included; 0 for a request without pages. */
  lastPageLength?: Integers | null;
  /** Or `[requests]`: tokens in all of its pages, new ones included. Pages may be to spare. */
  kvLengths?: Integers | null;
  pageSize: number;
  /** Pages of the cache: ids are below it. */
  pageCount: number;
  /** False when nothing is appended; then queries may outnumber K/V and pages stand anywhere. */
  writes?: boolean;
}

/** The caller's pages as a page table with one row per request, and where new tokens go. */
export interface UserPages {
  layout: Layout;
  /** [requests, stride] page ids, -1 past a request's pages: upload it as the page table. */
  table: Int32Array;
  stride: number;
  /** `[requests]`: tokens of K/V, new ones included. */
  kvLengths: Int32Array;
  /**
   * `[query tokens]`: page * pageSize + offset of each new token, -1 throughout when not `writes`.
   */
  slotMapping: Int32Array;
}

const optionNames = [
  "queryIndptr",
  "indptr",
  "indices",
  "lastPageLength",
  "kvLengths",
  "pageSize",
  "pageCount",
  "writes",
];

/**
 * A layout over the caller's own page lists. Throws OptionError for ids out of range, and where
 * tokens are written for a page twice in a request, or one that another request uses.
 */
export function userPages(options: UserPagesOptions): UserPages {
  requireOptions("options", options, optionNames);
  const { pageSize, pageCount, writes = true } = options;
  requireInteger("pageSize", pageSize, 1, maxInt32);
  requireInteger("pageCount", pageCount, 1, Math.min(1 << 26, Math.floor(maxInt32 / pageSize)));
  const queries = indptr("queryIndptr", options.queryIndptr);
  const requests = queries.length - 1;
  const starts = indptr("indptr", options.indptr, requests + 1);
  const used = starts[requests];
  if (requireList("indices", options.indices) < used)
    throw new OptionError(
      "indices.length",
      options.indices.length,
      `${used} or more`,
      "give as many page ids as indptr says.",
    );
  const indices = integers("indices", options.indices, 0, pageCount - 1, used);
  const kvLengths = lengthsInPages(options, starts, pageSize);
  let stride = 1;
  for (let r = 0; r < requests; r++) stride = Math.max(stride, starts[r + 1] - starts[r]);
  const table = new Int32Array(requests * stride).fill(-1);
  for (let r = 0; r < requests; r++)
    table.set(indices.subarray(starts[r], starts[r + 1]), r * stride);
  const users = writes ? countUsers(indices, starts, pageCount) : none;
  const slotMapping = new Int32Array(queries[requests]).fill(-1);
  for (let r = 0; writes && r < requests; r++) {
    const start = kvLengths[r] - (queries[r + 1] - queries[r]);
    if (start < 0) throw tooManyQueries(r, queries[r + 1] - queries[r], kvLengths[r]);
    for (let token = queries[r]; token < queries[r + 1]; token++) {
      const position = start + token - queries[r];
      const index = starts[r] + Math.floor(position / pageSize);
      if (users[indices[index]] > 1) throw sharedWrite(index, indices[index], r);
      slotMapping[token] = indices[index] * pageSize + (position % pageSize);
    }
  }
  const layout = pagesLayout(pageSize, queries, identity(requests), kvLengths);
  return showAs({ layout, table, stride, kvLengths, slotMapping }, describeUserPages);
}

const none = new Int32Array(0);

/**
 * Tokens of each request, whose pages lie between `starts`: from lastPageLength or kvLengths,
 * whichever is given. Errors: OptionError, whose options begin with `prefix`. With `raggedStarts`,
 * requests for which it is not below 0 have no pages, and lengths all the same.
 */
export function lengthsInPages(
  given: Pick<UserPagesOptions, "lastPageLength" | "kvLengths">,
  starts: Int32Array,
  pageSize: number,
  prefix = "",
  raggedStarts?: Integers,
): Int32Array {
  const lastPageLength = given.lastPageLength ?? undefined;
  const kvLengths = given.kvLengths ?? undefined;
  const requests = starts.length - 1;
  if ((lastPageLength === undefined) === (kvLengths === undefined))
    throw new OptionError(
      `${prefix}lastPageLength`,
      lastPageLength,
      "given, or kvLengths instead of it",
      "say how many tokens the pages hold once.",
    );
  if (kvLengths !== undefined) {
    requireLength(`${prefix}kvLengths`, kvLengths, requests);
    const lengths = integers(`${prefix}kvLengths`, kvLengths);
    const ragged = raggedStarts && raggedOf(raggedStarts, starts);
    for (let r = 0; r < requests; r++) {
      if (ragged !== undefined && ragged[r] >= 0) continue;
      const most = (starts[r + 1] - starts[r]) * pageSize;
      if (lengths[r] > most) throw tooLong(`${prefix}kvLengths[${r}]`, lengths[r], most);
    }
    return lengths;
  }
  if (raggedStarts !== undefined) {
    const fix = "say how many tokens each request has.";
    throw new OptionError("lastPageLength", "given", "kvLengths beside raggedStarts", fix);
  }
  requireLength(`${prefix}lastPageLength`, lastPageLength!, requests);
  const lengths = integers(`${prefix}lastPageLength`, lastPageLength!, 0, pageSize);
  for (let r = 0; r < requests; r++) {
    const pages = starts[r + 1] - starts[r];
    if ((lengths[r] === 0) !== (pages === 0))
      throw badLastPage(`${prefix}lastPageLength[${r}]`, lengths[r], pages, pageSize);
    if (pages > 0) lengths[r] += (pages - 1) * pageSize;
  }
  return lengths;
}

/** First tokens of requests that lie in no pages. Errors: OptionError. */
function raggedOf(raggedStarts: Integers, starts: Int32Array): Int32Array {
  requireLength("raggedStarts", raggedStarts, starts.length - 1);
  const ragged = integers("raggedStarts", raggedStarts, -1, maxInt32 - 1);
  for (let r = 0; r < ragged.length; r++) {
    if (ragged[r] < 0 || starts[r] === starts[r + 1]) continue;
    const fix = "give its pages, or where its keys lie.";
    throw new OptionError(`raggedStarts[${r}]`, ragged[r], "-1 of a request with pages", fix);
  }
  return ragged;
}

function describeUserPages({ kvLengths, stride, slotMapping }: UserPages): string {
  const rows = `${counted(kvLengths.length, "row")} of up to ${counted(stride, "page")}`;
  return `UserPages: ${rows}, ${counted(slotMapping.length, "new token")}`;
}

/** Requests that use each page; OptionError for a page twice in one request. */
function countUsers(indices: Int32Array, starts: Int32Array, pageCount: number): Int32Array {
  const users = new Int32Array(pageCount);
  const lastUser = new Int32Array(pageCount).fill(-1);
  for (let r = 0; r + 1 < starts.length; r++) {
    for (let i = starts[r]; i < starts[r + 1]; i++) {
      const page = indices[i];
      if (lastUser[page] === r)
        throw new OptionError(
          `indices[${i}]`,
          page,
          "a page that its request does not list before",
          "list each page of a request once.",
        );
      lastUser[page] = r;
      users[page]++;
    }
  }
  return users;
}

function badLastPage(option: string, value: number, pages: number, pageSize: number): OptionError {
  return new OptionError(
    option,
    value,
    pages === 0 ? "0 for a request without pages" : `an integer from 1 to ${pageSize}`,
    "count the tokens in the request's last page.",
  );
}

function tooLong(option: string, length: number, most: number): OptionError {
  return new OptionError(
    option,
    length,
    `0 to ${most}, the room in the request's pages`,
    "give the request a page for each of its tokens.",
  );
}

function tooManyQueries(request: number, queries: number, kvLength: number): OptionError {
  return new OptionError(
    `queryIndptr[${request + 1}] - queryIndptr[${request}]`,
    queries,
    `at most the request's ${kvLength} tokens in pages`,
    "count the new tokens into its pages, or pass writes: false if nothing is appended.",
  );
}

function sharedWrite(index: number, page: number, request: number): OptionError {
  return new OptionError(
    `indices[${index}]`,
    page,
    `a page of request ${request} alone, which writes it`,
    "copy the shared page first, or pass writes: false if nothing is appended.",
  );
}
