import { availableParallelism } from "node:os";
import { basename } from "node:path";
import { version } from "../../package.json";
import { Device } from "../device/device.ts";
import type { DeviceKind } from "../device/open.ts";
import { FlashbunError, OptionError } from "../errors.ts";
import { Model } from "../models/model.ts";
import { checkOptions, flag, integer, oneOf, type OptionSchemas, unchecked } from "../options.ts";
import { drawPlan } from "../plan/draw.ts";
import { requireInteger } from "../require.ts";
import { counted, showAsText } from "../shown.ts";
import type { ChatTemplate } from "../text/chat-template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
import { openCheckpoint } from "../weights/open.ts";
import { randomCheckpoint } from "../weights/random.ts";
import { GrammarState } from "../grammar/grammar.ts";
import { Follower } from "./follower.ts";
import { Grammars } from "./grammars.ts";
import { type EngineLive, Live } from "./live.ts";
import { Prompts } from "./prompts.ts";
import { type AnswerParts, type GenerateOptions, generateSchemas, Generation } from "./request.ts";
import { deviceOf, type EngineRanks, meet, ranksFor } from "./ranks.ts";
import { samplingFor } from "./sampling.ts";
import type { Drafter } from "./drafter.ts";
import { drafterOf, notShared, type SpeculateOptions } from "./speculate.ts";
import { Sampler } from "./sampler.ts";
import { type EngineStats, statsOf } from "./stats.ts";
import { StepLoop } from "./step-loop.ts";
import { toolUse } from "./tools.ts";

/** How much an engine takes, and where it runs. */
export interface EngineOptions {
  /** Default "cpu". */
  device?: DeviceKind | "auto";
  /** Of weights that are not quantised, and of activations; default f32 on the CPU, else bf16. */
  dtype?: "f32" | "f16" | "bf16";
  /**
   * Pages of the KV cache. Default: on the CPU for two contexts, in at most 0.4 of free memory; on
   * a GPU for as many as there are requests, in at most 0.8.
   */
  pages?: number;
  /** Tokens per page; default 16. */
  pageSize?: number;
  /** Most tokens per step; default 512, on a GPU 2048. */
  tokenBudget?: number;
  /** Most requests that run at once; default 64, on a GPU 256. */
  maxBatch?: number;
  /** Reads a prefix that requests share once for all of them, where that pays; default true. */
  cascade?: boolean;
  /**
   * True, for measuring: the path is a shape such as "llama-8b", or a config.json, and weights are
   * random. Nothing but its length ends an answer then. Default false.
   */
  randomWeights?: boolean;
  /**
   * Processes that share the model, each with a part of every layer (tensor parallel): as many as a
   * launcher started. Those of a rank above 0 call {@link Engine.follow}. Default 1.
   */
  tp?: number;
  /**
   * Guesses several tokens per request and step, which one step verifies; the tokens that come are
   * those that would have come without. Default: none.
   */
  speculate?: SpeculateOptions;
}

const engineSchemas: OptionSchemas = {
  device: {
    type: "string",
    pattern: "^(auto|cpu|cuda:\\d{1,3})$",
    description: "cpu, auto or cuda:0",
  },
  dtype: oneOf(["f32", "f16", "bf16"]),
  pages: integer(1, 1 << 24),
  pageSize: integer(1, 4096),
  tokenBudget: integer(1, 1 << 20),
  maxBatch: integer(1, 1 << 16),
  cascade: flag,
  randomWeights: flag,
  tp: integer(1, 1024),
  speculate: unchecked("an object with a method"),
};

/** What is not given, by the device. */
const defaults = {
  cpu: { dtype: "f32", tokenBudget: 512, maxBatch: 64 },
  cuda: { dtype: "bf16", tokenBudget: 2048, maxBatch: 256 },
} as const;

/** The engine was closed while a request ran. */
export class EngineClosedError extends FlashbunError {
  constructor() {
    super("ENGINE_CLOSED", "the engine was closed. Fix: keep it open until requests have ended.");
  }
}

