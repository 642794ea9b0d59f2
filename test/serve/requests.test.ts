import { describe, expect, test } from "bun:test";
import { OptionError, OutOfPagesError, PlanError } from "../../src/errors.ts";
import type { Batch } from "../../src/kv/batch.ts";
import { SequencePool } from "../../src/kv/sequence.ts";
import type { ServeRequest } from "../../src/serve/request.ts";
import type { SchedulerOptions } from "../../src/serve/options.ts";
import { Scheduler } from "../../src/serve/scheduler.ts";
import { poolOf, stepOf } from "./support.ts";

const options = { tokenBudget: 16, maxBatch: 2 };

/** A scheduler over `pages` pages of 4 tokens. */
function schedulerOf(pages = 64, more: Partial<SchedulerOptions> = {}): Scheduler {
  const limits = { ...options, ...more };
  return new Scheduler(poolOf({ pages, pageSize: 4, maxBatch: limits.maxBatch }), limits);
}

/** A request whose prompt is like no other's. */
function requestOf(id: number, length: number, more: Partial<ServeRequest> = {}): ServeRequest {
  const prompt = Int32Array.from({ length }, (_, i) => 1000 * id + i);
  return { id, prompt, maxTokens: 4, ...more };
}

/** Runs to the end, token 7 each time; ids in the order in which they started. */
function startsOf(scheduler: Scheduler, from = 0): number[] {
  const started = new Set<number>();
  for (let now = from; scheduler.count > 0; now++) {
    const step = stepOf(scheduler, now, 7)!;
    for (const { id } of step.jobs) started.add(id);
  }
  return [...started];
}

describe("order", () => {
  test("within a priority, first come is first served", () => {
    const scheduler = schedulerOf(64, { maxBatch: 1 });
    for (const id of [3, 1, 2]) scheduler.add(requestOf(id, 5), 0);
    expect(startsOf(scheduler)).toEqual([3, 1, 2]);
  });

  test("a request lets pass what is more urgent and comes soon enough", () => {
    const scheduler = schedulerOf(64, { maxBatch: 1, levelSeconds: 5 });
    scheduler.add(requestOf(0, 5), 0);
    stepOf(scheduler, 0);
    scheduler.add(requestOf(1, 5, { priority: 2 }), 1);
    scheduler.add(requestOf(2, 5, { priority: 1 }), 2);
    scheduler.add(requestOf(3, 5, { priority: 0 }), 10.5);
    scheduler.add(requestOf(4, 5, { priority: 1 }), 6);
    scheduler.add(requestOf(5, 5, { priority: 0 }), 12);
    // Ranks 11, 7, 10.5, 11 and 12; of the two 11, the first added is first.
    expect(startsOf(scheduler, 12)).toEqual([0, 2, 3, 1, 4, 5]);
  });

  test("what runs is not stopped for what is more urgent", () => {
    const scheduler = schedulerOf(64, { maxBatch: 1 });
    const slow = scheduler.add(requestOf(0, 5, { priority: 200 }), 0);
    stepOf(scheduler, 0);
    scheduler.add(requestOf(1, 5), 1);
    for (let now = 1; slow.ending === null; now++) {
      expect(stepOf(scheduler, now)!.jobs).toEqual([slow]);
    }
    expect(slow.preemptions).toBe(0);
  });

  test("when pages run out, the least urgent gives its pages up and keeps its tokens", () => {
    const scheduler = schedulerOf(12);
    const low = scheduler.add(requestOf(0, 16, { priority: 9, maxTokens: 30 }), 0);
    for (let now = 0; now < 5; now++) stepOf(scheduler, now, 100 + now);
    const high = scheduler.add(requestOf(1, 16, { maxTokens: 30 }), 5);
    for (let now = 5; scheduler.count > 0; now++) stepOf(scheduler, now, 100 + now);
    expect([low.preemptions > 0, high.preemptions]).toEqual([true, 0]);
    expect([low.generated, high.generated]).toEqual([30, 30]);
    expect([...low.tokens.subarray(16, 21)]).toEqual([100, 101, 102, 103, 104]);
  });

  test("nobody starts before a first one that does not fit, until that one is gone", () => {
    const scheduler = schedulerOf(12);
    scheduler.add(requestOf(0, 24, { maxTokens: 12 }), 0);
    for (let now = 0; now < 3; now++) stepOf(scheduler, now);
    scheduler.add(requestOf(1, 24), 3);
    const small = scheduler.add(requestOf(2, 2), 4);
    for (let now = 4; now < 8; now++) {
      expect(stepOf(scheduler, now)!.jobs.map(({ id }) => id)).toEqual([0]);
    }
    expect(scheduler.abort(1)).toBe(true);
    expect(stepOf(scheduler, 8)!.jobs).toContain(small);
    expect(small.startSeconds).toBe(8);
  });

  test("a small request starts before one that does not fit, if it is more urgent", () => {
    const scheduler = schedulerOf(12);
    scheduler.add(requestOf(0, 24, { maxTokens: 12 }), 0);
    for (let now = 0; now < 3; now++) stepOf(scheduler, now);
    scheduler.add(requestOf(1, 24, { priority: 1 }), 3);
    expect(stepOf(scheduler, 3)!.jobs.length).toBe(1);
    const urgent = scheduler.add(requestOf(2, 2), 4);
    expect(stepOf(scheduler, 4)!.jobs).toContain(urgent);
  });

  test("requests with the same first pages are neighbours in the batch", () => {
    const scheduler = schedulerOf(64, { maxBatch: 6, tokenBudget: 64 });
    const heads = [0, 1].map((head) => Int32Array.from({ length: 8 }, (_, i) => 10 * head + i));
    for (let id = 0; id < 6; id++) {
      const prompt = Int32Array.from([...heads[id % 2], 100 + id]);
      scheduler.add({ id, prompt, maxTokens: 9 }, id);
      stepOf(scheduler, id);
    }
    const parities = stepOf(scheduler, 6)!.jobs.map(({ id }) => id % 2);
    expect([parities.join(""), parities.toReversed().join("")]).toContain("000111");
  });
});

