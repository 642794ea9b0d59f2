import { Attention } from "../attention/attention.ts";
import type { Device } from "../device/device.ts";
import { createBatch } from "../kv/batch.ts";
import { raggedLayout } from "../kv/layout.ts";
import { add } from "../ops/elementwise.ts";
import { gatherRows } from "../ops/gather.ts";
import { matmul } from "../ops/matmul.ts";
import { layerNorm } from "../ops/norm.ts";
import type { DType } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
import { Config } from "./config.ts";
import { StepBuffers } from "./step-buffers.ts";
import { WeightSource } from "./weight-source.ts";

/** A product with its bias. */
interface Linear {
  readonly weight: Weight;
  readonly bias: Tensor;
}

/** Layer normalisation. */
interface Norm {
  readonly weight: Tensor;
  readonly bias: Tensor;
}

interface BertLayer {
  readonly qkv: Linear;
  readonly out: Linear;
  readonly outNorm: Norm;
  readonly up: Linear;
  readonly down: Linear;
  readonly downNorm: Norm;
}

interface BertWeights {
  readonly words: Tensor;
  readonly positions: Tensor;
  readonly types: Tensor;
  readonly norm: Norm;
  readonly layers: readonly BertLayer[];
}

/** What a model is made for, and how much at once. */
interface BertSizes {
  /** Most tokens of a text. */
  readonly context: number;
  readonly hidden: number;
  readonly vocabulary: number;
  readonly heads: number;
  readonly eps: number;
}

/** How it is kept, and most tokens at once. */
interface BertOptions {
  readonly dtype: DType;
  readonly tokenBudget: number;
}

/** Heads for other tasks, and numbers that are computed here. */
const ignoredTensors = /(^|\.)(pooler|cls)\.|position_ids$/;

/** BERT (arXiv 1810.04805) as an encoder: each token of a text sees all of the text. */
export class Bert implements AsyncDisposable {
  readonly #buffers: StepBuffers;

  private constructor(
    readonly device: Device,
    private readonly sizes: BertSizes,
    private readonly weights: BertWeights,
    private readonly attention: Attention,
    private readonly source: WeightSource,
    { dtype, tokenBudget }: BertOptions,
  ) {
    this.#buffers = new StepBuffers(device, dtype, tokenBudget);
  }

  /** Most texts at once. */
  readonly textsMost = Infinity;

  /** Most tokens of a text. */
  get contextTokens(): number {
    return this.sizes.context;
  }

  /** Elements of a token's state. */
  get hidden(): number {
    return this.sizes.hidden;
  }

  /** Ids that tokens may have. */
  get vocabulary(): number {
    return this.sizes.vocabulary;
  }

  /** Errors: CheckpointError, OutOfMemoryError, CompileError. */
  static async load(device: Device, checkpoint: Checkpoint, options: BertOptions): Promise<Bert> {
    const { dtype, tokenBudget } = options;
    const config = new Config(checkpoint.path, checkpoint.config);
    config.requireOneOf("model_type", ["bert"], "");
    config.requireOneOf("hidden_act", ["gelu"], "gelu");
    config.requireOneOf("position_embedding_type", ["absolute"], "absolute");
    await using made = new AsyncDisposableStack();
    const source = made.use(new WeightSource(device, checkpoint, dtype));
    const hidden = config.count("hidden_size");
    const heads = config.count("num_attention_heads");
    const context = config.count("max_position_embeddings");
    const vocabulary = config.count("vocab_size");
    const weights = weightsOf(source, config, { hidden, vocabulary, context });
    source.requireAllTaken(ignoredTensors);
    const sizes = { queryHeads: heads, kvHeads: heads, headDim: hidden / heads };
    const attention = made.use(await Attention.create(device, { ...sizes, dtype, causal: false }));
    made.move();
    const eps = config.positive("layer_norm_eps", 1e-12);
    const own = { hidden, vocabulary, heads, eps, context: Math.min(context, tokenBudget) };
    return new Bert(device, own, weights, attention, source, options);
  }

  /** Bytes of its weights on the device. */
  get weightBytes(): number {
    return this.source.bytes;
  }

