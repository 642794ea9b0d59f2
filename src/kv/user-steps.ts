import { OptionError } from "../errors.ts";
import { requireLength, requireList } from "../require.ts";
import { createLevel, type Level } from "./layout.ts";
import { ListSharer } from "./share-lists.ts";
import type { WorthSharing } from "./share-prefixes.ts";
import { StepArrays, StepBatch } from "./step-batch.ts";
import { lengthsInPages } from "./user-pages.ts";
import { indptr, type Integers, integers, maxInt32 } from "./validate.ts";

/** Sizes that no step goes beyond. */
export interface UserStepSizes {
  readonly pageSize: number;
  /** Pages of the cache: ids are below it. */
  readonly pageCount: number;
  readonly maxBatch: number;
  readonly maxQueryTokens: number;
  /** Entries of all lists of a step. */
  readonly maxEntries: number;
}

/** One level of a step on the host; as UserPagesOptions. */
export interface HostLists {
  readonly queryIndptr: Integers;
  readonly indptr: Integers;
  /** null: page ids lie on the device, and nobody looks at them here. */
  readonly indices: Integers | null;
  readonly lastPageLength?: Integers | null;
  readonly kvLengths?: Integers | null;
}

/** A level that was checked. */
interface Lists {
  readonly option: string;
  readonly queries: Int32Array;
  readonly starts: Int32Array;
  readonly lengths: Int32Array;
  readonly pages: Int32Array | null;
  /** Entries of the levels before. */
  readonly base: number;
}

/** What a step asks for besides its lists. */
export interface UserStepOptions {
  readonly writes: boolean;
  readonly padTo: number | undefined;
  readonly share: WorthSharing | undefined;
  readonly positions: Integers | undefined;
  readonly keyPositions: boolean;
  /** First tokens of the requests' own rows that lie in no pages; -1 of the others. */
  readonly raggedStarts?: Integers | undefined;
}

/**
 * Steps over page lists of the caller. Page ids of all levels make one list of entries, level after
 * level; a layout row's slot is the entry where the pages of position 0 would stand.
 */
export class UserSteps {
  readonly arrays: StepArrays;
  /** `[maxEntries]`: page ids of the levels whose ids lie on the host. */
  readonly entries: Int32Array;
  /** `[requests + 1]`: entries of each request's own list, that of the last level. */
  readonly rowIndptr: Int32Array;
  /** `[paddedTokens]`: place of each token in its request's own list. */
  readonly places: Int32Array;
  /** Where the entries of each level begin, and the end of the last. */
  bases: number[] = [0];
  /** Whether tokens are written. */
  writes = false;
  readonly #sizes: UserStepSizes;
  readonly #levels: Level[] = [];
  readonly #sharer: ListSharer;
  readonly #users: Int32Array;
  /** `[maxBatch]`: no key is known to stand at its place. */
  readonly #plainLengths: Int32Array;

  /** @param owner of the batches */
  constructor(owner: object, sizes: UserStepSizes) {
    this.#sizes = sizes;
    this.arrays = new StepArrays(owner, sizes.pageSize, 0);
    this.arrays.ensure(sizes.maxBatch, sizes.maxQueryTokens);
    this.entries = new Int32Array(sizes.maxEntries);
    this.rowIndptr = new Int32Array(sizes.maxBatch + 1);
    this.places = new Int32Array(sizes.maxQueryTokens);
    this.#users = new Int32Array(sizes.pageCount);
    this.#plainLengths = new Int32Array(sizes.maxBatch);
    this.#sharer = new ListSharer(sizes.pageSize, sizes.maxBatch);
  }

  /**
   * Makes the batch of a step: shared levels from the first on, then each request's own pages. The
   * batch of the step before is stale. Errors: OptionError, and nothing has changed.
   */
  step(shared: readonly HostLists[], own: HostLists, options: UserStepOptions): StepBatch {
    const all = this.#checked(shared, own, options);
    const last = all[all.length - 1];
    const { arrays } = this;
    arrays.generation++;
    arrays.requestCount = last.lengths.length;
    arrays.tokenCount = last.queries[last.lengths.length];
    arrays.paddedTokens = options.padTo ?? arrays.tokenCount;
    this.writes = options.writes;
    const { raggedStarts } = options;
    arrays.layout.raggedRows = raggedStarts !== undefined;
    this.bases = [...all.map(({ base }) => base), last.base + last.starts[last.lengths.length]];
    for (const { pages, base } of all) if (pages !== null) this.entries.set(pages, base);
    this.#writeTokens(last);
    for (let l = 0; l < all.length; l++) this.#writeLevel(l, all);
    if (raggedStarts !== undefined) this.#placeRagged(all.length - 1, raggedStarts);
    arrays.layout.levels = this.#levels.slice(0, all.length);
    this.#writeLengths(all.length);
    arrays.customPositions = options.positions !== undefined;
    if (options.positions !== undefined)
      for (let token = 0; token < arrays.tokenCount; token++)
        arrays.positions[token] = Number(options.positions[token]);
    arrays.plainLengths = options.keyPositions ? this.#plainLengths : null;
    const { share } = options;
    if (share !== undefined && last.pages !== null)
      arrays.layout.levels = this.#sharer.share(this.#levels[0], last, last.pages, share);
    return new StepBatch(arrays);
  }

