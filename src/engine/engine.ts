import { availableParallelism } from "node:os";
import { basename } from "node:path";
import { Device } from "../device/device.ts";
import type { DeviceKind } from "../device/open.ts";
import { FlashbunError, OptionError } from "../errors.ts";
import { Model } from "../models/model.ts";
import { checkOptions, integer, oneOf, type OptionSchemas } from "../options.ts";
import { requireInteger, requireList } from "../require.ts";
import { counted, showAsText } from "../shown.ts";
import { ChatTemplate } from "../text/chat-template.ts";
import { Tokenizer } from "../text/tokenizer.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
import { openCheckpoint } from "../weights/open.ts";
import { type GenerateOptions, generateSchemas, Generation } from "./request.ts";
import { samplingFor } from "./sampling.ts";
import { Sampler } from "./sampler.ts";
import { type EngineStats, statsOf } from "./stats.ts";
import { StepLoop } from "./step-loop.ts";

/** How much an engine takes, and where it runs. */
export interface EngineOptions {
  /** Default "cpu". */
  device?: DeviceKind | "auto";
  /** Of weights that are not quantised, and of activations; default f32 on the CPU, else bf16. */
  dtype?: "f32" | "f16" | "bf16";
  /** Pages of the KV cache; default: the model's context twice over. */
  pages?: number;
  /** Tokens per page; default 16. */
  pageSize?: number;
  /** Most tokens per step; default 512. */
  tokenBudget?: number;
  /** Most requests that run at once; default 64. */
  maxBatch?: number;
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
};

/** The engine was closed while a request ran. */
export class EngineClosedError extends FlashbunError {
  constructor() {
    super("ENGINE_CLOSED", "the engine was closed. Fix: keep it open until requests have ended.");
  }
}

/** A model that answers many requests at once: continuous batching over a paged KV cache. */
export class Engine implements AsyncDisposable {
  readonly tokenizer: Tokenizer;
  readonly chatTemplate: ChatTemplate | undefined;
  readonly #loop: StepLoop;
  readonly #sampler: Sampler;
  readonly #checkpoint: Checkpoint;
  #lastId = 0;
  #closed = false;

  private constructor(
    readonly device: Device,
    /** @internal */
    readonly model: Model,
    checkpoint: Checkpoint,
    limits: { tokenBudget: number; maxBatch: number },
  ) {
    const { tokenizer, chatTemplate, templateTokens } = checkpoint;
    this.#checkpoint = checkpoint;
    this.tokenizer = new Tokenizer(tokenizer.json, tokenizer.config);
    this.chatTemplate =
      chatTemplate === undefined ? undefined : new ChatTemplate(chatTemplate, templateTokens);
    this.#sampler = new Sampler(model, limits.maxBatch);
    this.#loop = new StepLoop(model, this.#sampler, limits);
  }

  /**
   * Loads a model from a Hugging Face folder or a GGUF file. Errors: OptionError, CheckpointError,
   * OutOfMemoryError, DriverError, CompileError.
   */
  static async load(path: string, options: EngineOptions = {}): Promise<Engine> {
    checkOptions("options", engineSchemas, [], options);
    const { device: kind = "cpu", pageSize = 16, tokenBudget = 512, maxBatch = 64 } = options;
    requireInteger("maxBatch", maxBatch, 1, tokenBudget);
    const checkpoint = openCheckpoint(path);
    await using made = new AsyncDisposableStack();
    const threads = kind === "cpu" ? { threads: availableParallelism() } : {};
    const device = made.use(await Device.open(kind, threads));
    const { dtype = device.kind === "cpu" ? "f32" : "bf16" } = options;
    const { pages = pagesFor(checkpoint, pageSize) } = options;
    const limits = { tokenBudget, maxBatch };
    const model = made.use(
      await Model.load(device, checkpoint, { dtype, pages, pageSize, ...limits }),
    );
    const engine = new Engine(device, model, checkpoint, limits);
    made.move();
    return engine;
  }

