import type { SequencePool } from "../../src/kv/sequence.ts";
import type { Ending, Job } from "../../src/serve/job.ts";
import type { ServeRequest } from "../../src/serve/request.ts";
import type { Scheduler } from "../../src/serve/scheduler.ts";
import type { Step } from "../../src/serve/step.ts";

/** What the naive scheduler knows of a request. */
export interface Mirror {
  readonly request: ServeRequest;
  readonly job: Job;
  readonly order: number;
  readonly rank: number;
  /** Prompt and generated tokens. */
  readonly tokens: number[];
  /** By position, a hash of all tokens up to it: what a page must hold there. */
  readonly hashes: number[];
  /** Tokens whose K/V its sequence holds; -1 while it waits. */
  computed: number;
  ending: Ending | null;
  aborted: boolean;
  /** Steps since it was added. */
  steps: number;
  /** Requests whose steps it may have to sit out, and itself. */
  readonly before: Set<Mirror>;
}

/** Says what is wrong. */
export function fail(sentence: string): never {
  throw new Error(sentence);
}

function hashOf(before: number, token: number): number {
  const h = Math.imul(before ^ (token + 0x9e37), 0x01000193);
  return h ^ (h >>> 15);
}

/**
 * A naive scheduler beside the real one: it follows every decision with lists and sorts, checks
 * each against the stated policy, and keeps what the pages hold, token by token.
 */
export class Model {
  /** Those that wait or run, by id. */
  readonly living = new Map<number, Mirror>();
  readonly ended = { length: 0, end: 0, abort: 0 };
  preemptions = 0;
  promptTokens = 0;
  cachedTokens = 0;
  computedTokens = 0;
  generatedTokens = 0;
  /** Of the step under way: who has how many tokens, and who gets one. */
  #rows: { mirror: Mirror; count: number }[] = [];
  #sampled: Mirror[] = [];
  #added = 0;
  readonly #started = new Set<Mirror>();
  /** By group, by token slot, the hash that stands there. */
  readonly #storage: Int32Array[];