  /** Every level, checked. */
  #checked(shared: readonly HostLists[], own: HostLists, options: UserStepOptions): Lists[] {
    const { maxBatch, maxQueryTokens, maxEntries } = this.#sizes;
    const all: Lists[] = [];
    for (const [i, lists] of [...shared, own].entries()) {
      const option = i < shared.length ? `shared[${i}].` : "";
      const before = all[i - 1];
      const base = before === undefined ? 0 : before.base + before.starts[before.lengths.length];
      const ragged = i < shared.length ? undefined : options.raggedStarts;
      all.push(this.#checkedLists(option, lists, base, ragged));
    }
    const last = all[all.length - 1];
    const requests = last.lengths.length;
    const tokens = last.queries[requests];
    const padded = options.padTo ?? tokens;
    if (!Number.isInteger(padded) || padded < tokens || padded > maxQueryTokens)
      throw beyond("padTo", padded, `${tokens} (the step's tokens) to ${maxQueryTokens}`);
    if (options.positions !== undefined) {
      requireLength("positions", options.positions, tokens);
      integers("positions", options.positions, 0, maxInt32 - 1);
    }
    if (requests > maxBatch) throw beyond("queryIndptr.length", requests + 1, `to ${maxBatch + 1}`);
    const entries = last.base + last.starts[requests];
    if (entries > maxEntries) throw beyond("indices", `${entries} pages`, `to ${maxEntries} pages`);
    for (let l = 0; l + 1 < all.length; l++) requireNested(all[l], all[l + 1], tokens);
    if (options.writes) this.#requireOwnPages(all);
    return all;
  }