  /**
   * Starts a request; reading the result gives its tokens as they come. Errors: OptionError,
   * TemplateError.
   */
  generate(options: GenerateOptions): Generation {
    if (this.#closed) throw new EngineClosedError();
    checkOptions("options", generateSchemas, [], options);
    const prompt = this.#promptOf(options);
    if (options.signal !== undefined && !(options.signal instanceof AbortSignal))
      throw new OptionError("signal", options.signal, "an AbortSignal", "pass controller.signal.");
    options.signal?.throwIfAborted();
    const { signal, stop = [], stopTokens = [], ignoreEnd = false, priority = 0 } = options;
    const stops = typeof stop === "string" ? [stop] : stop;
    const { contextTokens } = this.model.shape;
    requireInteger("prompt tokens", prompt.length, 1, contextTokens - 1);
    const left = contextTokens - prompt.length;
    const { maxTokens = left } = options;
    requireInteger("maxTokens", maxTokens, 1, left);
    const sampling = samplingFor(options.sampling ?? {}, this.#checkpoint.sampling);
    this.#checkBiased(sampling.logitBias);
    const generation: Generation = new Generation(
      ++this.#lastId,
      prompt,
      this.tokenizer,
      sampling,
      stops,
      () => this.#loop.abort(generation),
    );
    signal?.addEventListener("abort", () => this.#loop.abort(generation, signal.reason));
    const own = ignoreEnd ? [] : this.#checkpoint.endTokens;
    this.#loop.add({ generation, maxTokens, endTokens: [...own, ...stopTokens], priority });
    return generation;
  }

  /** One line: the model, what its weights take, and the longest context that the pages hold. */
  summary(): string {
    const { layers, contextTokens } = this.model.shape;
    const { pages, pageSize } = this.model.cache.options;
    const megabytes = (this.model.weightBytes / 1e6).toFixed(0);
    const tokens = Math.min(contextTokens, pages! * pageSize);
    return (
      `${basename(this.#checkpoint.path)} on ${this.device.name}: ${counted(layers, "layer")}, ` +
      `${megabytes} MB of weights, ${pages} pages of ${pageSize} tokens, ` +
      `contexts of up to ${tokens} tokens`
    );
  }

  /** What it does at the moment. */
  stats(): EngineStats {
    return statsOf(this.#loop.scheduler.usage(), this.#loop.steps);
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
    await this.model[Symbol.asyncDispose]();
    await this.device[Symbol.asyncDispose]();
  }

  #promptOf({ messages, tools, templateVariables, prompt, tokens }: GenerateOptions): Int32Array {
    const given = [messages, prompt, tokens].filter((value) => value !== undefined);
    if (given.length !== 1) {
      const allowed = "one of messages, prompt and tokens";
      throw new OptionError("options", `${given.length} of them`, allowed, "give exactly one.");
    }
    if (tokens !== undefined) return this.#checked(tokens);
    if (prompt !== undefined) return this.tokenizer.encode(prompt, { addSpecial: true });
    if (this.chatTemplate === undefined)
      throw new OptionError(
        "messages",
        messages,
        "absent for a model without a chat template",
        "give prompt.",
      );
    const text = this.chatTemplate.render({
      messages: messages!,
      ...(tools && { tools }),
      ...(templateVariables && { variables: templateVariables }),
    });
    return this.tokenizer.encode(text);
  }

  #checkBiased(logitBias: Readonly<Record<number, number>>): void {
    const { vocabulary } = this.model.shape;
    for (const token of Object.keys(logitBias))
      requireInteger("logitBias token", Number(token), 0, vocabulary - 1);
  }

  #checked(tokens: ArrayLike<number>): Int32Array {
    const { vocabulary } = this.model.shape;
    const count = requireList("tokens", tokens);
    for (let i = 0; i < count; i++) requireInteger(`tokens[${i}]`, tokens[i], 0, vocabulary - 1);
    return Int32Array.from(tokens);
  }
}

/** Pages for the model's whole context, twice. */
function pagesFor({ config }: Checkpoint, pageSize: number): number {
  const context = config["max_position_embeddings"];
  const tokens = Number.isSafeInteger(context) ? (context as number) : 4096;
  return Math.ceil((2 * tokens) / pageSize);
}

showAsText(Engine.prototype);
