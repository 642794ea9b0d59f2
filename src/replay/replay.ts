import type { Attention } from "../attention/attention.ts";
import type { RunTensors } from "../attention/tensors.ts";
import type { AppendTensors } from "../cache/step-appends.ts";
import { PagedCache } from "../cache/paged-cache.ts";
import type { Device } from "../device/device.ts";
import type { Batch } from "../kv/batch.ts";
import type { Sequence } from "../kv/sequence.ts";
import { drawPlan } from "../plan/draw.ts";
import { Scheduler } from "../serve/scheduler.ts";
import type { Step } from "../serve/step.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import { measureAgain, readCeiling } from "./ceiling.ts";
import { DecodeGraphs } from "./graphs.ts";
import { keysRead } from "./keys-read.ts";
import { NoiseModel } from "./noise-model.ts";
import { cacheOptions, checkOptions, createParts, openDevice, type Parts } from "./parts.ts";
import { Random } from "./random.ts";
import { resultOf } from "./result.ts";
import { LayerTimer } from "./timer.ts";
import { Traffic } from "./traffic.ts";
import type { ReplayOptions, ReplayRequest, ReplayResult, StepRecord } from "./types.ts";
import { Verifier } from "./verify.ts";

/** Longest wait for an arrival before the signal is looked at again, in milliseconds. */
const waitMost = 50;

/**
 * Runs a workload through scheduler, cache, planner and attention, and measures it; on `device`, or
 * on one that it opens. Errors: OptionError for options, OutOfMemoryError for more pages than
 * memory holds.
 */
export async function replay(
  requests: readonly ReplayRequest[],
  options: ReplayOptions,
  device?: Device,
): Promise<ReplayResult> {
  await using session = await Replay.create(requests, options, device);
  return await session.run();
}

/** One run of a workload and all it needs on the device. */
export class Replay implements AsyncDisposable {
  /** Keys and values of the requests that run. */
  readonly cache: PagedCache;
  readonly scheduler: Scheduler;
  readonly #traffic: Traffic;
  readonly #attention: Attention;
  /** Runs the steps that it takes. */
  readonly #graphs: DecodeGraphs | undefined;
  /** What planned the last step. */
  #planner: Attention;
  readonly #model: NoiseModel;
  readonly #out: Tensor;
  readonly #verifier: Verifier;
  readonly #timer: LayerTimer;
  readonly #steps: StepRecord[] = [];
  /** Record of the step that runs. */
  #running: StepRecord | null = null;
  /** Milliseconds of the step that was planned last. */
  #planMs = 0;
  #hostMs = 0;
  #planSvg: string | null = null;
  /** Reused, as every layer of every step takes the same tensors. */
  readonly #appendTensors: AppendTensors;
  readonly #runTensors: RunTensors;
  /** Tokens that are still to come out. */
  #tokensLeft = 0;
  /** Performance time of the first step. */
  #started = 0;
  /** Bytes of a key and a value of one head. */
  readonly #keyBytes: number;

