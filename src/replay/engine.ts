import { availableParallelism } from "node:os";
import { Attention } from "../attention/attention.ts";
import { PagedCache } from "../attention/paged-cache.ts";
import { Device } from "../device/device.ts";
import { requireInteger } from "../errors.ts";
import type { WorthSharing } from "../kv/share-prefixes.ts";
import { readRate } from "../ops/probe.ts";
import { defaultCosts, worthSharing } from "../plan/cost.ts";
import { drawPlan } from "../plan/draw.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import { Model } from "./model.ts";
import { Random } from "./random.ts";
import { resultOf } from "./result.ts";
import { type ScheduledStep, Scheduler } from "./scheduler.ts";
import { LayerTimer } from "./timer.ts";
import type { EngineOptions, ReplayRequest, ReplayResult, StepRecord } from "./types.ts";
import { keysRead, PageCounter } from "./usage.ts";
import { Verifier } from "./verify.ts";

/** Longest wait for an arrival before the signal is looked at again, in milliseconds. */
const waitMost = 50;

/**
 * Runs a workload through scheduler, cache, planner and attention, and measures it. Errors:
 * OptionError for options, OutOfMemoryError for more pages than memory holds.
 */
export async function replay(
  requests: readonly ReplayRequest[],
  options: EngineOptions,
): Promise<ReplayResult> {
  await using engine = await Engine.create(requests, options);
  return await engine.run();
}

/** One run of a workload and all it needs on the device. */
export class Engine implements AsyncDisposable {
  /** Keys and values of the requests that run. */
  readonly cache: PagedCache;
  readonly scheduler: Scheduler;
  readonly #attention: Attention;
  readonly #model: Model;
  readonly #out: Tensor;
  readonly #verifier: Verifier;
  readonly #timer: LayerTimer;
  readonly #pages: PageCounter;
  readonly #steps: StepRecord[] = [];
  #planSvg: string | null = null;
  readonly #worthSharing: WorthSharing;
  /** Tokens that are still to come out. */
  #tokensLeft = 0;
  /** Performance time of the first step. */
  #started = 0;
  /** Bytes of a key and a value of one head. */
  readonly #keyBytes: number;

