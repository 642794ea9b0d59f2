import { type UserPages, userPages } from "../../src/index.ts";

/** Requests whose keys lie in pages, all of them one after the other in a pool. */
export interface PagedRequests {
  /** Keys of each request, new ones included. */
  lengths: readonly number[];
  /** New tokens of each request. */
  queryLengths: readonly number[];
  pageSize: number;
  /** A page of each request in turn, as steps append them; else in no order. */
  byTurns?: boolean;
}

/** The page table of such requests, and how many pages there are. */
export function pagesOf(requests: PagedRequests): UserPages & { count: number } {
  const { lengths, queryLengths, pageSize, byTurns = false } = requests;
  const counts = lengths.map((keys) => Math.ceil(keys / pageSize));
  const indptr = indptrOf(counts);
  const count = indptr[lengths.length];
  const order = Array.from({ length: count }, (_, page) => page);
  if (!byTurns) shuffle(order);
  const indices = new Int32Array(count);
  let next = 0;
  for (let turn = 0; next < count; turn++)
    counts.forEach((own, r) => {
      if (turn < own) indices[indptr[r] + turn] = order[next++];
    });
  const made = userPages({
    queryIndptr: indptrOf(queryLengths),
    lastPageLength: lengths.map((keys) => ((keys - 1) % pageSize) + 1),
    indptr,
    indices,
    pageSize,
    pageCount: count,
  });
  return { ...made, count };
}

/** `[counts + 1]`: where each starts. */
export function indptrOf(counts: readonly number[]): number[] {
  const starts = [0];
  for (const count of counts) starts.push(starts[starts.length - 1] + count);
  return starts;
}

/** The same order in every run. */
export function shuffle(items: number[]): void {
  let state = 1;
  for (let i = items.length - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes
    const at = Math.floor((state / 2 ** 32) * (i + 1));
    [items[i], items[at]] = [items[at], items[i]];
  }
}
