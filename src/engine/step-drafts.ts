import type { Job } from "../serve/job.ts";
import type { Scheduler } from "../serve/scheduler.ts";
import type { Step } from "../serve/step.ts";
import type { Drafts } from "./drafter.ts";

/** Drafts of a running request by its id. */
export interface Proposal extends Drafts {
  readonly id: number;
}

/** The drafts of one step, and which of them stand: the same on all ranks that run it. */
export class StepDrafts {
  readonly #drafts = new Map<Job, Drafts>();
  readonly #scheduler: Scheduler;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  /** Offers drafts to the next step; those of the step before are forgotten. */
  offer(proposals: readonly Proposal[]): void {
    this.#drafts.clear();
    if (proposals.length === 0) return;
    const jobs = new Map(this.#scheduler.running.map((job) => [job.id, job]));
    for (const { id, ...drafts } of proposals) {
      const job = jobs.get(id);
      // It may have left meanwhile.
      if (job === undefined) continue;
      this.#drafts.set(job, drafts);
      this.#scheduler.propose(job, drafts.tokens);
    }
  }

  /** By job of a step, the parents of its drafts where they are no chain; undefined for none. */
  treesOf({ jobs }: Step): (readonly number[] | undefined)[] | undefined {
    const trees = jobs.map((job) => {
      const parents = this.#drafts.get(job)?.parents?.slice(0, job.drafted);
      return parents?.some((parent, i) => parent !== i) ? parents : undefined;
    });
    return trees.some((tree) => tree !== undefined) ? trees : undefined;
  }

  /** How many tokens stand between the last known one of a job and a node of its drafts. */
  depthOf(job: Job, node: number): number {
    const parents = this.#drafts.get(job)?.parents;
    if (parents === undefined) return node;
    let depth = 0;
    for (let at = node; at > 0; at = parents[at - 1]) depth++;
    return depth;
  }

  /**
   * The nodes along which a job's drafts stand, from its last known token on, by the token that was
   * chosen behind each node.
   */
  pathOf(job: Job, tokenOf: (node: number) => number): number[] {
    const { drafts, drafted } = job;
    const parents = this.#drafts.get(job)?.parents;
    const path = [0];
    for (let draft = 0; draft < drafted; draft++) {
      const node = path.at(-1)!;
      const follows = (parents?.[draft] ?? draft) === node;
      if (follows && drafts![draft] === tokenOf(node)) path.push(draft + 1);
    }
    return path;
  }
}
