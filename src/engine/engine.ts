import { availableParallelism } from "node:os";
import { Device } from "../device/device.ts";
import { OptionError } from "../errors.ts";
import { Model } from "../models/model.ts";
import { drawPlan } from "../plan/draw.ts";
import { requireInteger } from "../require.ts";
import { counted, showAsText } from "../shown.ts";
import type { ChatTemplate } from "../text/chat-template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
import { modelName } from "../weights/hub.ts";
import { openCheckpoint } from "../weights/open.ts";
import { randomCheckpoint } from "../weights/random.ts";
import { GrammarState } from "../grammar/grammar.ts";
import { AdapterNames } from "./adapters.ts";
import { EngineClosedError } from "./closed.ts";
import { Follower } from "./follower.ts";
import { Grammars } from "./grammars.ts";
import { type EngineLive, Live } from "./live.ts";
import { checkEngineOptions, type EngineOptions, requireBatch } from "./options.ts";
import { Prompts } from "./prompts.ts";
import {
  type AnswerParts,
  checkGenerateOptions,
  type GenerateOptions,
  Generation,
} from "./request.ts";
import { deviceOf, type EngineRanks, meet, ranksFor, splitsContextOf } from "./ranks.ts";
import { samplingFor } from "./sampling.ts";
import type { Drafter } from "./drafter.ts";
import { checkSpeculate, drafterOf, draftsOf } from "./speculate.ts";
import { Sampler } from "./sampler.ts";
import { type EngineStats, statsOf } from "./stats.ts";
import { StepLoop } from "./step-loop.ts";
import { toolUse } from "./tools.ts";

/** What is not given, by the device. */
const defaults = {
  cpu: { dtype: "f32", tokenBudget: 512, maxBatch: 64 },
  cuda: { dtype: "bf16", tokenBudget: 2048, maxBatch: 256 },
} as const;

/** A model that answers many requests at once: continuous batching over a paged KV cache. */
export class Engine implements AsyncDisposable {
  readonly #loop: StepLoop;
  readonly #sampler: Sampler;
  readonly #checkpoint: Checkpoint;
  readonly #prompts: Prompts;
  readonly #grammars: Grammars;
  readonly #live: Live;
  /** @internal Whether the device works. */
  readonly health: StepLoop["health"];
  #lastId = 0;
  #closed = false;

  private constructor(
    readonly device: Device,
    /** @internal */
    readonly model: Model,
    prompts: Prompts,
    checkpoint: Checkpoint,
    private readonly limits: { readonly tokenBudget: number; readonly maxBatch: number },
    private readonly ranks: EngineRanks | undefined,
    /** @internal Who guesses the tokens that come next. */
    readonly drafter: Drafter | undefined,
    private readonly adapterNames: AdapterNames,
  ) {
    model.setAdapters(adapterNames.all);
    this.#checkpoint = checkpoint;
    this.#prompts = prompts;
    this.#grammars = new Grammars(prompts.tokenizer, model.shape.vocabulary);
    this.#sampler = new Sampler(model, limits.maxBatch);
    this.#loop = new StepLoop(model, this.#sampler, limits, ranks, drafter);
    this.health = this.#loop.health;
    this.#live = new Live(this.#loop.scheduler, model.cache.pool);
    if (ranks !== undefined && this.rank === 0) this.#loop.keepTurning(ranks.comm.timeoutMs / 4);
  }

  /** Which of the processes that share the model this is; 0 answers requests. */
  get rank(): number {
    return this.ranks?.comm.rank ?? 0;
  }

  /** Resolves with the reason when the device or a rank is lost: all has to start again then. */
  get lost(): Promise<unknown> {
    return this.health.lost;
  }