describe("an end", () => {
  test("comes with an end token, which is generated too", () => {
    const scheduler = schedulerOf();
    const job = scheduler.add(requestOf(0, 5, { maxTokens: 9, endTokens: [6, 7] }), 0);
    for (const token of [5, 8, 7]) stepOf(scheduler, 0, token);
    expect(job.ending).toBe("end");
    expect([...job.tokens.subarray(5, job.length)]).toEqual([5, 8, 7]);
    expect(stepOf(scheduler, 1)).toBeNull();
  });

  test("comes with the last token that the pages hold, where no number is given", () => {
    const scheduler = schedulerOf(20);
    const job = scheduler.add(requestOf(0, 5, { maxTokens: undefined }), 0);
    while (scheduler.count > 0) stepOf(scheduler, 0);
    // All 80 places hold K/V; the token that comes out of the last one has none.
    expect([job.ending, job.length]).toEqual(["length", 81]);
    const windowed = new Scheduler(
      poolOf({ pages: 20, pageSize: 4, maxBatch: 2, windowLeft: 9 }),
      options,
    );
    expect(windowed.add(requestOf(0, 5, { maxTokens: undefined }), 0).maxTokens).toBeGreaterThan(
      1e9,
    );
  });

  test("of a long output comes with every token in its place", () => {
    const scheduler = schedulerOf(600);
    const job = scheduler.add(requestOf(1, 5, { maxTokens: 2000 }), 0);
    for (let token = 0; scheduler.count > 0; token++) stepOf(scheduler, token, token);
    const expected = Int32Array.from({ length: 2005 }, (_, i) => (i < 5 ? 1000 + i : i - 5));
    expect(job.tokens.subarray(0, job.length)).toEqual(expected);
  });

  test("by abort comes at once, for who waits and who runs", () => {
    const scheduler = schedulerOf(64, { maxBatch: 1 });
    const [first, second, third] = [0, 1, 2].map((id) => scheduler.add(requestOf(id, 5), 0));
    stepOf(scheduler, 0);
    expect([scheduler.abort(1), scheduler.abort(0), scheduler.abort(0)]).toEqual([
      true,
      true,
      false,
    ]);
    expect([first.ending, second.ending, third.ending]).toEqual(["abort", "abort", null]);
    expect(stepOf(scheduler, 1)!.jobs).toEqual([third]);
    expect(scheduler.usage().ended).toEqual({ length: 0, end: 0, abort: 2 });
  });

  test("by abort waits for the step under way, whose token is not looked at", () => {
    const scheduler = schedulerOf();
    const [first, second] = [0, 1].map((id) => scheduler.add(requestOf(id, 5), 0));
    const step = scheduler.step(0)!;
    expect([scheduler.abort(0), scheduler.abort(0), scheduler.count]).toEqual([true, false, 2]);
    const row = step.sampled.indexOf(first);
    expect(first.sequence).not.toBeNull();
    scheduler.advance(
      step,
      [0, 1].map((i) => (i === row ? NaN : 7)),
    );
    expect([first.ending, first.generated, second.generated]).toEqual(["abort", 0, 1]);
    expect(scheduler.count).toBe(1);
  });

  test("of all comes with dispose, also amid a step, and gives all pages back", () => {
    const pool = poolOf({ pages: 64, pageSize: 4, maxBatch: 2 });
    const scheduler = new Scheduler(pool, options);
    const jobs = [0, 1, 2].map((id) => scheduler.add(requestOf(id, 9), 0));
    stepOf(scheduler, 0);
    scheduler.step(1);
    scheduler[Symbol.dispose]();
    expect(jobs.every(({ ending }) => ending === "abort")).toBe(true);
    expect([pool.sequenceCount, pool.groups[0].allocator.freeCount]).toEqual([0, 64]);
  });
});

