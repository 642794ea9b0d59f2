import { expect, test } from "bun:test";
import { OptionError, OutOfPagesError, PlanError } from "../../src/errors.ts";
import { type Sequence, SequencePool } from "../../src/kv/sequence.ts";
import type { ServeRequest } from "../../src/serve/request.ts";
import { Scheduler } from "../../src/serve/scheduler.ts";
import type { Step } from "../../src/serve/step.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { fail, Model } from "./model.ts";
import { promptOf } from "./support.ts";

const operations = 10_000;
/** So few tokens that prompts often have the same start. */
const vocabulary = 4;
/** Beyond this many requests none is added until some have ended. */
const livingMost = 24;

/** A scheduler, its model, and one who takes pages of the same pool from time to time. */
class Trial {
  readonly model: Model;
  readonly #scheduler: Scheduler;
  readonly #pool: SequencePool;
  readonly #shared: Int32Array[];
  readonly #longest: number;
  readonly #adapters: readonly (number | undefined)[];
  #step: Step | null = null;
  #outsider: Sequence | null = null;
  #nextId = 0;
  #now = 0;
  exhausted = 0;
  rolledBack = 0;
  refused = 0;

  constructor(readonly random: Random) {
    const pageSize = random.pick([1, 2, 4]);
    const pages = random.integer(6, 40);
    const window = { pages: random.integer(30, 40), windowLeft: random.integer(0, 12) };
    const groups = random.pick([[{ pages }], [{ pages }], [window], [{ pages }, window]]);
    const maxBatch = random.integer(1, 6);
    const tokenBudget = maxBatch + random.integer(0, 12);
    const limits = { tokenBudget, maxBatch, levelSeconds: random.pick([0, 5, 50]) };
    this.#pool = new SequencePool({ pageSize, maxSequences: maxBatch + 1, groups });
    this.#scheduler = new Scheduler(this.#pool, limits);
    this.model = new Model(this.#pool, this.#scheduler, limits);
    this.#longest = pages * pageSize;
    this.#adapters = random.pick([[undefined], [0, 1, 1, 7]]);
    this.#shared = Array.from({ length: 3 }, () =>
      Int32Array.from({ length: this.#longest >> 1 }, () => random.integer(0, vocabulary - 1)),
    );
  }

  /** One random operation, after which everything is compared. */
  operate(): void {
    const { random } = this;
    this.#now += random.next();
    const draw = random.next();
    if (draw < 0.14 && this.model.living.size < livingMost) this.#add();
    else if (draw < 0.18) this.#abort();
    else if (draw < 0.2) this.#takeOrGive();
    else if (this.#step === null) this.#schedule();
    else if (draw < 0.25) expect(() => this.#scheduler.step(this.#now)).toThrow(OptionError);
    else if (draw < 0.3) this.#rollback();
    else this.#advance();
    const { groups } = this.#pool;
    this.model.compare(groups.map((_, g) => this.#outsider?.pages(g) ?? new Int32Array(0)));
  }

  /** Lets all requests end, then gives everything back. */
  finish(): void {
    this.#outsider?.free();
    this.#outsider = null;
    while (this.model.living.size > 0) {
      if (this.#step === null) this.#schedule();
      else this.#advance();
    }
    if (this.#scheduler.step(this.#now) !== null) fail("a step of nobody");
    this.#scheduler[Symbol.dispose]();
    expect(this.#pool.sequenceCount).toBe(0);
    for (const { allocator } of this.#pool.groups) expect(allocator.usedCount).toBe(0);
  }

  #add(): void {
    const { random, model } = this;
    const taken = random.chance(0.02) && model.living.size > 0;
    const maxTokens = random.chance(0.2) ? undefined : random.integer(1, this.#longest >> 1);
    const request: ServeRequest = {
      id: taken ? [...model.living.keys()][0] : this.#nextId++,
      prompt: promptOf(random, this.#shared, random.integer(1, this.#longest >> 1), vocabulary),
      maxTokens,
      endTokens: maxTokens === undefined || random.chance(0.3) ? [random.integer(0, 1)] : undefined,
      priority: random.pick([undefined, 0, 1, 3]),
      adapter: random.pick(this.#adapters),
    };
    // Windows let pages go, so that more fits than their number says; without one it is exact.
    const tokens = request.prompt.length + (maxTokens ?? 1) - 1;
    const { pageSize, groups } = this.#pool;
    const fits = groups.every(
      ({ allocator, windowLeft }) =>
        windowLeft >= 0 || Math.ceil(tokens / pageSize) <= allocator.pageCount,
    );
    if (taken || !fits) {
      expect(() => this.#scheduler.add(request, this.#now)).toThrow(OptionError);
      this.refused++;
      return;
    }
    model.add(request, this.#scheduler.add(request, this.#now), this.#now);
  }

  #abort(): void {
    const { random, model } = this;
    const id = random.integer(Math.max(0, this.#nextId - livingMost), this.#nextId + 1);
    const mirror = model.living.get(id);
    const expected = mirror !== undefined && !mirror.aborted;
    expect(this.#scheduler.abort(id)).toBe(expected);
    if (expected) model.abort(id);
  }

  #takeOrGive(): void {
    if (this.#outsider !== null) {
      this.#outsider.free();
      this.#outsider = null;
      return;
    }
    const { pageSize, groups } = this.#pool;
    const free = Math.min(...groups.map(({ allocator }) => allocator.freeCount));
    this.#outsider = this.#pool.create();
    this.#pool.reserve([this.#outsider], [this.random.integer(0, free) * pageSize]);
  }

  #schedule(): void {
    try {
      this.#step = this.#scheduler.step(this.#now);
    } catch (error) {
      if (!(error instanceof OutOfPagesError) || this.#outsider === null) throw error;
      this.exhausted++;
      this.model.follow(null);
      this.#takeOrGive();
      return;
    }
    if (this.#step !== null) this.model.follow(this.#step);
    else if (this.model.living.size > 0) fail("it idles");
  }

  #rollback(): void {
    if (this.#step!.batch.stale) {
      // The outsider has reserved since.
      expect(() => this.#scheduler.rollback(this.#step!)).toThrow(PlanError);
      return this.#advance();
    }
    this.#scheduler.rollback(this.#step!);
    this.model.rollback();
    this.#step = null;
    this.rolledBack++;
  }

  #advance(): void {
    const { random } = this;
    const tokens = this.#step!.sampled.map(({ aborted }) =>
      aborted ? NaN : random.integer(0, vocabulary - 1),
    );
    this.#scheduler.advance(this.#step!, tokens);
    this.model.advance(tokens);
    this.#step = null;
  }
}

test(`${operations} random operations a seed: nothing lost, nobody starved, nothing twice`, () => {
  const total = {
    preemptions: 0,
    exhausted: 0,
    refused: 0,
    cached: 0,
    ends: 0,
    aborts: 0,
    back: 0,
  };
  forSeeds(8, (random) => {
    const trial = new Trial(random);
    for (let i = 0; i < operations; i++) trial.operate();
    trial.finish();
    const { preemptions, cachedTokens, ended } = trial.model;
    total.preemptions += preemptions;
    total.exhausted += trial.exhausted;
    total.refused += trial.refused;
    total.cached += cachedTokens;
    total.ends += ended.end;
    total.aborts += ended.abort;
    total.back += trial.rolledBack;
  });
  if (process.env["SEED"] !== undefined) return;
  for (const count of Object.values(total)) expect(count).toBeGreaterThan(20);
});
