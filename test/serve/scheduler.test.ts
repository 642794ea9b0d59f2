import { describe, expect, test } from "bun:test";
import type { Job } from "../../src/serve/job.ts";
import type { ServeRequest } from "../../src/serve/request.ts";
import type { SchedulerOptions } from "../../src/serve/options.ts";
import { Scheduler } from "../../src/serve/scheduler.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { poolOf, stepOf, promptOf } from "./support.ts";

interface Arrival extends ServeRequest {
  readonly maxTokens: number;
  readonly second: number;
}

/** Requests of which some share leading tokens. */
function arrivalsOf(random: Random, count: number, longest: number): Arrival[] {
  const shared = Array.from({ length: 3 }, () =>
    Int32Array.from({ length: longest >> 1 }, () => random.integer(0, 1000)),
  );
  let second = 0;
  return Array.from({ length: count }, (_, id) => {
    second += random.chance(0.3) ? 0 : random.integer(0, 6);
    const prompt = promptOf(random, shared, longest >> 1);
    return { id, second, prompt, maxTokens: random.integer(1, longest >> 1) };
  });
}

/** Runs all requests at a step a second; returns what each was given. */
function run(scheduler: Scheduler, arrivals: readonly Arrival[], options: SchedulerOptions) {
  const given = new Int32Array(arrivals.length);
  const adopted = new Int32Array(arrivals.length);
  const sequences = new Map<number, number>();
  const jobs: Job[] = [];
  const limit = 50_000;
  for (let now = 0; jobs.length < arrivals.length || scheduler.count > 0; now++) {
    if (now > limit) throw new Error("the requests do not finish");
    while (arrivals[jobs.length]?.second <= now)
      jobs.push(scheduler.add(arrivals[jobs.length], now));
    const step = scheduler.step(now);
    if (step === null) {
      if (scheduler.count > 0) throw new Error("it idles while requests wait");
      continue;
    }
    let total = 0;
    step.jobs.forEach((job, i) => {
      const { id } = job;
      const count = step.batch.queryIndptr[i + 1] - step.batch.queryIndptr[i];
      if (count !== step.newTokens[i]) throw new Error("the batch is not what was scheduled");
      const before = job.sequence!.length - count;
      if (before !== job.computed) throw new Error("the sequence is not what was computed");
      if (sequences.get(id) !== job.sequence!.id) adopted[id] += before;
      sequences.set(id, job.sequence!.id);
      given[id] += count;
      total += count;
    });
    if (total > options.tokenBudget) throw new Error(`${total} tokens are over the budget`);
    if (total !== step.decodeTokens + step.prefillTokens) throw new Error("tokens are lost");
    if (step.jobs.length > options.maxBatch) throw new Error("the batch is too large");
    const held = step.sequences.map((sequence) => [...sequence.pages()].join());
    if (new Set(held).size !== held.length) throw new Error("two requests write the same pages");
    scheduler.advance(
      step,
      step.sampled.map(({ id }) => id),
    );
  }
  return { jobs, given, adopted };
}