  /**
   * Runs the steps of rank 0 until its engine is closed: what all other ranks do. Errors:
   * OptionError on rank 0, CommError, DeviceError.
   */
  async follow(): Promise<void> {
    const { ranks, rank, limits, model } = this;
    if (ranks === undefined || rank === 0)
      throw new OptionError("rank", rank, "1 or more", "let the other ranks follow.");
    const { comm, turns } = ranks;
    using follower = new Follower(model, this.#loop.scheduler, turns, { comm, ...limits });
    await follower.run();
    await comm.done();
  }

  get tokenizer(): Tokenizer {
    return this.#prompts.tokenizer;
  }

  /** Undefined for a model without turns. */
  get chatTemplate(): ChatTemplate | undefined {
    return this.#prompts.template;
  }

  /**
   * Loads a model from a Hugging Face folder or a GGUF file. Errors: OptionError, CheckpointError,
   * OutOfMemoryError, DriverError, CompileError.
   */
  static async load(path: string, options: EngineOptions = {}): Promise<Engine> {
    checkEngineOptions(options);
    const { device: kind = "cpu", pageSize = 16, cascade = true, exact = false } = options;
    const checkpoint = options.randomWeights ? randomCheckpoint(path) : openCheckpoint(path);
    const prompts = new Prompts(checkpoint);
    await using made = new AsyncDisposableStack();
    // Between two steps this thread has little to do: none is left to it.
    const isFree = kind === "cpu" && !process.env["FLASHBUN_THREADS"];
    const threads = isFree ? { threads: availableParallelism() } : {};
    const { speculate, deterministic = false, randomWeights = false, onLoad } = options;
    const ranks = ranksFor(options.tp, deterministic);
    const splitsContext = splitsContextOf(options);
    if (speculate !== undefined) checkSpeculate(speculate, { deterministic, splitsContext });
    const drafts = speculate && draftsOf(speculate);
    const adapters = new AdapterNames(options.adapters ?? {});
    const device = made.use(await Device.open(deviceOf(kind, ranks), threads));
    const usual = defaults[device.kind];
    const { dtype = usual.dtype, tokenBudget = usual.tokenBudget, pages } = options;
    const { maxBatch = Math.min(usual.maxBatch, tokenBudget) } = options;
    requireBatch(maxBatch, tokenBudget);
    const limits = { tokenBudget, maxBatch };
    const { config } = checkpoint;
    const cut = { pages, pageSize, cascade, exact, splitsContext };
    const wanted = { config, dtype, ...limits, ...cut, drafts, adapters: adapters.facts };
    const met = ranks && (await meet(device, ranks, wanted));
    for (const each of [met?.comm, met?.turns]) made.use(each);
    await using loading = met?.loading;
    const sizes = { dtype, ...cut, ...limits, deterministic, ranks: met?.comm, loading };
    const forDrafts = { device, tokenizer: prompts.tokenizer, randomWeights, sizes };
    // The first rank guesses, and tells the others.
    const drafter = made.use(await drafterOf(ranks?.rank ? undefined : speculate, forDrafts));
    const model = made.use(await Model.load(device, checkpoint, { ...sizes, drafts, onLoad }));
    const engine = new Engine(device, model, prompts, checkpoint, limits, met, drafter, adapters);
    made.move();
    return engine;
  }

  /**
   * Starts a request; reading the result gives its tokens as they come. A text of thousands of
   * characters is cut into tokens on another thread first; the reader gets what is wrong with its
   * length then. Errors: OptionError, TemplateError.
   */
  generate(options: GenerateOptions): Generation {
    if (this.#closed) throw new EngineClosedError();
    if (this.rank !== 0) throw new OptionError("rank", this.rank, "0", "ask rank 0, and follow().");
    checkGenerateOptions(options);
    const { adapter: name, signal, stopTokens = [], ignoreEnd = false, priority = 0 } = options;
    const adapter = this.adapterNames.idOf(name);
    signal?.throwIfAborted();
    const sampling = samplingFor(options.sampling ?? {}, this.#checkpoint.sampling);
    this.#checkBiased(sampling.logitBias);
    const endTokens = [...(ignoreEnd ? [] : this.#checkpoint.endTokens), ...stopTokens];
    const parts = this.#answerParts(options, endTokens);
    const leaving = new AbortController();
    const prompt = this.encode(options, leaving.signal);
    const leave = (failure?: unknown) => {
      leaving.abort(failure);
      this.#loop.abort(generation, failure);
      // The loop may not know it yet.
      generation.end("abort", failure);
    };
    const { tokenizer, adapterNames } = this;
    const id = ++this.#lastId;
    const generation: Generation = new Generation(id, tokenizer, sampling, name, parts, leave);
    const add = (ids: Int32Array) => {
      if (generation.finishReason !== null) return;
      const { maxTokens = this.roomFor(ids.length) } = options;
      requireInteger("maxTokens", maxTokens, 1, this.model.shape.contextTokens - ids.length);
      adapterNames.requireStill(name, adapter);
      generation.prompt = ids;
      this.#loop.add({ generation, maxTokens, endTokens, priority, adapter });
    };
    if (prompt instanceof Promise) prompt.then(add).catch(leave);
    else add(prompt);
    if (signal !== undefined) {
      const abort = () => leave(signal.reason);
      signal.addEventListener("abort", abort);
      generation.onEnd = () => signal.removeEventListener("abort", abort);
    }
    return generation;
  }

  /** Names of the adapters that requests may have. */
  get adapters(): readonly string[] {
    return this.adapterNames.names;
  }

  /**
   * Loads a low-rank adapter from a folder of PEFT, between two steps. Errors: OptionError for a
   * name that is taken, CheckpointError, OutOfMemoryError; then nothing has changed.
   */
  async loadAdapter(name: string, folder: string): Promise<void> {
    this.#requireAlone("loadAdapter");
    const adapter = this.adapterNames.open(name, folder);
    this.model.setAdapters([...this.adapterNames.all, adapter]);
    this.adapterNames.add(name, adapter);
  }

  /** Frees an adapter. Errors: OptionError where there is none, or while requests have it. */
  async unloadAdapter(name: string): Promise<void> {
    this.#requireAlone("unloadAdapter");
    const left = this.adapterNames.without(name);
    if (this.#loop.has((generation) => generation.adapter === name))
      throw new OptionError("adapter", name, "one that no request has", "let them end first.");
    this.model.setAdapters(left);
    this.adapterNames.remove(name);
  }

  /**
   * @internal The token ids of what `generate` would begin with, of a long text later. Errors:
   * OptionError, TemplateError, the signal's reason.
   */
  encode(options: GenerateOptions, signal?: AbortSignal): Int32Array | Promise<Int32Array> {
    checkGenerateOptions(options);
    const { contextTokens, vocabulary } = this.model.shape;
    return this.#prompts.encode(options, contextTokens, vocabulary, signal);
  }

  /** @internal Most tokens that may follow a prompt: what context and pages hold, at least 1. */
  roomFor(promptTokens: number): number {
    const { options, pool } = this.model.cache;
    // The last token is never put in.
    const inPages = options.pages * pool.pageSize - promptTokens + 1;
    return Math.max(1, Math.min(this.model.shape.contextTokens - promptTokens, inPages));
  }

  /** One line: the model, what its weights take, and the longest context that the pages hold. */
  summary(): string {
    const { layers, contextTokens } = this.model.shape;
    const { options, pool } = this.model.cache;
    const [pages, pageSize] = [options.pages, pool.pageSize];
    const megabytes = (this.model.weightBytes / 1e6).toFixed(0);
    const tokens = Math.min(contextTokens, pages * pageSize);
    const ranks = this.ranks?.comm.ranks ?? 1;
    const adapters = this.adapters.length;
    return (
      `${modelName(this.#checkpoint.path)} on ${this.device.name}: ${counted(layers, "layer")}, ` +
      `${megabytes} MB of weights, ${pages} pages of ${pageSize} tokens, ` +
      `contexts of up to ${tokens} tokens${ranks === 1 ? "" : `, ${ranks} ranks`}` +
      (adapters === 0 ? "" : `, ${counted(adapters, "adapter")}`)
    );
  }

  /** What it does at the moment. */
  stats(): EngineStats {
    const { scheduler, counts, drafts } = this.#loop;
    return statsOf(scheduler.usage(), counts, drafts);
  }

  /** Who runs with how many tokens, and who holds which page, at the moment. */
  live(): EngineLive {
    return this.#live.now();
  }

  /** @internal The plan of the last step as an SVG document; undefined before the first. */
  planDrawing(): string | undefined {
    const plan = this.model.lastPlan;
    return plan && drawPlan(plan, { processors: this.device.processors, width: 460 });
  }

  /** @internal What console.log and JSON show. */
  toString(): string {
    return `Engine ${this.#closed ? "(closed)" : this.summary()}`;
  }

  /** Ends all requests and frees the device. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#prompts.close(new EngineClosedError());
    await this.#loop.stop(new EngineClosedError());
    this.#sampler[Symbol.dispose]();
    await this.drafter?.[Symbol.asyncDispose]();
    await this.ranks?.turns[Symbol.asyncDispose]();
    await this.model[Symbol.asyncDispose]();
    this.ranks?.comm[Symbol.dispose]();
    await this.device[Symbol.asyncDispose]();
  }

  #answerParts(options: GenerateOptions, endTokens: readonly number[]): AnswerParts {
    const { stop = [], json } = options;
    const tools = toolUse(options, this.chatTemplate?.toolFormat, this.tokenizer, this.#grammars);
    if (json !== undefined && tools !== undefined)
      throw new OptionError("json", json, "absent beside tools", 'set toolChoice to "none".');
    const grammar = json === undefined ? tools?.grammar : this.#grammars.ofJson(json, "json");
    const stops = typeof stop === "string" ? [stop] : stop;
    return { stops, tools, grammar: grammar && new GrammarState(grammar, endTokens) };
  }

  #requireAlone(method: string): void {
    if (this.#closed) throw new EngineClosedError();
    if (this.ranks === undefined || this.ranks.comm.ranks === 1) return;
    const fix = "load the engine of all ranks with the adapters that it is to have.";
    throw new OptionError(method, "of several ranks", "called for one", fix);
  }

  #checkBiased(logitBias: Readonly<Record<number, number>>): void {
    const { vocabulary } = this.model.shape;
    for (const token of Object.keys(logitBias))
      requireInteger("logitBias token", Number(token), 0, vocabulary - 1);
  }
}

showAsText(Engine.prototype);