describe("a step", () => {
  test("says which rows want logits, and which tokens go in", () => {
    const scheduler = schedulerOf(64, { tokenBudget: 8 });
    const first = scheduler.add(requestOf(0, 5), 0);
    const second = scheduler.add(requestOf(1, 9), 0);
    let step = scheduler.step(0)!;
    expect([...step.newTokens]).toEqual([5, 3]);
    expect([step.jobs, step.sampled, step.logitRows[0]]).toEqual([[first, second], [first], 4]);
    scheduler.advance(step, [7]);
    step = scheduler.step(1)!;
    expect([step.decodeTokens, step.prefillTokens]).toEqual([1, 6]);
    expect(step.sampled).toEqual(step.jobs);
    const rows = step.logitRows.subarray(0, step.wanted);
    expect([...rows]).toEqual(step.jobs[0] === first ? [0, 6] : [5, 6]);
    expect([first.computed, second.computed]).toEqual([5, 3]);
    expect([...step.batch.kvLengths.subarray(0, 2)].sort()).toEqual([6, 9]);
  });

  test("is reserved by whom the options name, and tried again after an eviction", () => {
    const pool = poolOf({ pages: 8, pageSize: 4, maxBatch: 2 });
    const asked: number[] = [];
    const scheduler = new Scheduler(pool, {
      ...options,
      reserve(sequences, newTokens, tokens) {
        asked.push(tokens);
        return pool.reserve(sequences, newTokens, { padTo: 16 });
      },
    });
    scheduler.add(requestOf(0, 16), 0);
    while (scheduler.count > 0) stepOf(scheduler, 0);
    scheduler.add(requestOf(1, 16, { maxTokens: 16 }), 1);
    expect(scheduler.step(1)!.batch.paddedTokens).toBe(16);
    expect(asked).toEqual([16, 1, 1, 1, 16]);
  });

  test("counts what it did", () => {
    const scheduler = schedulerOf();
    scheduler.add(requestOf(0, 9), 0);
    scheduler.add(requestOf(1, 9), 0);
    scheduler.add({ id: 2, prompt: requestOf(0, 9).prompt, maxTokens: 2 }, 0);
    stepOf(scheduler, 0);
    const { pages, ...counts } = scheduler.usage();
    expect(counts).toEqual({
      waiting: 1,
      running: 2,
      ended: { length: 0, end: 0, abort: 0 },
      preemptions: 0,
      promptTokens: 18,
      cachedTokens: 0,
      computedTokens: 16,
      generatedTokens: 1,
    });
    expect(pages).toEqual([{ total: 64, running: 5, cached: 0, free: 59 }]);
    while (scheduler.count > 0) stepOf(scheduler, 1);
    expect(scheduler.usage()).toMatchObject({
      waiting: 0,
      running: 0,
      ended: { length: 3 },
      promptTokens: 27,
      generatedTokens: 10,
      pages: [{ running: 0, cached: 4, free: 60 }],
    });
  });

  test("a prompt that is being computed is not computed again beside it", () => {
    const scheduler = schedulerOf(64, { tokenBudget: 32, maxBatch: 5 });
    const { prompt } = requestOf(0, 18);
    const jobs = [0, 1, 2].map((id) => scheduler.add({ id, prompt, maxTokens: 2 }, 0));
    // This one begins alike, but with less than a page.
    const odd = Int32Array.of(...prompt.subarray(0, 3), 7, 7);
    const other = scheduler.add({ id: 3, prompt: odd, maxTokens: 2 }, 0);
    expect(stepOf(scheduler, 0)!.jobs).toEqual([jobs[0]]);
    expect(new Set(stepOf(scheduler, 1)!.jobs)).toEqual(new Set([...jobs, other]));
    expect(jobs.map(({ cachedTokens }) => cachedTokens)).toEqual([0, 16, 16]);
    expect(scheduler.usage().computedTokens).toBe(18 + 1 + 2 + 2 + 5);
  });

  test("who shares only the first chunk of a long prompt waits for that alone", () => {
    const scheduler = schedulerOf(64, { tokenBudget: 8, maxBatch: 2 });
    const long = scheduler.add(requestOf(0, 40), 0);
    const alike = Int32Array.of(...long.tokens.subarray(0, 8), 7);
    const short = scheduler.add({ id: 1, prompt: alike, maxTokens: 3 }, 0);
    stepOf(scheduler, 0);
    expect([long.computed, short.sequence]).toEqual([8, null]);
    while (short.ending === null) stepOf(scheduler, 1);
    expect(short.cachedTokens).toBe(8);
  });

  test("a step that failed is given back, and its tokens are scheduled again", () => {
    const pool = poolOf({ pages: 64, pageSize: 4, maxBatch: 2 });
    const scheduler = new Scheduler(pool, options);
    const [first, second] = [0, 1].map((id) => scheduler.add(requestOf(id, 6), 0));
    stepOf(scheduler, 0);
    const used = pool.groups[0].allocator.usedCount;
    for (const giveBack of [() => {}, (batch: Batch) => pool.rollback(batch)]) {
      const step = scheduler.step(1)!;
      expect([...step.newTokens]).toEqual([1, 1]);
      giveBack(step.batch);
      scheduler.rollback(step);
      expect(() => scheduler.rollback(step)).toThrow(OptionError);
      expect(() => scheduler.advance(step, [7, 7])).toThrow(OptionError);
      expect(pool.groups[0].allocator.usedCount).toBe(used);
      expect([first, second].map(({ computed, sequence }) => [computed, sequence!.length])).toEqual(
        [
          [6, 6],
          [6, 6],
        ],
      );
    }
    const step = scheduler.step(2)!;
    expect(scheduler.abort(1)).toBe(true);
    scheduler.rollback(step);
    expect([first.ending, second.ending, second.sequence]).toEqual([null, "abort", null]);
    while (scheduler.count > 0) stepOf(scheduler, 3);
    expect(first.generated).toBe(4);
  });

  test("after one that failed, all prompts that had started go on in order", () => {
    const scheduler = schedulerOf(64, { maxBatch: 4, tokenBudget: 8 });
    const jobs = [3, 3, 9].map((length, id) => scheduler.add(requestOf(id, length), id));
    scheduler.rollback(scheduler.step(3)!);
    const late = scheduler.add(requestOf(3, 2), 4);
    const step = scheduler.step(4)!;
    expect(step.jobs.map(({ id, scheduled }) => [id, scheduled]).sort()).toEqual([
      [0, 3],
      [1, 3],
      [2, 2],
    ]);
    expect([late.sequence, ...jobs.map(({ computed }) => computed)]).toEqual([null, 0, 0, 0]);
  });

  test("is not given back once others have reserved, until its sequences are cut by hand", () => {
    const pool = new SequencePool({ pageSize: 4, maxSequences: 3, groups: [{ pages: 64 }] });
    const scheduler = new Scheduler(pool, options);
    const job = scheduler.add(requestOf(0, 6), 0);
    const step = scheduler.step(0)!;
    pool.reserve([pool.create()], [1]);
    expect(() => scheduler.rollback(step)).toThrow(PlanError);
    expect(() => scheduler.rollback(step)).toThrow("the pool has reserved another step");
    expect([job.scheduled, job.sequence!.length]).toEqual([6, 6]);
    for (const { sequence, computed } of step.jobs) sequence!.truncate(computed);
    scheduler.rollback(step);
    expect([...scheduler.step(1)!.newTokens]).toEqual([6]);
  });

  test("starts a request that did not fit before more of its prompt was cached", () => {
    const scheduler = schedulerOf(10, { tokenBudget: 8 });
    const first = scheduler.add(requestOf(0, 30, { maxTokens: 8 }), 0);
    const second = scheduler.add({ id: 1, prompt: requestOf(0, 30).prompt, maxTokens: 4 }, 0);
    for (let now = 0; now < 4; now++) expect(stepOf(scheduler, now)!.jobs).toEqual([first]);
    expect(stepOf(scheduler, 4)!.jobs).toContain(second);
    expect(second.cachedTokens).toBe(28);
  });

  test("starts a request that did not fit before a window had passed pages", () => {
    const pool = poolOf({ pages: 8, pageSize: 4, maxBatch: 2, windowLeft: 6 });
    const scheduler = new Scheduler(pool, options);
    const first = scheduler.add(requestOf(0, 40, { maxTokens: 20 }), 0);
    scheduler.add(requestOf(1, 12), 0);
    const counts = new Set<number>();
    while (first.ending === null) counts.add(stepOf(scheduler, 1)!.jobs.length);
    expect([...counts]).toEqual([1, 2]);
  });

  test("does not go on to after a step that a layer has not appended", () => {
    const groups = [{ pages: 16 }];
    const pool = new SequencePool({ pageSize: 4, maxSequences: 2, groups, layers: 2 });
    const scheduler = new Scheduler(pool, options);
    const job = scheduler.add(requestOf(0, 6), 0);
    const step = scheduler.step(0)!;
    pool.wrote(step.batch, 1);
    expect(() => scheduler.advance(step, [7])).toThrow(PlanError);
    expect(() => scheduler.advance(step, [7])).toThrow(/the step holds 6 tokens/);
    expect([job.computed, job.generated]).toEqual([0, 0]);
    pool.wrote(step.batch, 0);
    scheduler.advance(step, [7]);
    expect([job.computed, job.generated]).toEqual([6, 1]);
  });

  test("that nothing fits says so, and loses nothing", () => {
    const pool = new SequencePool({ pageSize: 4, maxSequences: 3, groups: [{ pages: 4 }] });
    const scheduler = new Scheduler(pool, options);
    const job = scheduler.add(requestOf(0, 4, { maxTokens: 12 }), 0);
    stepOf(scheduler, 0);
    const other = pool.create();
    pool.reserve([other], [12]);
    expect(() => scheduler.step(1)).toThrow(OutOfPagesError);
    expect([job.generated, scheduler.count]).toEqual([1, 1]);
    other.free();
    while (scheduler.count > 0) stepOf(scheduler, 2);
    expect(job.generated).toBe(12);
  });

  test("takes in a prompt longer than all pages beside others, where a window lets pages go", () => {
    const pool = poolOf({ pages: 14, pageSize: 4, maxBatch: 2, windowLeft: 6 });
    const scheduler = new Scheduler(pool, options);
    const first = scheduler.add(requestOf(0, 12, { maxTokens: 20 }), 0);
    stepOf(scheduler, 0);
    const long = scheduler.add(requestOf(1, 90), 1);
    expect(stepOf(scheduler, 1)!.jobs).toContain(long);
    while (scheduler.count > 0) stepOf(scheduler, 2);
    expect([first.preemptions, long.preemptions]).toEqual([0, 0]);
  });

  test("runs over groups of pages of which one has a window", () => {
    const groups = [{ pages: 40 }, { pages: 9, windowLeft: 6 }];
    const pool = new SequencePool({ pageSize: 4, maxSequences: 2, groups });
    const scheduler = new Scheduler(pool, options);
    const jobs = [0, 1, 2].map((id) => scheduler.add(requestOf(id, 50, { maxTokens: 20 }), 0));
    while (scheduler.count > 0) stepOf(scheduler, 0);
    expect(jobs.map(({ generated }) => generated)).toEqual([20, 20, 20]);
    scheduler[Symbol.dispose]();
    expect(pool.groups.map(({ allocator }) => allocator.freeCount)).toEqual([40, 9]);
  });
});

