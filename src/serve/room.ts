import { OptionError } from "../errors.ts";
import type { OutOfPages } from "../kv/batch.ts";
import type { PageGroup } from "../kv/page-group.ts";
import type { PrefixIndex } from "../kv/prefix-index.ts";
import type { PrefixMatch, SequencePool } from "../kv/sequence.ts";
import type { Job } from "./job.ts";
import type { ServeRequest } from "./request.ts";

/** No sequence is longer: tokens count in int32. */
const tokensMax = 0x7fffffff;

/** How far a pool's pages go: which jobs may start, and what the prefix index gives back. */
export class Room {
  readonly #pool: SequencePool;
  readonly #index: PrefixIndex;
  readonly #tokenBudget: number;
  /** By group, pages that jobs which run have yet to take. */
  readonly #promised: number[];
  /** Whether pages come back from jobs that run, as windows pass them. */
  readonly hasWindows: boolean;

  constructor(pool: SequencePool, index: PrefixIndex, tokenBudget: number) {
    this.#pool = pool;
    this.#index = index;
    this.#tokenBudget = tokenBudget;
    this.#promised = pool.groups.map(() => 0);
    this.hasWindows = pool.groups.some(({ windowLeft }) => windowLeft >= 0);
  }

  /**
   * Most tokens that a request may generate: those it wants, else what the pages hold. Errors:
   * OptionError when all pages together cannot hold them.
   */
  maxTokens({ id, prompt, maxTokens: wanted }: ServeRequest): number {
    // The last token that comes out is never put in.
    const length = prompt.length + (wanted ?? 1) - 1;
    let longest = tokensMax;
    this.#pool.groups.forEach((group, g) => {
      const { pageCount } = group.allocator;
      const needed = this.#pagesMost(group, length);
      if (needed > pageCount)
        throw new OptionError(
          g === 0 ? "pages" : `groups[${g}].pages`,
          pageCount,
          `at least the ${needed} that request ${id} alone needs`,
          "use more pages, a shorter prompt or fewer maxTokens.",
        );
      if (this.#pagesMost(group, tokensMax) > pageCount)
        longest = Math.min(longest, pageCount * this.#pool.pageSize);
    });
    return wanted ?? longest - prompt.length + 1;
  }

  /** Notes what jobs that run will take for the tokens they know, and a page more each to go on. */
  promiseAll(running: readonly Job[]): void {
    this.#promised.fill(0);
    for (let i = 0; i < running.length; i++) this.promise(running[i]);
  }

  /** Notes the same of one more job. */
  promise({ computed, length }: Job): void {
    const { groups } = this.#pool;
    for (let g = 0; g < groups.length; g++)
      this.#promised[g] += 1 + this.#pagesToGrow(groups[g], computed, length);
  }

  /** What is cached of a job's tokens, but for the last, which it has to compute. */
  match({ tokens, length, adapter }: Job): PrefixMatch {
    return this.#index.match(tokens, length - 1, adapter);
  }

  /**
   * Whether a job that runs is computing a prompt that begins as this one, further than the
   * `cached` tokens: in a step or a few the job finds there what it would compute beside it now.
   */
  isBeingComputed(job: Job, cached: number, running: readonly Job[]): boolean {
    for (let i = 0; i < running.length; i++) {
      const other = running[i];
      if (other.computed >= other.promptLength || other.adapter !== job.adapter) continue;
      if (this.#sharesBeyond(job, other, Math.max(cached, other.computed))) return true;
    }
    return false;
  }

  /**
   * Gives a job a sequence that begins with what matches, a match of now. False when its tokens do
   * not fit beside what is promised, so that no request is preempted at once; one that runs alone
   * always fits.
   */
  start(job: Job, match: PrefixMatch, alone: boolean): boolean {
    const { groups } = this.#pool;
    for (let g = 0; g < groups.length && !alone; g++) {
      const missing = this.#missing(g, match.tokens, job.length);
      if (missing > 0 && missing > this.#index.stats.pages) return false;
    }
    // With its sequence the job uses the matched pages: they are not evicted for it.
    const sequence = this.#pool.create({ prefix: match });
    for (let g = 0; g < groups.length; g++) {
      const missing = this.#missing(g, match.tokens, job.length);
      if (missing <= 0 || this.#index.evict(missing, g) >= missing || alone) continue;
      sequence.free();
      return false;
    }
    job.sequence = sequence;
    job.computed = match.tokens;
    return true;
  }

  /**
   * Frees cached pages for a step that lacks some: those that no job uses, else with windows all;
   * false when none are left.
   */
  evict({ pagesMissing, group }: OutOfPages): boolean {
    if (this.#index.evict(pagesMissing, group) > 0) return true;
    // The index gives pages up from a prompt's end, where a window still looks.
    return this.hasWindows && this.forget();
  }

  /**
   * Lets go of all cached pages; false when there are none. Some that no job uses may be left by
   * `evict`, since they come before what one uses: two jobs computed the same tokens at once, the
   * index has the pages of the first, and beyond them those of the second.
   */
  forget(): boolean {
    if (this.#index.stats.pages === 0) return false;
    this.#index.clear();
    return true;
  }

  /** Whether a prompt begins as another's tokens do up to a page's end beyond so many. */
  #sharesBeyond(job: Job, other: Job, tokens: number): boolean {
    const { pageSize } = this.#pool;
    const end = (Math.floor(tokens / pageSize) + 1) * pageSize;
    if (end >= job.length || end > other.promptLength) return false;
    // Most part before they end.
    let at = end - 1;
    while (at >= 0 && job.tokens[at] === other.tokens[at]) at--;
    return at < 0;
  }

  /** Free pages that a group lacks for a job of so many tokens, beside what is promised. */
  #missing(g: number, computed: number, length: number): number {
    const group = this.#pool.groups[g];
    const needed = this.#promised[g] + this.#pagesToGrow(group, computed, length);
    return needed - group.allocator.freeCount;
  }

  /** Pages that a sequence takes to get from `computed` tokens to `length`. */
  #pagesToGrow(group: PageGroup, computed: number, length: number): number {
    const { pageSize } = this.#pool;
    const pages = Math.ceil(computed / pageSize);
    const added = Math.ceil(length / pageSize) - pages;
    if (group.windowLeft < 0) return added;
    // What the window passes on the way comes back.
    const held = pages - group.windowColumn(computed, pageSize);
    const most = this.#pagesMost(group, length);
    return Math.min(added, Math.max(0, most - held));
  }

  /** Pages that a sequence holds at most on its way to `length` tokens, in chunks of the budget. */
  #pagesMost({ windowLeft }: PageGroup, length: number): number {
    const { pageSize } = this.#pool;
    // What a window passed is free again, but for parts of a page on either side.
    const held = windowLeft + this.#tokenBudget + 2 * pageSize;
    return Math.ceil((windowLeft < 0 ? length : Math.min(length, held)) / pageSize);
  }
}