describe("the scheduler's policy", () => {
  test("finishes every request, conserves tokens and leaks no page", () => {
    let preemptions = 0;
    let hits = 0;
    forSeeds(150, (random) => {
      const pageSize = random.pick([1, 4, 16]);
      const longest = random.integer(4, 120);
      const arrivals = arrivalsOf(random, random.integer(1, 24), longest);
      const least = Math.max(
        ...arrivals.map((r) => Math.ceil((r.prompt.length + r.maxTokens - 1) / pageSize)),
      );
      const pages = least + random.integer(0, 2 * least);
      const maxBatch = random.integer(1, 12);
      const tokenBudget = maxBatch + random.integer(0, 40);
      const pool = poolOf({ pages, pageSize, maxBatch });
      const options = { maxBatch, tokenBudget };
      const scheduler = new Scheduler(pool, options);
      const { jobs, given, adopted } = run(scheduler, arrivals, options);
      for (const job of jobs) {
        const { id } = job;
        expect(job.ending).toBe("length");
        expect(job.generated).toBe(arrivals[id].maxTokens);
        const once = job.length - 1;
        // A request that was preempted starts again: from cached pages and by computing the rest.
        if (job.preemptions === 0) expect(given[id] + adopted[id]).toBe(once);
        else expect(given[id] + adopted[id]).toBeGreaterThanOrEqual(once);
        preemptions += job.preemptions;
        if (job.cachedTokens > 0) hits++;
      }
      expect(pool.sequenceCount).toBe(0);
      scheduler[Symbol.dispose]();
      expect(pool.groups[0].allocator.freeCount).toBe(pages);
    });
    expect(preemptions).toBeGreaterThan(20);
    expect(hits).toBeGreaterThan(100);
  });

  test("frees what a window passed", () => {
    forSeeds(20, (random) => {
      const arrivals = arrivalsOf(random, 8, 200);
      const pool = poolOf({ pages: 24, pageSize: 4, maxBatch: 4, windowLeft: 16 });
      const options = { maxBatch: 4, tokenBudget: 16 };
      const scheduler = new Scheduler(pool, options);
      run(scheduler, arrivals, options);
      scheduler[Symbol.dispose]();
      expect(pool.groups[0].allocator.freeCount).toBe(24);
    });
  });

  test("starves nobody: the earliest arrival advances in every step", () => {
    forSeeds(30, (random) => {
      const pool = poolOf({ pages: 25, pageSize: 4, maxBatch: 6 });
      const scheduler = new Scheduler(pool, { maxBatch: 6, tokenBudget: 10 });
      const jobs = arrivalsOf(random, 12, 60).map((request) => scheduler.add(request, 0));
      for (let now = 0; scheduler.count > 0; now++) {
        const earliest = jobs.find(({ ending }) => ending === null)!;
        const step = scheduler.step(now)!;
        expect(step.jobs).toContain(earliest);
        scheduler.advance(step, new Int32Array(step.sampled.length));
      }
    });
  });

  test("preempts the latest arrival, which computes its tokens again", () => {
    const prompt = (id: number) => Int32Array.from({ length: 16 }, (_, i) => 100 * id + i);
    const arrivals = [0, 1].map((id) => ({ id, second: id, prompt: prompt(id), maxTokens: 30 }));
    const pool = poolOf({ pages: 12, pageSize: 4, maxBatch: 2 });
    const options = { maxBatch: 2, tokenBudget: 64 };
    const scheduler = new Scheduler(pool, options);
    const { jobs, given } = run(scheduler, arrivals, options);
    expect(jobs.map(({ preemptions }) => preemptions)).toEqual([0, 1]);
    expect(given[0]).toBe(45);
    expect(given[1]).toBeGreaterThan(45);
    expect(scheduler.usage().preemptions).toBe(1);
  });

  test("reuses a prefix, and takes a long prompt in chunks beside decodes", () => {
    const prompt = Int32Array.from({ length: 100 }, (_, i) => i);
    const arrivals = [0, 20, 40].map((second, id) => ({ id, second, prompt, maxTokens: 40 }));
    const options = { maxBatch: 4, tokenBudget: 16 };
    const scheduler = new Scheduler(poolOf({ pages: 64, pageSize: 8, maxBatch: 4 }), options);
    const { jobs, given } = run(scheduler, arrivals, options);
    expect(jobs.map(({ cachedTokens }) => cachedTokens)).toEqual([0, 96, 96]);
    expect([...given]).toEqual([139, 43, 43]);
  });

  test("a prompt that another request computes is waited for, but not under another adapter", () => {
    const options = { maxBatch: 4, tokenBudget: 64 };
    const scheduler = new Scheduler(poolOf({ pages: 64, pageSize: 8, maxBatch: 4 }), options);
    const prompt = Int32Array.from({ length: 20 }, (_, i) => i);
    for (const [id, adapter] of [0, 2, 2, 0].entries())
      scheduler.add({ id, prompt, adapter, maxTokens: 2 }, id);
    expect(stepOf(scheduler, 4)!.jobs.map(({ id }) => id)).toEqual([0, 1]);
    expect(stepOf(scheduler, 5)!.jobs.map(({ adapter }) => adapter)).toEqual([0, 0, 2, 2]);
    expect(() => scheduler.add({ id: 9, prompt, adapter: -1 }, 6)).toThrow(/adapter must be/);
  });
});