  #checkedLists(option: string, lists: HostLists, base: number, ragged?: Integers): Lists {
    const { pageSize, pageCount } = this.#sizes;
    const queries = indptr(`${option}queryIndptr`, lists.queryIndptr);
    const starts = indptr(`${option}indptr`, lists.indptr, queries.length);
    const lengths = lengthsInPages(lists, starts, pageSize, option, ragged);
    const used = starts[lengths.length];
    const given = lists.indices;
    if (given !== null && requireList(`${option}indices`, given) < used) {
      const fix = "give as many page ids as indptr says.";
      throw new OptionError(`${option}indices.length`, given.length, `${used} or more`, fix);
    }
    const pages =
      given === null ? null : integers(`${option}indices`, given, 0, pageCount - 1, used);
    return { option, queries, starts, lengths, pages, base };
  }

  /** A page that is written stands once in all lists that are known here. */
  #requireOwnPages(all: readonly Lists[]): void {
    const { pageSize } = this.#sizes;
    const users = this.#users;
    const last = all[all.length - 1];
    for (let l = 0; l < all.length; l++) count(users, all[l].pages);
    let failure: OptionError | undefined;
    for (let r = 0; r < last.lengths.length && failure === undefined; r++) {
      const tokens = last.queries[r + 1] - last.queries[r];
      const start = last.lengths[r] - tokens;
      if (start < 0) failure = tooManyQueries(r, tokens, last.lengths[r]);
      if (last.pages === null || tokens === 0 || start < 0) continue;
      const end = Math.ceil(last.lengths[r] / pageSize);
      for (let column = Math.floor(start / pageSize); column < end; column++) {
        const at = last.starts[r] + column;
        if (users[last.pages[at]] > 1) failure ??= writtenTwice(at, last.pages[at], r);
      }
    }
    for (let l = 0; l < all.length; l++) forget(users, all[l].pages);
    if (failure !== undefined) throw failure;
  }

  #writeTokens({ queries, starts, lengths, base }: Lists): void {
    const { tokenRequests, positions, queryIndptr, tokenCount, paddedTokens } = this.arrays;
    for (let r = 0; r < lengths.length; r++) {
      const end = queries[r + 1];
      queryIndptr[r + 1] = end;
      this.rowIndptr[r] = base + starts[r];
      for (let token = queries[r]; token < end; token++) {
        tokenRequests[token] = r;
        this.places[token] = lengths[r] - end + token;
      }
    }
    this.rowIndptr[lengths.length] = base + starts[lengths.length];
    for (let token = tokenCount; token < paddedTokens; token++) {
      tokenRequests[token] = -1;
      this.places[token] = positions[token] = 0;
    }
  }

  /** The rows of a level, whose positions begin where those of the level before end. */
  #writeLevel(l: number, all: readonly Lists[]): void {
    const { pageSize, maxBatch } = this.#sizes;
    const { queries, starts, lengths, base } = all[l];
    const rows = lengths.length;
    let level = this.#levels[l];
    if (level === undefined || level.slots.length < rows)
      this.#levels[l] = level = createLevel(Math.max(maxBatch, rows));
    level.rowCount = level.requestRows = rows;
    level.queryIndptr = l === all.length - 1 ? this.arrays.queryIndptr : queries;
    const before = l === 0 ? undefined : this.#levels[l - 1];
    let parent = 0;
    for (let row = 0; row < rows; row++) {
      const token = queries[row];
      const isEmpty = token === queries[row + 1];
      while (before !== undefined && !isEmpty && before.queryIndptr[parent + 1] <= token) parent++;
      const isFirst = before === undefined || isEmpty;
      const pages = isFirst ? 0 : Math.ceil(before.kvLengths[parent] / pageSize);
      const start = isFirst ? 0 : before.positionStarts[parent] + pages * pageSize;
      level.requests[row] = isEmpty ? 0 : this.arrays.tokenRequests[token];
      level.slots[row] = base + starts[row] - start / pageSize;
      level.positionStarts[row] = start;
      level.kvLengths[row] = lengths[row];
    }
  }

  #placeRagged(l: number, raggedStarts: Integers): void {
    const { slots, rowCount } = this.#levels[l];
    for (let row = 0; row < rowCount; row++) {
      const first = Number(raggedStarts[row]);
      if (first >= 0) slots[row] = -1 - first;
    }
  }

  /** Lengths over all levels, and the positions of the last tokens in them. */
  #writeLengths(levels: number): void {
    const { kvLengths, positions, queryIndptr, requestCount, tokenRequests } = this.arrays;
    const last = this.#levels[levels - 1];
    for (let r = 0; r < requestCount; r++)
      kvLengths[r] = last.kvLengths[r] === 0 ? 0 : last.positionStarts[r] + last.kvLengths[r];
    for (let l = levels - 2; l >= 0; l--) {
      const level = this.#levels[l];
      for (let row = 0; row < level.rowCount; row++) {
        if (level.kvLengths[row] === 0) continue;
        const end = level.positionStarts[row] + level.kvLengths[row];
        for (let token = level.queryIndptr[row]; token < level.queryIndptr[row + 1]; token++)
          if (kvLengths[tokenRequests[token]] < end) kvLengths[tokenRequests[token]] = end;
      }
    }
    for (let r = 0; r < requestCount; r++) {
      const end = queryIndptr[r + 1];
      for (let token = queryIndptr[r]; token < end; token++)
        positions[token] = kvLengths[r] - end + token;
    }
  }
}

function count(users: Int32Array, pages: Int32Array | null): void {
  if (pages === null) return;
  for (let i = 0; i < pages.length; i++) users[pages[i]]++;
}

function forget(users: Int32Array, pages: Int32Array | null): void {
  if (pages === null) return;
  for (let i = 0; i < pages.length; i++) users[pages[i]] = 0;
}

/** Each row of a level reads what lies before within one row of the level before. */
function requireNested(outer: Lists, inner: Lists, tokens: number): void {
  const { queries } = outer;
  const end = queries[queries.length - 1];
  if (end !== tokens) {
    const option = `${outer.option}queryIndptr[${queries.length - 1}]`;
    throw new OptionError(option, end, `${tokens}`, "let each level cover all query tokens.");
  }
  let parent = 0;
  for (let row = 0; row + 1 < inner.queries.length; row++) {
    const token = inner.queries[row];
    if (token === inner.queries[row + 1]) continue;
    while (queries[parent + 1] <= token) parent++;
    if (inner.queries[row + 1] <= queries[parent + 1]) continue;
    const option = `${inner.option}queryIndptr[${row + 1}]`;
    const allowed = `at most ${queries[parent + 1]}, where the row of the level before ends`;
    throw new OptionError(option, inner.queries[row + 1], allowed, "nest the levels' rows.");
  }
}

function beyond(option: string, value: unknown, allowed: string): OptionError {
  return new OptionError(option, value, allowed, "create the page lists for larger steps.");
}

function tooManyQueries(request: number, queries: number, kvLength: number): OptionError {
  return new OptionError(
    `queryIndptr[${request + 1}] - queryIndptr[${request}]`,
    queries,
    `at most the request's ${kvLength} tokens in pages`,
    "count the new tokens into its pages, or pass writes: false if nothing is appended.",
  );
}

function writtenTwice(index: number, page: number, request: number): OptionError {
  return new OptionError(
    `indices[${index}]`,
    page,
    `a page that stands once in all lists, as request ${request} writes it`,
    "copy the shared page first, or pass writes: false if nothing is appended.",
  );
}
