import type { SequencePool } from "../kv/sequence.ts";
import { PageMap, pageStates } from "../serve/page-map.ts";
import type { Scheduler } from "../serve/scheduler.ts";

/** A request of the current step. */
export interface LiveRequest {
  readonly id: number;
  readonly promptTokens: number;
  /** Of those, found in cached pages. */
  readonly cachedTokens: number;
  /** Tokens whose keys and values are there. */
  readonly computedTokens: number;
  readonly generatedTokens: number;
  readonly preemptions: number;
}

/** What runs at the moment, request by request and page by page. */
export interface EngineLive {
  readonly batch: readonly LiveRequest[];
  /** Pages that one number of `owners` stands for, the last of a group but for fewer. */
  readonly pagesPerCell: number;
  /**
   * By group of layers and cell of pages: the id of the request that has it, -2 for several, -1
   * for none that runs (a cached prefix), 0 where it is free; of several pages the least free.
   */
  readonly owners: readonly (readonly number[])[];
}

/** Cells of a group at most: a page of the web draws them. */
const cellsMost = 4096;

/** Looks into a scheduler between two steps. */
export class Live {
  readonly #scheduler: Scheduler;
  readonly #maps: readonly PageMap[];

  constructor(scheduler: Scheduler, pool: SequencePool) {
    this.#scheduler = scheduler;
    this.#maps = pool.groups.map((group) => new PageMap(group));
  }

  /** A snapshot; it looks at every page. */
  now(): EngineLive {
    const { running } = this.#scheduler;
    const batch = running.map((job) => ({
      id: job.id,
      promptTokens: job.promptLength,
      cachedTokens: job.cachedTokens,
      computedTokens: job.computed,
      generatedTokens: job.generated,
      preemptions: job.preemptions,
    }));
    const owners = this.#maps.map((map) => map.owners(running));
    const most = Math.max(...owners.map(({ length }) => length));
    const pagesPerCell = Math.ceil(most / cellsMost);
    return { batch, pagesPerCell, owners: owners.map((each) => cellsOf(each, pagesPerCell)) };
  }
}

function cellsOf(owners: Int32Array, pagesPerCell: number): number[] {
  const cells: number[] = [];
  for (let page = 0; page < owners.length; page += pagesPerCell) {
    const group = owners.subarray(page, page + pagesPerCell);
    cells.push(
      group.find((owner) => owner > 0 || owner === pageStates.shared) ?? Math.min(...group),
    );
  }
  return cells;
}
