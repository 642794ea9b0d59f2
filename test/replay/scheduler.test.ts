import { describe, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import { SequencePool } from "../../src/kv/sequence.ts";
import { Scheduler, type SchedulerOptions } from "../../src/replay/scheduler.ts";
import type { ReplayRequest } from "../../src/replay/types.ts";
import { forSeeds, type Random } from "../support/random.ts";

const seed = 7;

function poolOf(pages: number, pageSize: number, maxSequences: number, windowLeft?: number) {
  return new SequencePool({ pageSize, maxSequences, groups: [{ pages, windowLeft }] });
}

/** Requests of which some share leading tokens. */
function requestsOf(random: Random, count: number, longest: number): ReplayRequest[] {
  const shared = Array.from({ length: 3 }, () =>
    Int32Array.from({ length: longest >> 1 }, () => random.integer(0, 1000)),
  );
  let arrivalSeconds = 0;
  return Array.from({ length: count }, (_, id) => {
    arrivalSeconds += random.chance(0.3) ? 0 : random.integer(0, 6);
    const head = random.chance(0.5) ? random.pick(shared) : new Int32Array(0);
    const kept = random.integer(0, head.length);
    const tail = random.integer(kept === 0 ? 1 : 0, longest >> 1);
    const promptTokens = new Int32Array(kept + tail);
    promptTokens.set(head.subarray(0, kept));
    for (let i = kept; i < promptTokens.length; i++) promptTokens[i] = random.integer(0, 1000);
    const outputTokens = random.integer(1, longest >> 1);
    return { id, arrivalSeconds, promptTokens, outputTokens };
  });
}

/** Runs all requests at a step a second; returns what each was given. */
function run(pool: SequencePool, requests: ReplayRequest[], options: SchedulerOptions) {
  const scheduler = new Scheduler(pool, requests, options);
  const given = new Int32Array(requests.length);
  const adopted = new Int32Array(requests.length);
  const ids = new Map<number, number>();
  let steps = 0;
  let order = true;
  const limit = 50_000;
  for (let now = 0; !scheduler.done; now++) {
    if (now > limit) throw new Error("the requests do not finish");
    const step = scheduler.step(now);
    if (step === null) {
      if (scheduler.nextArrival <= now) throw new Error("it idles while requests wait");
      continue;
    }
    steps++;
    let total = 0;
    step.jobs.forEach((job, i) => {
      const id = job.request.id;
      if (job.arrivalSeconds > now) throw new Error(`request ${id} runs before it arrives`);
      const count = step.batch.queryIndptr[i + 1] - step.batch.queryIndptr[i];
      if (count !== job.scheduled) throw new Error("the batch is not what was scheduled");
      const before = job.sequence!.length - count;
      if (ids.get(id) !== job.sequence!.id) adopted[id] += before;
      ids.set(id, job.sequence!.id);
      given[id] += count;
      total += count;
    });
    if (total > options.tokenBudget) throw new Error(`${total} tokens are over the budget`);
    if (total !== step.decodeTokens + step.prefillTokens) throw new Error("tokens are lost");
    if (step.jobs.length > options.maxBatch) throw new Error("the batch is too large");
    const held = step.sequences.map((sequence) => [...sequence.pages()].join());
    if (new Set(held).size !== held.length) throw new Error("two requests write the same pages");
    scheduler.advance();
    scheduler.stamp(now + 1);
    order &&= scheduler.waitingCount >= 0;
  }
  return { scheduler, given, adopted, steps, order };
}

describe("the scheduler's policy", () => {
  test("finishes every request, conserves tokens and leaks no page", () => {
    let preemptions = 0;
    let hits = 0;
    forSeeds(150, (random) => {
      const pageSize = random.pick([1, 4, 16]);
      const longest = random.integer(4, 120);
      const requests = requestsOf(random, random.integer(1, 24), longest);
      const least = Math.max(
        ...requests.map((r) => Math.ceil((r.promptTokens.length + r.outputTokens - 1) / pageSize)),
      );
      const pages = least + random.integer(0, 2 * least);
      const maxBatch = random.integer(1, 12);
      const tokenBudget = maxBatch + random.integer(0, 40);
      const pool = poolOf(pages, pageSize, maxBatch);
      const speed = random.pick([0.5, 1, 4, Infinity]);
      const { scheduler, given, adopted } = run(pool, requests, {
        ...{ maxBatch, tokenBudget, speed, seed },
      });
      for (const job of scheduler.jobs) {
        const { id } = job.request;
        expect(job.generated).toBe(requests[id].outputTokens);
        const once = job.tokens.length - 1;
        // Whoever was preempted starts again: from cached pages and by computing the rest.
        if (job.preemptions === 0) expect(given[id] + adopted[id]).toBe(once);
        else expect(given[id] + adopted[id]).toBeGreaterThanOrEqual(once);
        const times = job.tokenSeconds;
        for (let i = 1; i < times.length; i++) expect(times[i]).toBeGreaterThan(times[i - 1]);
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
      const requests = requestsOf(random, 8, 200);
      const pool = poolOf(24, 4, 4, 16);
      const options = { maxBatch: 4, tokenBudget: 16, speed: Infinity, seed, windowLeft: 16 };
      const { scheduler } = run(pool, requests, options);
      scheduler[Symbol.dispose]();
      expect(pool.groups[0].allocator.freeCount).toBe(24);
    });
  });

  test("starves nobody: the earliest arrival advances in every step", () => {
    forSeeds(30, (random) => {
      const requests = requestsOf(random, 12, 60);
      const pool = poolOf(25, 4, 6);
      const scheduler = new Scheduler(pool, requests, {
        ...{ maxBatch: 6, tokenBudget: 10, speed: Infinity, seed },
      });
      for (let now = 0; !scheduler.done; now++) {
        const earliest = scheduler.jobs.find((job) => !job.finished)!;
        const step = scheduler.step(now)!;
        expect(step.jobs).toContain(earliest);
        scheduler.advance();
        scheduler.stamp(now + 1);
      }
    });
  });

  test("preempts the latest arrival, which computes its tokens again", () => {
    const prompt = (id: number) => Int32Array.from({ length: 16 }, (_, i) => 100 * id + i);
    const requests = [0, 1].map((id) => ({
      ...{ id, arrivalSeconds: id, promptTokens: prompt(id), outputTokens: 30 },
    }));
    const pool = poolOf(12, 4, 2);
    const { scheduler, given } = run(pool, requests, {
      ...{ maxBatch: 2, tokenBudget: 64, speed: 1, seed },
    });
    expect(scheduler.jobs.map(({ preemptions }) => preemptions)).toEqual([0, 1]);
    expect(given[0]).toBe(45);
    expect(given[1]).toBeGreaterThan(45);
    expect(scheduler.preemptions).toBe(1);
  });

  test("reuses a prefix, and takes a long prompt in chunks beside decodes", () => {
    const promptTokens = Int32Array.from({ length: 100 }, (_, i) => i);
    const requests = [0, 20, 40].map((arrivalSeconds, id) => ({
      ...{ id, arrivalSeconds, promptTokens, outputTokens: 40 },
    }));
    const pool = poolOf(64, 8, 4);
    const { scheduler, given } = run(pool, requests, {
      ...{ maxBatch: 4, tokenBudget: 16, speed: 1, seed },
    });
    expect(scheduler.jobs.map(({ cachedTokens }) => cachedTokens)).toEqual([0, 96, 96]);
    expect([...given]).toEqual([139, 43, 43]);
  });

  test("refuses what can never run, naming the request", () => {
    const request = (length: number, outputTokens: number): ReplayRequest => ({
      ...{ id: 5, arrivalSeconds: 0, promptTokens: new Int32Array(length), outputTokens },
    });
    const options = { maxBatch: 2, tokenBudget: 8, speed: 1, seed };
    const make =
      (length: number, outputs: number, more: Partial<SchedulerOptions> = {}) =>
      () =>
        new Scheduler(poolOf(4, 4, 2), [request(length, outputs)], { ...options, ...more });
    expect(make(16, 1)).not.toThrow();
    expect(make(16, 2)).toThrow("pages must be at least the 5 that request 5 alone needs (got 4)");
    expect(make(0, 1)).toThrow("requests[5].promptTokens.length must be an integer of 1 or more");
    expect(make(1, 0)).toThrow("requests[5].outputTokens");
    expect(make(1, 1, { tokenBudget: 1 })).toThrow("maxBatch must be an integer from 1 to 1");
    expect(make(1, 1, { speed: NaN })).toThrow(OptionError);
  });
});