  constructor(
    readonly pool: SequencePool,
    readonly scheduler: Scheduler,
    readonly limits: { tokenBudget: number; maxBatch: number; levelSeconds: number },
  ) {
    this.#storage = pool.groups.map(
      ({ allocator }) => new Int32Array(allocator.pageCount * pool.pageSize),
    );
  }

  get running(): Mirror[] {
    return this.#ordered(({ computed }) => computed >= 0);
  }

  /** In the order of their turns. */
  get waiting(): Mirror[] {
    return this.#ordered(({ computed }) => computed < 0);
  }

  add(request: ServeRequest, job: Job, now: number): void {
    const { id, prompt, priority = 0 } = request;
    const rank = now + priority * this.limits.levelSeconds;
    const order = this.#added++;
    const mirror: Mirror = {
      request,
      job,
      order,
      rank,
      tokens: [],
      hashes: [],
      computed: -1,
      ending: null,
      aborted: false,
      steps: 0,
      before: new Set(),
    };
    for (const token of prompt) this.#push(mirror, token);
    mirror.before.add(mirror);
    for (const other of this.living.values()) {
      if (isBefore(other, mirror) || other.computed >= 0) mirror.before.add(other);
      if (isBefore(mirror, other)) other.before.add(mirror);
    }
    this.living.set(id, mirror);
  }

  abort(id: number): void {
    const mirror = this.living.get(id)!;
    mirror.aborted = true;
    if (!this.#rows.some((row) => row.mirror === mirror)) this.#end(mirror, "abort");
  }

  /** Follows who started and who was preempted in a step; `step` is null when it threw. */
  follow(step: Step | null): void {
    const ran = this.running;
    const waited = this.waiting;
    for (const mirror of this.living.values()) mirror.steps++;
    const runs = new Set(this.scheduler.running.map(({ id }) => this.living.get(id)!));
    const started = waited.filter((mirror) => runs.has(mirror));
    if (started.some((mirror, i) => mirror !== waited[i])) fail("one started out of turn");
    const stopped = ran.filter((mirror) => !runs.has(mirror));
    for (const { job, order } of waited)
      if (!started.some((other) => other.order === order) && job.sequence !== null)
        fail("one that waits has pages");
    const kept = [...ran, ...started].filter((mirror) => runs.has(mirror)).sort(inOrder);
    for (const mirror of stopped)
      if (kept.some((other) => isBefore(mirror, other))) fail("one before others was preempted");
    if (kept.length === 0) fail("it idles");
    const counts = this.#share(ran, started);
    for (const mirror of started) this.#start(mirror);
    for (const mirror of stopped) {
      this.preemptions++;
      mirror.computed = -1;
    }
    if (step === null) return;
    if (!(counts.get(kept[0])! > 0)) fail("the first in order does not advance");
    this.#check(step, counts);
  }

  /** Takes the tokens that came out of the step under way. */
  advance(tokens: ArrayLike<number>): void {
    for (const { mirror, count } of this.#rows) {
      mirror.computed += count;
      this.computedTokens += count;
    }
    const rows = this.#rows;
    this.#rows = [];
    this.#sampled.forEach((mirror, i) => {
      if (mirror.aborted) return;
      this.#push(mirror, tokens[i]);
      this.generatedTokens++;
      const { endTokens = [], prompt, maxTokens } = mirror.request;
      if (endTokens.includes(tokens[i])) this.#end(mirror, "end");
      else if (mirror.tokens.length - prompt.length === (maxTokens ?? mirror.job.maxTokens))
        this.#end(mirror, "length");
    });
    for (const { mirror } of rows)
      if (mirror.aborted && mirror.ending === null) this.#end(mirror, "abort");
  }

  /** The step under way failed: as if it had not been, but for who started and was preempted. */
  rollback(): void {
    const rows = this.#rows;
    this.#rows = [];
    for (const mirror of this.living.values()) mirror.steps--;
    for (const { mirror } of rows) if (mirror.aborted) this.#end(mirror, "abort");
  }

  /** Compares all that can be seen; `outside` are pages that others than the scheduler hold. */
  compare(outside: readonly Int32Array[]): void {
    const { scheduler, pool } = this;
    const { pages, ...counts } = scheduler.usage();
    const { ended, preemptions, promptTokens, cachedTokens } = this;
    const { computedTokens, generatedTokens } = this;
    const [waiting, running] = [this.waiting.length, this.running.length];
    const expected = { waiting, running, ended, preemptions, promptTokens, cachedTokens };
    const all = { ...expected, computedTokens, generatedTokens };
    if (!Bun.deepEquals(counts, all))
      fail(`it counts ${JSON.stringify(counts)}, not ${JSON.stringify(all)}`);
    if (scheduler.count !== this.living.size) fail("requests are lost");
    for (const { job, tokens, computed } of this.living.values()) {
      if (job.ending !== null || job.length !== tokens.length) fail("a request is not as it was");
      if ((job.sequence === null) !== computed < 0) fail("pages and running do not agree");
      for (let i = job.promptLength; i < tokens.length; i++)
        if (job.tokens[i] !== tokens[i]) fail("a token is lost");
    }
    let indexed = 0;
    pool.groups.forEach(({ allocator }, g) => {
      const users = new Int32Array(allocator.pageCount);
      const own = new Set<number>();
      for (const { sequence } of scheduler.running)
        for (const page of sequence!.pages(g))
          if (page >= 0) {
            users[page]++;
            own.add(page);
          }
      for (const page of outside[g] ?? []) if (page >= 0) users[page]++;
      let used = 0;
      for (let page = 0; page < users.length; page++) {
        const others = allocator.referenceCount(page) - users[page];
        if (others !== 0 && others !== 1) fail(`page ${page} has ${others} users too many`);
        indexed += others;
        if (users[page] + others > 0) used++;
      }
      if (allocator.usedCount !== used) fail("a page is lost");
      const { total, running: held, cached, free } = pages[g];
      if (held !== own.size || held + cached + free !== total) fail("pages are counted wrongly");
    });
    if (indexed !== scheduler.index.stats.pages) fail("the index holds other pages than it says");
  }

  #ordered(which: (mirror: Mirror) => boolean): Mirror[] {
    return [...this.living.values()].filter(which).sort(inOrder);
  }

  /** The policy's tokens: one of each that generates, then chunks in order, then of who started. */
  #share(ran: readonly Mirror[], started: readonly Mirror[]): Map<Mirror, number> {
    const counts = new Map<Mirror, number>();
    let left = this.limits.tokenBudget;
    const rest = ({ tokens, computed }: Mirror) => tokens.length - computed;
    for (const mirror of ran) if (rest(mirror) === 1) counts.set(mirror, left-- && 1);
    const prompts = ran.filter((mirror) => rest(mirror) > 1);
    for (const mirror of [...prompts, ...started]) {
      const computed = Math.max(mirror.computed, mirror.job.computed);
      const count = Math.min(left, mirror.tokens.length - computed);
      counts.set(mirror, count);
      left -= count;
    }
    if (started.some((mirror) => counts.get(mirror) === 0)) fail("one started without a token");
    if (ran.length + started.length > this.limits.maxBatch) fail("too many run");
    return counts;
  }

  /** A request starts from cached pages: whole ones, that hold its own tokens. */
  #start(mirror: Mirror): void {
    const { job, tokens } = mirror;
    const { computed } = job;
    if (computed % this.pool.pageSize !== 0 || computed >= tokens.length) fail("a wrong match");
    mirror.computed = computed;
    this.#checkPages(mirror, computed);
    if (this.#started.has(mirror)) return;
    this.#started.add(mirror);
    this.promptTokens += mirror.request.prompt.length;
    this.cachedTokens += computed;
  }

  /** The step is the policy's, and its new tokens go to pages that no other sequence uses. */
  #check(step: Step, counts: ReadonlyMap<Mirror, number>): void {
    const { batch, jobs, sequences } = step;
    this.#rows = jobs.map(({ id }, i) => ({
      mirror: this.living.get(id) ?? fail("a request that has ended runs"),
      count: batch.queryIndptr[i + 1] - batch.queryIndptr[i],
    }));
    const expected = this.running.filter((mirror) => counts.get(mirror)! > 0);
    if (expected.length !== jobs.length) fail("the step has other requests than the policy");
    if (jobs.some(({ adapter }, i) => i > 0 && adapter < jobs[i - 1].adapter))
      fail("requests of an adapter do not lie side by side");
    const sampled: Mirror[] = [];
    const logitRows: number[] = [];
    this.#rows.forEach(({ mirror, count }, i) => {
      if (count !== counts.get(mirror)) fail("the step has other tokens than the policy");
      if (count !== step.newTokens[i] || sequences[i] !== mirror.job.sequence) fail("a wrong row");
      const first = batch.queryIndptr[i];
      for (let t = 0; t < count; t++) {
        const position = mirror.computed + t;
        if (batch.positions[first + t] !== position) fail("a token is put in twice or not at all");
        this.#write(first + t, batch.slotMappings, mirror.hashes[position]);
      }
      if (mirror.computed + count < mirror.tokens.length) return;
      sampled.push(mirror);
      logitRows.push(first + count - 1);
    });
    // Only now all of the step is written.
    for (const { mirror, count } of this.#rows) this.#checkPages(mirror, mirror.computed + count);
    if (step.sampled.length !== sampled.length) fail("others want tokens");
    sampled.forEach((mirror, i) => {
      if (step.sampled[i] !== mirror.job || step.logitRows[i] !== logitRows[i]) fail("a wrong row");
    });
    this.#sampled = sampled;
  }

  #write(token: number, slots: readonly Int32Array[], value: number): void {
    this.pool.groups.forEach(({ allocator }, g) => {
      const slot = slots[g][token];
      if (allocator.referenceCount(Math.floor(slot / this.pool.pageSize)) !== 1)
        fail("a page that others use is written");
      this.#storage[g][slot] = value;
    });
  }

  /** The pages hold the request's own tokens wherever its queries from `computed` on may look. */
  #checkPages({ job, hashes, computed }: Mirror, length: number): void {
    const { pageSize } = this.pool;
    this.pool.groups.forEach(({ windowLeft }, g) => {
      const pages = job.sequence!.pages(g);
      const first = windowLeft < 0 ? 0 : Math.max(0, computed - windowLeft);
      for (let position = first; position < length; position++) {
        const slot = pages[Math.floor(position / pageSize)] * pageSize + (position % pageSize);
        if (this.#storage[g][slot] !== hashes[position])
          fail(`position ${position} of request ${job.id} holds another token`);
      }
    });
  }

  #push({ tokens, hashes, request }: Mirror, token: number): void {
    // The same tokens have other keys and values under another adapter.
    hashes.push(hashOf(hashes.at(-1) ?? 1 + (request.adapter ?? 0), token));
    tokens.push(token);
  }

  #end(mirror: Mirror, ending: Ending): void {
    mirror.ending = ending;
    this.ended[ending]++;
    this.living.delete(mirror.request.id);
    // Each step the first in order of those that run advances by a token or more, and does not lose
    // it but by a preemption: so long may a request wait for those before it.
    let most = 0;
    for (const { tokens, job } of mirror.before) most += tokens.length * (1 + job.preemptions);
    if (mirror.steps > most) fail(`request ${mirror.request.id} took ${mirror.steps} steps`);
  }
}

function isBefore(a: Mirror, b: Mirror): boolean {
  return inOrder(a, b) < 0;
}

function inOrder(a: Mirror, b: Mirror): number {
  return a.rank - b.rank || a.order - b.order;
}
