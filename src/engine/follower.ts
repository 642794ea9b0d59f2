import type { Communicator } from "../comm/communicator.ts";
import type { LogitParts } from "../models/logit-parts.ts";
import type { Model } from "../models/model.ts";
import type { Scheduler } from "../serve/scheduler.ts";
import type { Step } from "../serve/step.ts";
import { type Results, ResultRing } from "./results.ts";
import { mostOf } from "./sampling.ts";
import { StepDrafts } from "./step-drafts.ts";
import { idsOf, type Row, rowsOf } from "./step-rows.ts";
import { checksPlans, planBytes, type Turn, type Turns } from "./turns.ts";

interface Queued {
  readonly rows: readonly Row[];
  readonly results: Results;
}

/**
 * The steps of a rank that others ask nothing: it schedules what rank 0 schedules, from the same
 * requests in the same order, runs its part of the model, and is told the tokens that were chosen.
 */
export class Follower implements Disposable {
  readonly #model: Model;
  readonly #comm: Communicator;
  readonly #turns: Turns;
  readonly #scheduler: Scheduler;
  readonly #ids: Int32Array;
  readonly #ring: ResultRing;
  readonly #drafts: StepDrafts;
  /** By the ids of requests that have not ended, what of the logits they need. */
  readonly #live = new Map<number, LogitParts>();

  constructor(
    model: Model,
    scheduler: Scheduler,
    turns: Turns,
    { comm, tokenBudget }: { readonly comm: Communicator; readonly tokenBudget: number },
  ) {
    this.#model = model;
    this.#comm = comm;
    this.#turns = turns;
    this.#scheduler = scheduler;
    this.#ids = new Int32Array(tokenBudget);
    this.#ring = new ResultRing(model.device);
    this.#drafts = new StepDrafts(scheduler);
  }

  /** Follows rank 0 until it ends. Errors: CommError, DeviceError. */
  async run(): Promise<void> {
    try {
      await this.#follow();
    } catch (cause) {
      // A launch behind an exchange that failed says so, too.
      throw this.#comm.reasonOf(cause);
    }
  }

  [Symbol.dispose](): void {
    this.#ring[Symbol.dispose]();
  }

  async #follow(): Promise<void> {
    let running: Queued | undefined;
    while (true) {
      const turn = await this.#turns.receive();
      this.#take(turn);
      if (turn.ends) return;
      const step = this.#scheduler.step(turn.now);
      if (step !== null && checksPlans) await this.#comm.requireEqual("the plan", planBytes(step));
      const next = step === null ? undefined : this.#queue(step);
      const last = turn.waits ? next : running;
      if (last !== undefined) await this.#settle(last);
      running = turn.waits ? undefined : next;
    }
  }

  #take({ added, left, drafts = [] }: Turn): void {
    for (const { request, parts, at } of added) {
      this.#scheduler.add(request, at);
      this.#live.set(request.id, parts);
    }
    for (const id of left) {
      this.#live.delete(id);
      this.#scheduler.abort(id);
    }
    this.#drafts.offer(drafts);
  }

  #queue(step: Step): Queued {
    const { batch, jobs, sequences, logitRows, sampled, wanted } = step;
    const rows = rowsOf(step);
    const trees = this.#drafts.treesOf(step);
    const ids = idsOf(step, this.#ids);
    const parts = mostOf(sampled.map(({ id }) => this.#live.get(id)!));
    this.#model.forward({ batch, jobs, sequences, ids, logitRows, wanted, parts, trees });
    const chosen = this.#model.shareChosen(wanted);
    const results = this.#ring.queue(chosen === undefined ? [] : [chosen]);
    this.#scheduler.advance(step);
    return { rows, results };
  }

  async #settle({ rows, results }: Queued): Promise<void> {
    await this.#comm.watch(results.done);
    if (rows.length === 0) return;
    const tokens = results.ints;
    for (const { job, place, first } of rows) {
      if (!this.#live.has(job.id)) continue;
      const path = this.#drafts.pathOf(job, (node) => tokens[first + node]);
      const accepted = path.slice(1).map((node) => node - 1);
      const told = this.#scheduler.tell(job, place, tokens[first + path.at(-1)!], accepted);
      if (told !== null) this.#live.delete(job.id);
    }
  }
}