/** A model that answers many requests at once: continuous batching over a paged KV cache. */
export class Engine implements AsyncDisposable {
  readonly #loop: StepLoop;
  readonly #sampler: Sampler;
  readonly #checkpoint: Checkpoint;
  readonly #prompts: Prompts;
  readonly #grammars: Grammars;
  readonly #live: Live;
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
  ) {
    this.#checkpoint = checkpoint;
    this.#prompts = prompts;
    this.#grammars = new Grammars(prompts.tokenizer, model.shape.vocabulary);
    this.#sampler = new Sampler(model, limits.maxBatch);
    this.#loop = new StepLoop(model, this.#sampler, limits, ranks, drafter);
    this.#live = new Live(this.#loop.scheduler, model.cache.pool);
    if (ranks !== undefined && this.rank === 0) this.#loop.keepTurning(ranks.comm.timeoutMs / 4);
  }

  /** Which of the processes that share the model this is; 0 answers requests. */
  get rank(): number {
    return this.ranks?.comm.rank ?? 0;
  }

  /** Resolves with the reason when a rank is lost: nothing works then until all start again. */
  get lost(): Promise<unknown> {
    return this.#loop.lost;
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
    const { scheduler } = this.#loop;
    using follower = new Follower(model, scheduler, turns, { comm, ...limits });
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
    checkOptions("options", engineSchemas, [], options);
    const { device: kind = "cpu", pageSize = 16, cascade = true } = options;
    const checkpoint = options.randomWeights ? randomCheckpoint(path) : openCheckpoint(path);
    const prompts = new Prompts(checkpoint);
    await using made = new AsyncDisposableStack();
    // Between two steps this thread has little to do: none is left to it.
    const isFree = kind === "cpu" && !process.env["FLASHBUN_THREADS"];
    const threads = isFree ? { threads: availableParallelism() } : {};
    const ranks = ranksFor(options.tp);
    if (ranks !== undefined && options.speculate !== undefined) throw notShared();
    const drafter = await drafterOf(options.speculate);
    if (drafter !== undefined) made.use(drafter);
    const device = made.use(await Device.open(deviceOf(kind, ranks), threads));
    const usual = defaults[device.kind];
    const { dtype = usual.dtype, tokenBudget = usual.tokenBudget, pages } = options;
    const { maxBatch = Math.min(usual.maxBatch, tokenBudget) } = options;
    requireInteger("maxBatch", maxBatch, 1, tokenBudget);
    const limits = { tokenBudget, maxBatch };
    const { config } = checkpoint;
    const met = ranks && (await meet(device, ranks, { version, config, dtype, ...limits }));
    if (met !== undefined) made.use(met.comm);
    const draftsMost = drafter?.draftsMost ?? 0;
    const sizes = { dtype, pages, pageSize, cascade, ...limits, draftsMost, ranks: met?.comm };
    const model = made.use(await Model.load(device, checkpoint, sizes));
    const engine = new Engine(device, model, prompts, checkpoint, limits, met, drafter);
    made.move();
    return engine;
  }

  /**
   * Starts a request; reading the result gives its tokens as they come. Errors: OptionError,
   * TemplateError.
   */
  generate(options: GenerateOptions): Generation {
    if (this.#closed) throw new EngineClosedError();
    if (this.rank !== 0) throw new OptionError("rank", this.rank, "0", "ask rank 0, and follow().");
    const prompt = this.encode(options);
    const { signal, stopTokens = [], ignoreEnd = false, priority = 0 } = options;
    signal?.throwIfAborted();
    const { maxTokens = this.roomFor(prompt.length) } = options;
    requireInteger("maxTokens", maxTokens, 1, this.model.shape.contextTokens - prompt.length);
    const sampling = samplingFor(options.sampling ?? {}, this.#checkpoint.sampling);
    this.#checkBiased(sampling.logitBias);
    const endTokens = [...(ignoreEnd ? [] : this.#checkpoint.endTokens), ...stopTokens];
    const generation: Generation = new Generation(
      ++this.#lastId,
      prompt,
      this.tokenizer,
      sampling,
      this.#answerParts(options, endTokens),
      () => this.#loop.abort(generation),
    );
    this.#loop.add({ generation, maxTokens, endTokens, priority });
    if (signal !== undefined) {
      const abort = () => this.#loop.abort(generation, signal.reason);
      signal.addEventListener("abort", abort);
      generation.onEnd = () => signal.removeEventListener("abort", abort);
    }
    return generation;
  }

  /**
   * @internal The token ids of what `generate` would begin with. Errors: OptionError,
   * TemplateError.
   */
  encode(options: GenerateOptions): Int32Array {
    checkOptions("options", generateSchemas, [], options);
    const { signal } = options;
    if (signal !== undefined && !(signal instanceof AbortSignal))
      throw new OptionError("signal", signal, "an AbortSignal", "pass controller.signal.");
    const { contextTokens, vocabulary } = this.model.shape;
    return this.#prompts.encode(options, contextTokens, vocabulary);
  }

  /** @internal Most tokens that may follow a prompt: what context and pages hold, at least 1. */
  roomFor(promptTokens: number): number {
    const { pages, pageSize } = this.model.cache.options;
    // The last token is never put in.
    const inPages = pages * pageSize - promptTokens + 1;
    return Math.max(1, Math.min(this.model.shape.contextTokens - promptTokens, inPages));
  }

  /** One line: the model, what its weights take, and the longest context that the pages hold. */
  summary(): string {
    const { layers, contextTokens } = this.model.shape;
    const { pages, pageSize } = this.model.cache.options;
    const megabytes = (this.model.weightBytes / 1e6).toFixed(0);
    const tokens = Math.min(contextTokens, pages * pageSize);
    const ranks = this.ranks?.comm.ranks ?? 1;
    return (
      `${basename(this.#checkpoint.path)} on ${this.device.name}: ${counted(layers, "layer")}, ` +
      `${megabytes} MB of weights, ${pages} pages of ${pageSize} tokens, ` +
      `contexts of up to ${tokens} tokens${ranks === 1 ? "" : `, ${ranks} ranks`}`
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

  #checkBiased(logitBias: Readonly<Record<number, number>>): void {
    const { vocabulary } = this.model.shape;
    for (const token of Object.keys(logitBias))
      requireInteger("logitBias token", Number(token), 0, vocabulary - 1);
  }
}

showAsText(Engine.prototype);