describe("refused, with nothing changed", () => {
  const cases: [string, Partial<ServeRequest>, string][] = [
    ["an id that is none", { id: -1 }, "id must be an integer of 0 or more (got -1)"],
    ["an id that is taken", { id: 5 }, "id must be of no request that waits or runs (got 5)"],
    ["a list for a prompt", { prompt: [1] as never }, "prompt must be an Int32Array of token ids"],
    ["no prompt", { prompt: new Int32Array(0) }, "prompt.length must be an integer of 1 or more"],
    ["no token", { maxTokens: 0 }, "maxTokens must be an integer of 1 or more (got 0)"],
    ["half a token", { endTokens: [1.5] }, "endTokens[0] must be an integer from 0"],
    ["a level beyond", { priority: 256 }, "priority must be an integer from 0 to 255 (got 256)"],
    ["too much", { maxTokens: 13 }, "pages must be at least the 5 that request 1 alone needs"],
    ["too long", { prompt: new Int32Array(17), maxTokens: undefined }, "pages must be at least"],
  ];
  test.each(cases)("%s", (_, more, sentence) => {
    const scheduler = schedulerOf(4);
    scheduler.add(requestOf(5, 4), 0);
    const add = () => scheduler.add(requestOf(1, 5, more), 0);
    expect(add).toThrow(OptionError);
    expect(add).toThrow(sentence);
    expect([scheduler.count, scheduler.usage().waiting]).toEqual([1, 1]);
  });

  test("limits that make no sense", () => {
    expect(() => schedulerOf(4, { tokenBudget: 1 })).toThrow("maxBatch must be an integer from 1");
    expect(() => schedulerOf(4, { tokenBudget: 0 })).toThrow("tokenBudget must be");
    expect(() => schedulerOf(4, { levelSeconds: NaN })).toThrow("levelSeconds must be 0 or more");
    const pool = poolOf({ pages: 4, pageSize: 4, maxBatch: 1 });
    expect(() => new Scheduler(pool, options)).toThrow("maxBatch must be an integer from 1 to 1");
    expect(() => schedulerOf().add(requestOf(0, 4), Infinity)).toThrow("now must be 0 or more");
    expect(() => schedulerOf().step(-1)).toThrow("now must be 0 or more");
  });

  test("steps and tokens out of turn", () => {
    const scheduler = schedulerOf();
    const job = scheduler.add(requestOf(0, 4), 0);
    const step = scheduler.step(0)!;
    expect(() => scheduler.step(1)).toThrow("step must be called after advance");
    const other = schedulerOf();
    other.add(requestOf(0, 4), 0);
    const wrong: [() => void, string][] = [
      [() => scheduler.advance(other.step(0)!, [1]), "step must be the one under way"],
      [() => scheduler.advance(step, []), "tokens.length must be 1 or more (got 0)"],
      [() => scheduler.advance(step, [-1]), "tokens[0] must be a token id of 0 or more (got -1)"],
      [() => scheduler.advance(step, [0.5]), "tokens[0] must be a token id"],
    ];
    for (const [advance, sentence] of wrong) expect(advance).toThrow(sentence);
    expect([job.computed, job.generated]).toEqual([0, 0]);
    scheduler.advance(step, [3]);
    expect([job.computed, job.generated]).toEqual([4, 1]);
    expect(() => scheduler.advance(step, [3])).toThrow("step must be the one under way");
  });
});
