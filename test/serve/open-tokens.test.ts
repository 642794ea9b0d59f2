import { expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import type { Job } from "../../src/serve/job.ts";
import type { ServeRequest } from "../../src/serve/request.ts";
import { Scheduler } from "../../src/serve/scheduler.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { poolOf, promptOf } from "./support.ts";

const endToken = 3;

/** The token that follows these, which every one of them decides. */
function nextToken(tokens: ArrayLike<number>, length: number): number {
  let hash = 17;
  for (let i = 0; i < length; i++) hash = (Math.imul(hash, 31) + tokens[i] + 1) | 0;
  return (hash >>> 7) % 12;
}

/** What a request should have said. */
function expectedOf({ prompt, maxTokens }: ServeRequest) {
  const tokens = [...prompt];
  while (tokens.length < prompt.length + maxTokens!) {
    tokens.push(nextToken(tokens, tokens.length));
    if (tokens.at(-1) === endToken) return { tokens, ending: "end" };
  }
  return { tokens, ending: "length" };
}

interface Open {
  readonly job: Job;
  readonly place: number;
  /** Of the drafts in the step those that are right, and the token behind them. */
  readonly accepted: readonly number[];
  readonly token: number;
}

/** Guesses at what comes next, each right with the given chance; now and then more than fit. */
function guess(random: Random, { tokens, length }: Job, rightness: number): number[] {
  const known = [...tokens.subarray(0, length)];
  return Array.from({ length: random.integer(0, 6) }, () => {
    const right = nextToken(known, known.length);
    known.push(random.chance(rightness) ? right : (right + 1) % 12);
    return known.at(-1)!;
  });
}

/** How many drafts are right that follow these tokens. */
function rightOf(known: number[], { drafts, drafted }: Job): number[] {
  const right: number[] = [];
  while (right.length < drafted && drafts![right.length] === nextToken(known, known.length)) {
    known.push(drafts![right.length]);
    right.push(right.length);
  }
  return right;
}

/**
 * Runs requests to their ends, each step's tokens told after the next step was scheduled; drafts of
 * some are right with the given chance.
 */
function run(random: Random, rightness?: number) {
  const maxBatch = random.integer(1, 5);
  const pages = random.integer(20, 40);
  const pool = poolOf({ pages, pageSize: random.pick([1, 2, 4]), maxBatch });
  const tokenBudget = maxBatch + random.integer(0, 8);
  const scheduler = new Scheduler(pool, { tokenBudget, maxBatch });
  const requests = Array.from({ length: 12 }, (_, id): ServeRequest => {
    const prompt = promptOf(random, [Int32Array.of(1, 2, 1, 2, 1, 2)], 5, 4);
    const waitsForTokens = random.chance(0.3);
    return { id, prompt, maxTokens: random.integer(1, 9), endTokens: [endToken], waitsForTokens };
  });
  const jobs = requests.map((request) => scheduler.add(request, 0));
  let open: Open[] = [];
  let wasted = 0;
  const drafts = { drafted: 0, accepted: 0, all: 0, none: 0, some: 0 };
  for (let now = 0; scheduler.count > 0 || open.length > 0; now++) {
    for (const job of rightness === undefined ? [] : scheduler.running)
      if (random.chance(0.8)) scheduler.propose(job, guess(random, job, rightness!));
    const step = scheduler.step(now);
    if (step !== null) {
      const wanted = step.sampled.reduce((sum, { drafted }) => sum + 1 + drafted, 0);
      expect(step.wanted).toBe(wanted);
      const rows = [...step.logitRows.subarray(0, wanted)];
      expect(rows).toEqual([...new Set(rows)].sort((a, b) => a - b));
      expect(step.tokens).toBeLessThanOrEqual(tokenBudget);
    }
    const next = (step?.sampled ?? []).map((job): Open => {
      // The device has what the step before chose; the host has not.
      const known = Array.from(job.tokens.subarray(0, job.length));
      const before = open.find((each) => each.job === job);
      if (requests[job.id].waitsForTokens) expect(before).toBeUndefined();
      if (before !== undefined) known[before.place] = before.token;
      expect(Math.min(...known)).toBeGreaterThanOrEqual(0);
      const accepted = rightOf(known, job);
      return { job, place: job.length, accepted, token: nextToken(known, known.length) };
    });
    const firsts = next.map(({ job }) => 1 + job.drafted);
    if (step !== null) scheduler.advance(step);
    let row = 0;
    next.forEach(({ job, place }, i) => {
      expect(job.tokens[place]).toBe(~row);
      row += firsts[i];
    });
    for (const { job, place, accepted, token } of open) {
      if (place >= job.length) wasted++;
      else {
        drafts.drafted += job.drafted;
        drafts.accepted += accepted.length;
        if (job.drafted > 0) {
          const isAll = accepted.length === job.drafted;
          drafts[isAll ? "all" : accepted.length === 0 ? "none" : "some"]++;
        }
        scheduler.tell(job, place, token, accepted);
        if (job.sequence !== null && accepted.length > 0)
          expect(job.sequence.length).toBe(job.computed);
      }
    }
    open = next;
  }
  const said = jobs.map(({ tokens, length, ending }) => ({
    tokens: [...tokens.subarray(0, length)],
    ending: String(ending),
  }));
  const expected = requests.map(expectedOf);
  expect(said).toEqual(expected);
  const { ended, generatedTokens, preemptions } = scheduler.usage();
  const isEnd = expected.filter(({ ending }) => ending === "end").length;
  expect(ended).toEqual({ length: 12 - isEnd, end: isEnd, abort: 0 });
  const generated = expected.reduce(
    (sum, { tokens }, i) => sum + tokens.length - requests[i].prompt.length,
    0,
  );
  expect(generatedTokens).toBe(generated);
  scheduler[Symbol.dispose]();
  expect(pool.groups[0].allocator.freeCount).toBe(pages);
  return { wasted, preemptions, ...drafts };
}

test("tokens that are told a step late end requests as those told at once", () => {
  const sums = { wasted: 0, preemptions: 0 };
  forSeeds(300, (random) => {
    const { wasted, preemptions } = run(random);
    sums.wasted += wasted;
    sums.preemptions += preemptions;
  });
  expect(sums.wasted).toBeGreaterThan(100);
  expect(sums.preemptions).toBeGreaterThan(20);
});

test.each([0, 0.5, 1])("drafts of which %f are right change no token", (rightness) => {
  const sums = { wasted: 0, preemptions: 0, drafted: 0, accepted: 0, all: 0, none: 0, some: 0 };
  forSeeds(300, (random) => {
    for (const [name, count] of Object.entries(run(random, rightness)))
      sums[name as keyof typeof sums] += count;
  });
  const { preemptions, drafted, accepted, all, none, some } = sums;
  expect(preemptions).toBeGreaterThan(20);
  expect(drafted).toBeGreaterThan(500);
  if (rightness === 0) expect([accepted, all, some]).toEqual([0, 0, 0]);
  if (rightness === 1) expect([accepted, none, some]).toEqual([drafted, 0, 0]);
  if (rightness === 0.5) expect(Math.min(all, none, some)).toBeGreaterThan(50);
});

test("a token is told once, in its place, between steps", () => {
  const scheduler = new Scheduler(poolOf({ pages: 8, pageSize: 4, maxBatch: 2 }), {
    tokenBudget: 8,
    maxBatch: 2,
  });
  const job = scheduler.add({ id: 0, prompt: Int32Array.of(5, 6), maxTokens: 3 }, 0);
  scheduler.advance(scheduler.step(0)!);
  expect(() => scheduler.tell(job, 1, 7)).toThrow(/place must be that of an open token/);
  expect(() => scheduler.tell(job, 3, 7)).toThrow(OptionError);
  expect(() => scheduler.tell(job, 2, -1)).toThrow(/token must be/);
  const step = scheduler.step(1)!;
  expect(() => scheduler.tell(job, 2, 7)).toThrow(/after advance/);
  scheduler.advance(step);
  expect(scheduler.tell(job, 2, 7)).toBeNull();
  expect(() => scheduler.tell(job, 2, 7)).toThrow(OptionError);
  expect([...job.tokens.subarray(0, 4)]).toEqual([5, 6, 7, ~0]);
});
