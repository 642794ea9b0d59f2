import { basename } from "node:path";
import { Device } from "../device/device.ts";
import type { DeviceKind } from "../device/open.ts";
import { OptionError } from "../errors.ts";
import { Bert } from "../models/bert.ts";
import { DecoderStates } from "../models/decoder-states.ts";
import { checkOptions, integer, oneOf, type OptionSchemas } from "../options.ts";
import { requireInteger } from "../require.ts";
import { showAsText } from "../shown.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { openCheckpoint } from "../weights/open.ts";
import { type Pooling, poolingIn } from "../weights/pooling.ts";
import { EncoderClosedError } from "./closed.ts";
import { Health } from "./health.ts";
import { Prompts } from "./prompts.ts";

/** Where an encoder runs. */
export interface EncoderOptions {
  /** Default "cpu". */
  device?: DeviceKind | "auto";
  /** Of weights and activations; default f32 on the CPU, else bf16. */
  dtype?: "f32" | "f16" | "bf16";
  /** Most tokens at once; default 2048. No text may have more. */
  tokenBudget?: number;
}

const schemas: OptionSchemas = {
  device: {
    type: "string",
    pattern: "^(auto|cpu|cuda:\\d{1,3})$",
    description: "cpu, auto or cuda:0",
  },
  dtype: oneOf(["f32", "f16", "bf16"]),
  tokenBudget: integer(1, 1 << 20),
};

/** What gives the tokens of texts their states. */
type TextStates = Bert | DecoderStates;

/** Texts as vectors of length 1 whose products say how alike they are, by a BERT or a decoder. */
export class Encoder implements AsyncDisposable {
  readonly #states: TextStates;
  readonly #prompts: Prompts;
  readonly #pooling: Pooling;
  readonly #tokenBudget: number;
  readonly #name: string;
  /** @internal Whether the device works. */
  readonly health: Health;
  /** Settles when those who asked before have their vectors. */
  #turn: Promise<unknown> = Promise.resolve();
  #closed = false;

  private constructor(
    readonly device: Device,
    states: TextStates,
    prompts: Prompts,
    path: string,
    pooling: Pooling,
    tokenBudget: number,
  ) {
    this.#states = states;
    this.health = new Health(device);
    this.#prompts = prompts;
    this.#pooling = pooling;
    this.#tokenBudget = tokenBudget;
    this.#name = basename(path);
  }

  /**
   * Loads a BERT from a Hugging Face folder, or a decoder as `Engine.load` does. Vectors are
   * made as 1_Pooling/config.json says, else of BERT as the mean of all tokens, of a decoder as the
   * last one's. Errors: OptionError, CheckpointError, OutOfMemoryError, DriverError, CompileError.
   */
  static async load(path: string, options: EncoderOptions = {}): Promise<Encoder> {
    checkOptions("options", schemas, [], options);
    const { device: kind = "cpu", tokenBudget = 2048 } = options;
    const checkpoint = openCheckpoint(path);
    const isBert = checkpoint.config["model_type"] === "bert";
    const pooling = poolingIn(checkpoint.path) ?? (isBert ? "mean" : "last");
    const prompts = new Prompts(checkpoint);
    await using made = new AsyncDisposableStack();
    const device = made.use(await Device.open(kind));
    const { dtype = device.kind === "cpu" ? "f32" : "bf16" } = options;
    const { load } = isBert ? Bert : DecoderStates;
    const states = await load(device, checkpoint, { dtype, tokenBudget });
    made.move();
    return new Encoder(device, states, prompts, path, pooling, tokenBudget);
  }

  get tokenizer(): Tokenizer {
    return this.#prompts.tokenizer;
  }

  /** Elements of a vector. */
  get dimensions(): number {
    return this.#states.hidden;
  }

  /** @internal Most tokens of a text. */
  get contextTokens(): number {
    return this.#states.contextTokens;
  }

