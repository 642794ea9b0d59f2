import { createLevel, type Level } from "./layout.ts";
import { PrefixRuns } from "./prefix-runs.ts";
import type { WorthSharing } from "./share-prefixes.ts";

/** Requests whose page ids lie on the host, one list after the other. */
export interface SharedLists {
  /** `[requests + 1]`: query tokens, and pages in the list of all, of each request. */
  readonly queries: Int32Array;
  readonly starts: Int32Array;
  /** `[requests]`: tokens. */
  readonly lengths: Int32Array;
}

/** Makes a level of the full pages that neighbours' lists begin with. */
export class ListSharer {
  readonly #pageSize: number;
  readonly #shared: Level;
  readonly #runs = new PrefixRuns();

  constructor(pageSize: number, maxBatch: number) {
    this.#pageSize = pageSize;
    this.#shared = createLevel(maxBatch);
    this.#runs.resize(maxBatch);
  }

  /**
   * The levels of a step: the shared one and `whole`, the requests' own, which then begins behind
   * it; or `whole` alone where no run of requests is worth it.
   */
  share(whole: Level, lists: SharedLists, pages: Int32Array, worthSharing: WorthSharing): Level[] {
    const { starts, queries } = lists;
    const count = lists.lengths.length;
    const runs = this.#runs;
    if (count < 2) return [whole];
    this.#compare(lists, pages);
    runs.choose(count);
    if (runs.spared === 0) return [whole];
    const shared = this.#shared;
    let rows = 0;
    let isShared = false;
    for (let start = 0, end = 0; start < count; start = end) {
      end = runs.ends[start];
      const tokens = runs.pages[start] * this.#pageSize;
      const shares = tokens > 0 && worthSharing(tokens, end - start, queries[end] - queries[start]);
      isShared ||= shares;
      shared.queryIndptr[rows] = queries[start];
      shared.requests[rows] = start;
      shared.slots[rows] = starts[start];
      shared.kvLengths[rows++] = shares ? tokens : 0;
      for (let r = start; shares && r < end; r++) {
        whole.positionStarts[r] = tokens;
        whole.kvLengths[r] -= tokens;
      }
    }
    if (!isShared) return [whole];
    shared.rowCount = shared.requestRows = rows;
    shared.queryIndptr[rows] = queries[count];
    return [shared, whole];
  }

  /** Full pages that neighbours have in common. */
  #compare({ lengths, starts }: SharedLists, pages: Int32Array): void {
    for (let r = 0; r + 1 < lengths.length; r++) {
      const most = Math.floor(Math.min(lengths[r], lengths[r + 1]) / this.#pageSize);
      let common = 0;
      while (common < most && pages[starts[r] + common] === pages[starts[r + 1] + common]) common++;
      this.#runs.common[r] = common;
    }
  }
}
