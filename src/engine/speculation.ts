import type { Job } from "../serve/job.ts";
import type { Scheduler } from "../serve/scheduler.ts";
import type { Drafter, DraftRequest, Drafts } from "./drafter.ts";
import type { Health } from "./health.ts";
import type { Generation } from "./request.ts";
import type { Chosen } from "./sampler.ts";
import { adjusts } from "./sampling.ts";
import { type Proposal, StepDrafts } from "./step-drafts.ts";

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
  readonly drafts: StepDrafts;
  #isOn = true;

  /** @param vocabulary ids below it are tokens */
  constructor(
    readonly drafter: Drafter,
    scheduler: Scheduler,
    private readonly vocabulary: number,
    private readonly health: Health,
  ) {
    this.#scheduler = scheduler;
    this.drafts = new StepDrafts(scheduler);
  }

  /** False once drafts failed: requests go on without. */
  get isOn(): boolean {
    return this.#isOn;
  }

  /** Drafts of those that run and may have some. Who drafts and fails is not asked again. */
  async propose(generations: ReadonlyMap<number, Generation>): Promise<readonly Proposal[]> {
    const requests: DraftRequest[] = [];
    for (const { id, takesDrafts, tokens, length } of this.#scheduler.running) {
      const generation = generations.get(id);
      if (generation === undefined || !speculates(generation) || !takesDrafts) continue;
      requests.push({ generation, tokens: tokens.subarray(0, length) });
    }
    if (requests.length === 0) return [];
    let drafts: readonly Drafts[];
    try {
      drafts = await this.drafter.draft(requests);
    } catch (error) {
      this.#isOn = false;
      for (const { generation } of requests) this.drafter.forget(generation);
      // On a lost device no request goes on.
      if (this.health.look(error) !== "ok") return [];
      process.emitWarning(`drafts failed, and requests go on without them: ${String(error)}`, {
        type: "FlashbunWarning",
        code: "FLASHBUN_DRAFTS",
      });
      return [];
    }
    return drafts.map(({ tokens, ...rest }, i) => {
      const unknown = tokens.findIndex((token) => token >= this.vocabulary);
      const known = unknown < 0 ? tokens : tokens.slice(0, unknown);
      return { id: requests[i].generation.id, tokens: known, ...rest };
    });
  }

  /** As {@link StepDrafts.pathOf}, and counts. */
  pathOf(job: Job, chosen: readonly Chosen[]): number[] {
    const path = this.drafts.pathOf(job, (node) => chosen[node].token);
    if (job.drafted > 0) {
      this.counts.drafts++;
      this.counts.draftedTokens += job.drafted;
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
