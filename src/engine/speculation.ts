import type { Job } from "../serve/job.ts";
import type { Scheduler } from "../serve/scheduler.ts";
import type { Step } from "../serve/step.ts";
import type { Drafter, Drafts } from "./drafter.ts";
import type { Health } from "./health.ts";
import type { Generation } from "./request.ts";
import type { Chosen } from "./sampler.ts";
import { adjusts } from "./sampling.ts";

/** What came of drafts. */
export interface DraftCounts {
  /** Rows of steps that had drafts. */
  drafts: number;
  draftedTokens: number;
  acceptedTokens: number;
}

/**
 * Verifies drafts: a step chooses the token behind each of them as it would without drafts, and
 * those stand that are such tokens. So a request has the tokens that it would have had, drawn by
 * the same seed, whatever was drafted: as often right as by rejection (arXiv 2302.01318), and
 * coupled by the noise (arXiv 2408.07978) where drafts are drawn too.
 */
export class Speculation {
  readonly counts: DraftCounts = { drafts: 0, draftedTokens: 0, acceptedTokens: 0 };
  readonly #scheduler: Scheduler;
  /** Of the step to be. */
  readonly #drafts = new Map<Job, Drafts>();
  #isOn = true;

  /** @param vocabulary ids below it are tokens */
  constructor(
    readonly drafter: Drafter,
    scheduler: Scheduler,
    private readonly vocabulary: number,
    private readonly health: Health,
  ) {
    this.#scheduler = scheduler;
  }

  /** False once drafts failed: requests go on without. */
  get isOn(): boolean {
    return this.#isOn;
  }

  /**
   * Offers drafts to the next step, of those that run and may have some. Who drafts and fails is
   * not asked again.
   */
  async propose(generations: ReadonlyMap<number, Generation>): Promise<void> {
    this.#drafts.clear();
    const jobs: Job[] = [];
    const requests = [];
    for (const job of this.#scheduler.running) {
      const generation = generations.get(job.id);
      if (generation === undefined || !speculates(generation) || !job.takesDrafts) continue;
      jobs.push(job);
      requests.push({ generation, tokens: job.tokens.subarray(0, job.length) });
    }
    if (jobs.length === 0) return;
    let drafts: readonly Drafts[];
    try {
      drafts = await this.drafter.draft(requests);
    } catch (error) {
      this.#isOn = false;
      for (const { generation } of requests) this.drafter.forget(generation);
      // On a lost device no request goes on.
      if (this.health.look(error) !== "ok") return;
      process.emitWarning(`drafts failed, and requests go on without them: ${String(error)}`, {
        type: "FlashbunWarning",
        code: "FLASHBUN_DRAFTS",
      });
      return;
    }
    jobs.forEach((job, i) => {
      const { tokens } = drafts[i];
      const unknown = tokens.findIndex((token) => token >= this.vocabulary);
      this.#drafts.set(job, drafts[i]);
      this.#scheduler.propose(job, unknown < 0 ? tokens : tokens.slice(0, unknown));
    });
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
   * The nodes along which a job's drafts stand, from its last known token on, by what was chosen
   * behind each node.
   */
  pathOf(job: Job, chosen: readonly Chosen[]): number[] {
    const { drafts, drafted } = job;
    const parents = this.#drafts.get(job)?.parents;
    const path = [0];
    for (let draft = 0; draft < drafted; draft++) {
      const node = path.at(-1)!;
      const { token, failure } = chosen[node];
      if (failure !== undefined) break;
      const follows = (parents?.[draft] ?? draft) === node;
      if (follows && drafts![draft] === token) path.push(draft + 1);
    }
    if (drafted > 0) {
      this.counts.drafts++;
      this.counts.draftedTokens += drafted;
      this.counts.acceptedTokens += path.length - 1;
    }
    return path;
  }
}

/**
 * Whether a request may have drafts: not if what may come next, or how likely it is, depends on the
 * tokens before it in other ways than by the model.
 */
function speculates({ grammar, sampling }: Generation): boolean {
  return grammar === undefined && !adjusts(sampling);
}