  private constructor(
    readonly device: Device,
    readonly options: ReplayOptions,
    requests: readonly ReplayRequest[],
    { attention, graphed }: Parts,
    readonly ownsDevice: boolean,
  ) {
    const { shape, layers, tokenBudget, seed } = options;
    const { queryHeads, headDim } = shape;
    const { dtype } = attention.options;
    this.cache = PagedCache.create(device, cacheOptions(options, dtype));
    this.#attention = this.#planner = attention;
    this.#graphs = graphed && new DecodeGraphs(graphed, this.cache);
    this.scheduler = new Scheduler(this.cache.pool, {
      tokenBudget,
      maxBatch: options.maxBatch,
      reserve: (sequences, newTokens, tokens) => this.#reserve(sequences, newTokens, tokens),
    });
    this.#traffic = new Traffic(this.scheduler, requests, options);
    this.#model = new NoiseModel(device, shape, layers, dtype, tokenBudget, seed);
    this.#out = Tensor.empty(device, [tokenBudget, queryHeads, headDim], dtype, "replay outputs");
    const { q, k, v } = this.#model;
    this.#appendTensors = { layer: 0, batch: undefined as unknown as Batch, k, v };
    this.#runTensors = { layer: 0, q, cache: this.cache, out: this.#out };
    const random = new Random(seed);
    this.#verifier = new Verifier(this.#model, {
      shape,
      layers,
      dtype,
      samples: options.verify,
      // Tensor cores take probabilities in the dtype of queries; the CPU's kernels keep f32.
      probabilities: device.kind === "cpu" ? undefined : dtype,
      random: () => random.uniform(),
    });
    this.#timer = new LayerTimer(device, layers);
    this.#keyBytes = 2 * headDim * dtypeBytes(dtype);
  }

  /**
   * Compiles and allocates what the run needs, on `shared` or on a device that it opens and closes.
   * Errors: OptionError, DriverError, CompileError, OutOfMemoryError.
   */
  static async create(
    requests: readonly ReplayRequest[],
    options: ReplayOptions,
    shared?: Device,
  ): Promise<Replay> {
    checkOptions(options);
    const device = shared ?? (await openDevice(options));
    try {
      const parts = await createParts(device, requests, options);
      return new Replay(device, options, requests, parts, shared === undefined);
    } catch (error) {
      if (shared === undefined) await device[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Runs to the end, or to the end of the step in which the signal came. */
  async run(): Promise<ReplayResult> {
    const traffic = this.#traffic;
    const { options, device } = this;
    const before = await readCeiling(device, options);
    for (const { request } of traffic.visits) this.#tokensLeft += request.outputTokens;
    this.#started = performance.now();
    while (true) {
      // While a step runs, the next is scheduled and planned: whatever it reads was uploaded.
      const step = traffic.done ? null : this.#plan();
      await this.#settle();
      if (traffic.done || options.signal?.aborted) break;
      if (step === null) await this.#waitForArrival();
      else this.#launch(step);
    }
    const seconds = this.#now();
    if (this.#steps.length > 0 && this.#planSvg === null) this.#drawPlan();
    const result = resultOf(
      {
        traffic,
        steps: this.#steps,
        seconds,
        preemptions: this.scheduler.usage().preemptions,
        readCeilingGBs: before,
        verified: await this.#verifier.check(),
        device: device.name,
        dtype: this.#attention.options.dtype,
        planSvg: this.#planSvg,
        interrupted: !traffic.done,
      },
      options,
    );
    // Who interrupts does not wait for more.
    if (!result.interrupted) await measureAgain(device, options, result);
    return result;
  }

  /** Frees all that the run held, and the device if the run opened it. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.device.disposed) return;
    await this.device.stream.done().catch(() => {});
    this.scheduler[Symbol.dispose]();
    this.#graphs?.[Symbol.dispose]();
    const owners = [this.#attention, this.#model, this.#out, this.#verifier, this.#timer];
    for (const owner of [...owners, this.cache]) owner[Symbol.dispose]();
    if (this.ownsDevice) await this.device[Symbol.asyncDispose]();
  }

  #now(): number {
    return (performance.now() - this.#started) / 1e3;
  }

  async #waitForArrival(): Promise<void> {
    const milliseconds = (this.#traffic.nextArrival - this.#now()) * 1e3;
    if (milliseconds > 0) await Bun.sleep(Math.min(milliseconds, waitMost));
  }

  /** Schedules and plans the next step; null while nothing has arrived. */
  #plan(): Step | null {
    const before = performance.now();
    const now = this.#now();
    this.#traffic.arrive(now);
    const step = this.scheduler.step(now);
    if (step === null) return null;
    this.cache.sharePrefixes(step.batch, step.sequences, this.#attention.worthSharing);
    const planning = performance.now();
    const graphed = this.#graphs?.takes(step.batch) ? this.#graphs.attention : undefined;
    this.#planner = graphed ?? this.#attention;
    this.#planner.plan(step.batch);
    const planned = performance.now();
    this.#planMs = planned - planning;
    this.#hostMs = planned - before;
    return step;
  }

  /** Queues a planned step's kernels and notes what it will have done. */
  #launch(step: Step): void {
    const { options } = this;
    const { stream } = this.device;
    const { batch, decodeTokens, prefillTokens } = step;
    const graphed = this.#planner !== this.#attention;
    const started = performance.now();
    this.#verifier.pick(step, this.#steps.length, this.#tokensLeft);
    this.#timer.start();
    this.#model.prepare(stream, batch, step.jobs);
    const prepared = performance.now();
    if (graphed) this.#runGraph(step);
    else this.#runLayers(step);
    const { running, waiting, pages } = this.scheduler.usage();
    const keys = keysRead(this.#planner.lastPlan!);
    this.#running = {
      startSeconds: (started - this.#started) / 1e3,
      endSeconds: NaN,
      decodeTokens,
      prefillTokens,
      runningRequests: running,
      waitingRequests: waiting,
      pagesUsed: pages[0].running,
      planMicroseconds: this.#planMs * 1e3,
      hostMicroseconds: NaN,
      synthesisMicroseconds: (prepared - started) * 1e3,
      kernelMicroseconds: NaN,
      graphBucket: graphed ? batch.paddedTokens : 0,
      kvBytes: keys * this.#keyBytes * options.layers,
    };
    if (this.#planSvg === null && this.#isTelling(this.#running)) this.#drawPlan();
    const advancing = performance.now();
    this.#tokensLeft -= this.#traffic.advance(step);
    this.#running.hostMicroseconds = (this.#hostMs + performance.now() - advancing) * 1e3;
  }

  /** Waits for the running step, if there is one, and completes its record. */
  async #settle(): Promise<void> {
    const record = this.#running;
    if (record === null) return;
    await this.device.stream.done();
    this.#running = null;
    const ended = performance.now();
    record.endSeconds = (ended - this.#started) / 1e3;
    this.#traffic.stamp(record.endSeconds);
    record.hostMicroseconds += (performance.now() - ended) * 1e3;
    record.synthesisMicroseconds += this.#timer.inputMs * 1e3;
    record.kernelMicroseconds = this.#timer.attentionMs * 1e3;
    this.#steps.push(record);
    const { finishedCount, visits } = this.#traffic;
    this.options.onStep?.(record, finishedCount, visits.length);
  }

  /** Whether a step shows what planning is about: many requests, prompts beside decodes. */
  #isTelling({ decodeTokens, prefillTokens }: StepRecord): boolean {
    const { maxBatch } = this.options;
    const most = Math.min(maxBatch, this.#traffic.visits.length);
    return prefillTokens > 0 && decodeTokens >= most / 2;
  }

  #drawPlan(): void {
    const plan = this.#planner.lastPlan!;
    const { processors } = this.device;
    this.#planSvg = drawPlan(plan, { processors, title: `Plan of step ${this.#steps.length}` });
  }

  /** Grows the sequences by a step, padded to the bucket of a graph that may run it. */
  #reserve(sequences: readonly Sequence[], newTokens: Int32Array, tokens: number) {
    const padTo = this.#graphs?.paddedTokens(sequences.length, tokens);
    return this.cache.reserve(sequences, newTokens, padTo === undefined ? padTo : { padTo });
  }

  /** Queues a step layer by layer: inputs, append and attention, samples. */
  #runLayers({ batch }: Step): void {
    const { stream } = this.device;
    this.#appendTensors.batch = batch;
    for (let layer = 0; layer < this.options.layers; layer++) {
      this.#model.gather(stream, layer, batch);
      this.#timer.mark();
      const started = performance.now();
      this.#appendTensors.layer = this.#runTensors.layer = layer;
      this.cache.append(this.#appendTensors);
      this.#attention.run(this.#runTensors);
      this.#hostMs += performance.now() - started;
      this.#timer.mark();
      this.#verifier.keep(stream, layer, this.#out);
    }
  }

  /** Queues a step as a whole: inputs of all layers, their graph, samples of all layers. */
  #runGraph({ batch }: Step): void {
    const { stream } = this.device;
    const { layers } = this.options;
    const graphs = this.#graphs!;
    this.#model.gather(stream, 0, batch, layers, graphs.inputs);
    this.#timer.mark();
    const started = performance.now();
    graphs.run(stream, batch);
    this.#hostMs += performance.now() - started;
    this.#timer.mark();
    for (let layer = 0; layer < layers; layer++)
      this.#verifier.keep(stream, layer, graphs.outputs(layer, batch));
  }
}