  private constructor(
    readonly device: Device,
    readonly options: EngineOptions,
    requests: readonly ReplayRequest[],
  ) {
    const { shape, layers, dtype, tokenBudget, seed } = options;
    const { queryHeads, kvHeads, headDim, windowLeft, softCap } = shape;
    const heads = { queryHeads, kvHeads, headDim, dtype };
    this.cache = PagedCache.create(device, cacheOptions(options));
    this.scheduler = new Scheduler(this.cache.pool, requests, { ...options, windowLeft });
    this.#attention = Attention.createSync(device, { ...heads, causal: true, windowLeft, softCap });
    this.#model = new Model(device, shape, layers, dtype, tokenBudget, seed);
    this.#out = Tensor.empty(device, [tokenBudget, queryHeads, headDim], dtype, "replay outputs");
    const random = new Random(seed);
    this.#verifier = new Verifier(this.#model, {
      ...{ shape, layers, dtype, samples: options.verify },
      random: () => random.uniform(),
    });
    this.#timer = new LayerTimer(device, layers);
    this.#keyBytes = 2 * headDim * dtypeBytes(dtype);
    this.#pages = new PageCounter(this.cache.pool.groups[0]);
    const group = queryHeads / kvHeads;
    this.#worthSharing = (sharedTokens, sharers, queryTokens) =>
      worthSharing(defaultCosts, sharedTokens, sharers, queryTokens, group);
  }

  /** Opens a device and allocates what the run needs. Errors: OptionError, OutOfMemoryError. */
  static async create(requests: readonly ReplayRequest[], options: EngineOptions): Promise<Engine> {
    checkOptions(options);
    const device = await Device.open("cpu", { threads: options.threads ?? availableParallelism() });
    try {
      return new Engine(device, options, requests);
    } catch (error) {
      await device[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Runs to the end, or to the end of the step in which the signal came. */
  async run(): Promise<ReplayResult> {
    const { scheduler, options, device } = this;
    const { signal } = options;
    const readCeilingGBs = await readRate(device);
    for (const job of scheduler.jobs) this.#tokensLeft += job.outputLength;
    this.#started = performance.now();
    while (!scheduler.done && !signal?.aborted) {
      const before = performance.now();
      const step = scheduler.step(this.#now());
      if (step === null) await this.#waitForArrival();
      else await this.#run(step, before);
    }
    const seconds = this.#now();
    if (this.#steps.length > 0) this.#planSvg ??= this.#drawPlan();
    return resultOf(
      {
        jobs: scheduler.jobs,
        steps: this.#steps,
        seconds,
        preemptions: scheduler.preemptions,
        readCeilingGBs,
        verified: await this.#verifier.check(),
        device: device.name,
        planSvg: this.#planSvg,
        interrupted: !scheduler.done,
      },
      options,
    );
  }

  /** Frees all that the run held, and the device. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.device.disposed) return;
    await this.device.stream.done().catch(() => {});
    this.scheduler[Symbol.dispose]();
    const owners = [this.#attention, this.#model, this.#out, this.#verifier, this.#timer];
    for (const owner of [...owners, this.cache]) owner[Symbol.dispose]();
    await this.device[Symbol.asyncDispose]();
  }

  #now(): number {
    return (performance.now() - this.#started) / 1e3;
  }

  async #waitForArrival(): Promise<void> {
    const milliseconds = (this.scheduler.nextArrival - this.#now()) * 1e3;
    await Bun.sleep(Math.min(Math.max(1, milliseconds), waitMost));
  }

  /** One step: `before` is when its scheduling began. */
  async #run(step: ScheduledStep, before: number): Promise<void> {
    const { scheduler, options } = this;
    const { stream } = this.device;
    const { batch, jobs, sequences } = step;
    this.cache.sharePrefixes(batch, sequences, this.#worthSharing);
    const planning = performance.now();
    const plan = this.#attention.plan(batch);
    const planned = performance.now();
    this.#verifier.pick(step, this.#steps.length, this.#tokensLeft);
    const timer = this.#timer;
    timer.start();
    this.#model.prepare(stream, batch, jobs);
    let enqueueMs = 0;
    let synthesisMs = performance.now() - planned;
    for (let layer = 0; layer < options.layers; layer++) {
      this.#model.gather(stream, layer, batch.tokenCount);
      timer.mark();
      enqueueMs += this.#enqueue(layer, step);
      timer.mark();
      this.#verifier.keep(stream, layer, this.#out);
    }
    const pagesUsed = this.#pages.count(scheduler.running);
    const kvBytes = keysRead(plan) * this.#keyBytes * options.layers;
    const waitingRequests = scheduler.waitingCount;
    await stream.done();
    const ended = performance.now();
    const runningRequests = scheduler.running.length;
    const { decodeTokens, prefillTokens } = step;
    this.#tokensLeft -= scheduler.complete(this.#now());
    const completeMs = performance.now() - ended;
    synthesisMs += timer.inputMs;
    const hostMs = planned - before + enqueueMs + completeMs;
    const record: StepRecord = {
      startSeconds: (before - this.#started) / 1e3,
      endSeconds: this.#now(),
      ...{ decodeTokens, prefillTokens, runningRequests, waitingRequests, pagesUsed, kvBytes },
      planMicroseconds: (planned - planning) * 1e3,
      hostMicroseconds: hostMs * 1e3,
      synthesisMicroseconds: synthesisMs * 1e3,
      kernelMicroseconds: timer.attentionMs * 1e3,
    };
    this.#steps.push(record);
    if (this.#planSvg === null && this.#isTelling(record)) this.#planSvg = this.#drawPlan();
    options.onStep?.(record, scheduler.finishedCount, scheduler.jobs.length);
  }

  /** Whether a step shows what planning is about: many requests, prompts beside decodes. */
  #isTelling({ decodeTokens, prefillTokens }: StepRecord): boolean {
    const { maxBatch } = this.options;
    const most = Math.min(maxBatch, this.scheduler.jobs.length);
    return prefillTokens > 0 && decodeTokens >= most / 2;
  }

  #drawPlan(): string {
    const plan = this.#attention.lastPlan!;
    const title = `Plan of step ${this.#steps.length - 1}`;
    return drawPlan(plan, { processors: this.device.processors, title });
  }

  /** Queues a layer's append and attention; returns the milliseconds that took. */
  #enqueue(layer: number, { batch }: ScheduledStep): number {
    const { q, k, v } = this.#model;
    const { cache } = this;
    const started = performance.now();
    cache.append({ layer, batch, k, v });
    this.#attention.run({ layer, q, cache, out: this.#out });
    return performance.now() - started;
  }
}

function checkOptions(options: EngineOptions): void {
  requireInteger("layers", options.layers, 1, options.shape.layers);
  requireInteger("verify", options.verify, 0, 1 << 20);
  requireInteger("seed", options.seed, 0);
  requireInteger("tokenBudget", options.tokenBudget, 1);
  requireInteger("maxBatch", options.maxBatch, 1, options.tokenBudget);
}

function cacheOptions(options: EngineOptions) {
  const { shape, layers, pages, pageSize, maxBatch: maxSequences, dtype } = options;
  const { kvHeads, headDim, windowLeft } = shape;
  const every = Array.from({ length: layers }, (_, layer) => layer);
  const groups = windowLeft === undefined ? undefined : [{ layers: every, pages, windowLeft }];
  const common = { layers, kvHeads, headDim, dtype, pages, pageSize, maxSequences };
  return groups === undefined ? common : { ...common, groups };
}