  /**
   * The last hidden states of some tokens of texts, which stand one after the other,
   * [wanted, hidden], on the host; one call after the other.
   */
  async encode(texts: readonly Int32Array[], wanted: Int32Array): Promise<Float64Array> {
    const ids = texts.flatMap((text) => [...text]);
    const lengths = texts.map(({ length }) => length);
    const indptr = [0, ...lengths.map((_, i) => lengths.slice(0, i + 1).reduce((a, b) => a + b))];
    const layout = raggedLayout(indptr, indptr);
    this.attention.plan(createBatch({ queryLengths: lengths, kvLengths: lengths, layout }));
    const { words, positions, types, norm, layers } = this.weights;
    const rows = (name: string, width = this.hidden) => this.#buffers.rows(name, ids.length, width);
    const places = texts.flatMap((text) => Array.from(text, (_, i) => i));
    const x = this.#gather(words, ids, rows("states"));
    add(x, this.#gather(positions, places, rows("added")), { out: x });
    add(
      x,
      this.#gather(
        types,
        ids.map(() => 0),
        rows("added"),
      ),
      { out: x },
    );
    this.#norm(x, norm);
    for (const { qkv, out, outNorm, up, down, downNorm } of layers) {
      matmul(x, qkv.weight, { bias: qkv.bias, out: rows("qkv", 3 * this.hidden) });
      const seen = this.#attend(rows("seen"));
      matmul(seen, out.weight, { bias: out.bias, residual: x, out: x });
      this.#norm(x, outNorm);
      const inner = rows("inner", up.weight.outputs);
      matmul(x, up.weight, { bias: up.bias, activation: "gelu", out: inner });
      matmul(inner, down.weight, { bias: down.bias, residual: x, out: x });
      this.#norm(x, downNorm);
    }
    const out = this.#buffers.rows("wanted", wanted.length, this.hidden);
    const states = this.#gather(x, wanted, out);
    await this.device.stream.done();
    return states.toFloat64Array();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#buffers[Symbol.dispose]();
    await this.attention[Symbol.asyncDispose]();
    this.source[Symbol.dispose]();
  }

  #gather(table: Tensor, indices: ArrayLike<number>, out: Tensor): Tensor {
    using ids = Tensor.from(this.device, indices, [indices.length], "i32", "ids");
    return gatherRows(table, ids, { out });
  }

  #norm(x: Tensor, { weight, bias }: Norm): void {
    layerNorm(x, weight, { bias, eps: this.sizes.eps, out: x });
  }

  #attend(seen: Tensor): Tensor {
    const { heads, hidden } = this.sizes;
    const [q, k, v] = this.#buffers.heads("qkv", [heads, heads, heads], hidden / heads);
    const [out] = this.#buffers.heads("seen", [heads], hidden / heads);
    this.attention.run({ q, k, v, out });
    return seen;
  }
}

function weightsOf(
  whole: WeightSource,
  config: Config,
  { hidden, vocabulary, context }: { hidden: number; vocabulary: number; context: number },
): BertWeights {
  const source = whole.has("bert.embeddings.word_embeddings") ? whole.below("bert") : whole;
  const inner = config.count("intermediate_size");
  const norm = (at: WeightSource, name: string): Norm => ({
    weight: at.vector(name, hidden),
    bias: at.vector(name, hidden, 0, "bias"),
  });
  const linear = (at: WeightSource, inputs: number, outputs: Record<string, number>): Linear => ({
    weight: at.linear(inputs, outputs),
    bias: at.biasIfThere(outputs)!,
  });
  const layers = Array.from({ length: config.count("num_hidden_layers") }, (_, i): BertLayer => {
    const at = source.below(`encoder.layer.${i}`);
    const self = ["query", "key", "value"].map(
      (part) => [`attention.self.${part}`, hidden] as const,
    );
    return {
      qkv: linear(at, hidden, Object.fromEntries(self)),
      out: linear(at, hidden, { "attention.output.dense": hidden }),
      outNorm: norm(at, "attention.output.LayerNorm"),
      up: linear(at, hidden, { "intermediate.dense": inner }),
      down: linear(at, inner, { "output.dense": hidden }),
      downNorm: norm(at, "output.LayerNorm"),
    };
  });
  const at = source.below("embeddings");
  return {
    words: at.table("word_embeddings", vocabulary, hidden),
    positions: at.table("position_embeddings", context, hidden),
    types: at.table("token_type_embeddings", config.count("type_vocab_size", 2), hidden),
    norm: norm(at, "LayerNorm"),
    layers,
  };
}
