import type { PageGroup } from "../kv/page-group.ts";
import type { Job } from "./job.ts";

/** What a page of a map is, where no one job alone has it. */
export const pageStates = { free: 0, cached: -1, shared: -2 } as const;

/** Who holds each page of a group: a snapshot for drawing. */
export class PageMap {
  readonly #group: PageGroup;
  readonly #owners: Int32Array;

  constructor(group: PageGroup) {
    this.#group = group;
    this.#owners = new Int32Array(group.allocator.pageCount);
  }

  /**
   * By page the id of the job that runs with it, or one of {@link pageStates}; looks at every page.
   * The next call overwrites it.
   */
  owners(running: readonly Job[]): Int32Array {
    const { allocator, table } = this.#group;
    const owners = this.#owners;
    for (let page = 0; page < owners.length; page++)
      owners[page] = allocator.referenceCount(page) > 0 ? pageStates.cached : pageStates.free;
    for (const { id, sequence } of running) {
      const row = table.rows.starts[sequence!.slot];
      for (let at = row; at < row + sequence!.pageCount; at++) {
        const page = table.at(at);
        if (page >= 0) owners[page] = owners[page] === pageStates.cached ? id : pageStates.shared;
      }
    }
    return owners;
  }
}