  /**
   * @internal Token ids of each text, or those given. Errors: OptionError for too many; the
   * signal's reason.
   */
  async encode(
    inputs: readonly (string | ArrayLike<number>)[],
    name: string,
    signal?: AbortSignal,
  ): Promise<Int32Array[]> {
    const { contextTokens, vocabulary } = this.#states;
    // Array.from sees what a list leaves out, map does not.
    const all = Array.from(inputs);
    all.forEach((input, i) => this.#checkInput(input, `${name}[${i}]`));
    const texts = all.filter((input) => typeof input === "string");
    const cut = (await this.#prompts.cut(texts, true, signal)).values();
    return all.map((input, i) => {
      const at = `${name}[${i}]`;
      const ids = typeof input === "string" ? cut.next().value! : Int32Array.from(input);
      requireInteger(`${at} tokens`, ids.length, 1, contextTokens);
      ids.forEach((id, j) => requireInteger(`${at}[${j}]`, id, 0, vocabulary - 1));
      return ids;
    });
  }

  #checkInput(input: unknown, name: string): void {
    const isText = typeof input === "string";
    if (!isText && (typeof input !== "object" || input === null))
      throw new OptionError(name, input, "a text or a list of token ids", "give one.");
    const most = this.#states.contextTokens * this.tokenizer.longestToken;
    if (isText && input.length > most)
      throw new OptionError(name, `${input.length} characters`, `at most ${most}`, "cut it.");
  }

  /**
   * A vector for each text, or for each list of token ids, in their order. Errors:
   * EncoderClosedError; OptionError for one that is empty or longer than the model's context: then
   * none is computed.
   */
  async embed(inputs: readonly (string | ArrayLike<number>)[]): Promise<Float32Array[]> {
    if (!Array.isArray(inputs))
      throw new OptionError("inputs", inputs, "a list of texts", "give [text].");
    if (this.#closed) throw new EncoderClosedError();
    // Its place is taken before texts are cut, so that whoever closes waits for it.
    const before = this.#turn;
    const turn = this.encode(inputs, "inputs").then(async (texts) => {
      await before;
      return await this.#vectors(texts);
    });
    turn.catch((error: unknown) => this.health.look(error));
    this.#turn = Promise.allSettled([before, turn]).then(() => {});
    return await turn;
  }

  async #vectors(texts: readonly Int32Array[]): Promise<Float32Array[]> {
    const vectors: Float32Array[] = [];
    for (let from = 0; from < texts.length;) {
      let to = from;
      const most = Math.min(texts.length, from + this.#states.textsMost);
      for (let tokens = 0; to < most; to++) {
        tokens += texts[to].length;
        if (tokens > this.#tokenBudget) break;
      }
      vectors.push(...(await this.#batch(texts.slice(from, to))));
      from = to;
    }
    return vectors;
  }

  /** @internal What console.log and JSON show. */
  toString(): string {
    return `Encoder ${this.#name} on ${this.device.name}: ${this.dimensions} dimensions`;
  }

  /** Lets those who asked have their vectors, then frees the device. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#turn;
    this.#prompts.close(new EncoderClosedError());
    await this.#states[Symbol.asyncDispose]();
    await this.device[Symbol.asyncDispose]();
  }

  async #batch(texts: readonly Int32Array[]): Promise<Float32Array[]> {
    const { hidden } = this.#states;
    const ranges = rangesOf(texts, this.#pooling);
    const wanted = ranges.flatMap(([from, to]) =>
      Array.from({ length: to - from }, (_, i) => from + i),
    );
    const states = await this.#states.encode(texts, Int32Array.from(wanted));
    let row = 0;
    return ranges.map(([from, to]) => {
      const sum = new Float64Array(hidden);
      for (const end = row + to - from; row < end; row++)
        for (let i = 0; i < hidden; i++) sum[i] += states[row * hidden + i];
      const norm = Math.sqrt(sum.reduce((total, value) => total + value * value, 0)) || 1;
      return Float32Array.from(sum, (value) => value / norm);
    });
  }
}

/** Of texts that stand one after the other, the tokens of each whose states count. */
function rangesOf(texts: readonly Int32Array[], pooling: Pooling): [from: number, to: number][] {
  let end = 0;
  return texts.map(({ length }) => {
    const start = end;
    end += length;
    if (pooling === "mean") return [start, end];
    return pooling === "first" ? [start, start + 1] : [end - 1, end];
  });
}

showAsText(Encoder.prototype);
