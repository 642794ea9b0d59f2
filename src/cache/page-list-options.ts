import { OptionError } from "../errors.ts";
import type { WorthSharing } from "../kv/share-prefixes.ts";
import type { Integers } from "../kv/validate.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Sizes of PageLists.create, which no step goes beyond: nothing moves, as graphs need. */
export interface PageListsOptions {
  pageSize: number;
  /** Pages of the cache: ids are below it. */
  pageCount: number;
  /** Requests of a step. */
  maxBatch: number;
  /** Query tokens of a step, padding included. */
  maxQueryTokens: number;
  /** Page ids of a step, those of all levels together. */
  maxEntries: number;
}

/** Page lists of one level: rows of query tokens, each with pages of its own. */
export interface PageListLevel {
  /** `[rows + 1]`: query tokens of each row. */
  queryIndptr: Integers | Tensor;
  /**
   * `[rows + 1]`: the pages of row r are `indices[indptr[r]...indptr[r + 1])`; left out where
   * indices is a tensor [rows, columns].
   */
  indptr?: Integers | Tensor | null;
  /** Page ids: a list that is checked now, or a tensor that nothing reads on the host. */
  indices: Integers | Tensor;
  /** `[rows]`: tokens in the last page, new ones included; 0 for a row without pages. */
  lastPageLength?: Integers | Tensor | null;
  /** Or `[rows]`: tokens in all of its pages, new ones included; so for a table. */
  kvLengths?: Integers | Tensor | null;
}

/** One step over the caller's pages; a row is a request. */
export interface PageStepOptions extends PageListLevel {
  /**
   * Levels that come before the requests' own pages, from the one that most of them share: each
   * row of a level lies within a row of the level before. A level that ends within a page leaves
   * the positions up to that page's end unused.
   */
  shared?: readonly PageListLevel[];
  /** Finds such a level in lists that lie on the host: `attention.worthSharing`. */
  share?: WorthSharing;
  /** False when nothing is appended: then queries may outnumber K/V and pages stand anywhere. */
  writes?: boolean;
  /** `[tokens]`: position of each query token; by default the last of its request's tokens. */
  positions?: Integers | Tensor | null;
  /** True: the run takes keyPositions, which say where keys stand. Default: at their places. */
  keyPositions?: boolean;
  /**
   * `[requests]`: of a request whose keys lie in no pages its first token in the run's kRagged, or
   * -1. It has no entries in indptr but its kvLengths; with writes: false, without shared levels.
   */
  raggedStarts?: Integers | null;
  /** Pads the token arrays up to this many tokens, as a captured step needs. */
  padTo?: number;
}

/** Names of {@link PageListsOptions}. */
export const sizeNames = [
  "pageSize",
  "pageCount",
  "maxBatch",
  "maxQueryTokens",
  "maxEntries",
] as const;
/** Names of {@link PageListLevel}. */
export const levelNames = ["queryIndptr", "indptr", "indices", "lastPageLength", "kvLengths"];
/** Names of {@link PageStepOptions}. */
export const stepNames = [
  ...levelNames,
  "shared",
  "share",
  "writes",
  "positions",
  "keyPositions",
  "raggedStarts",
  "padTo",
];

/** Errors: OptionError unless rows that lie in no pages are all that a step asks for. */
export function requireAlone(isShared: boolean, isSearched: boolean, writes: boolean): void {
  const other = isShared ? "shared" : isSearched ? "share" : writes ? "writes" : undefined;
  if (other === undefined) return;
  const allowed = `left out beside ${other === "writes" ? "writes: true" : other}`;
  const fix = "append by a slot mapping, and pass writes: false without levels.";
  throw new OptionError("raggedStarts", "given", allowed, fix);
}
