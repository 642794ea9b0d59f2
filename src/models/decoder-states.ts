import type { Device } from "../device/device.ts";
import type { DType } from "../tensor/dtype.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
import { Config } from "./config.ts";
import { Model } from "./model.ts";

/** How it is kept, and most tokens at once. */
interface StatesOptions {
  readonly dtype: DType;
  readonly tokenBudget: number;
}

const pageSize = 16;
/** Most texts at once. */
const textsMost = 64;

/**
 * A decoder as an encoder: each token of a text sees those before it, and the last norm's rows are
 * its states. Its head is left out.
 */
export class DecoderStates implements AsyncDisposable {
  readonly textsMost: number;

  private constructor(
    private readonly model: Model,
    private readonly tokenBudget: number,
  ) {
    this.textsMost = Math.min(textsMost, tokenBudget);
  }

  /** Errors: CheckpointError, OutOfMemoryError, CompileError. */
  static async load(
    device: Device,
    checkpoint: Checkpoint,
    { dtype, tokenBudget }: StatesOptions,
  ): Promise<DecoderStates> {
    const config = new Config(checkpoint.path, checkpoint.config);
    // Nothing here lets a token see what comes behind it.
    for (const [field, causal] of [
      ["is_causal", true],
      ["use_bidirectional_attention", false],
    ] as const)
      if (config.flag(field, causal) !== causal) throw config.wrong(field, "that of a decoder");
    const maxBatch = Math.min(textsMost, tokenBudget);
    const sizes = {
      dtype,
      tokenBudget,
      maxBatch,
      pageSize,
      cascade: false,
      draftsMost: 0,
      exact: false,
    };
    const pages = Math.ceil(tokenBudget / pageSize) + maxBatch;
    const options = { ...sizes, pages, statesOnly: true };
    const model = await Model.load(device, headless(checkpoint), options);
    return new DecoderStates(model, tokenBudget);
  }

  /** Most tokens of a text. */
  get contextTokens(): number {
    return Math.min(this.model.shape.contextTokens, this.tokenBudget);
  }

  /** Elements of a token's state. */
  get hidden(): number {
    return this.model.shape.hidden;
  }

  /** Ids that tokens may have. */
  get vocabulary(): number {
    return this.model.shape.vocabulary;
  }

  /**
   * States of some tokens of texts that stand one after the other, [wanted, hidden], on the host;
   * one call after the other.
   */
  async encode(texts: readonly Int32Array[], wanted: Int32Array): Promise<Float64Array> {
    const { model } = this;
    const lengths = Int32Array.from(texts, ({ length }) => length);
    const ids = Int32Array.from(texts.flatMap((text) => [...text]));
    const sequences = texts.map(() => model.cache.sequence());
    try {
      const batch = model.reserve(sequences, lengths, ids.length);
      if (!batch.ok) throw batch.error;
      const jobs = texts.map(({ length }) => ({ adapter: 0, scheduled: length }));
      const rows = { logitRows: wanted, wanted: wanted.length, parts: "all" as const };
      model.forward({ batch, jobs, sequences, ids, ...rows });
      const states = model.kit.statesOf(wanted.length);
      await model.device.stream.done();
      return states.toFloat64Array();
    } finally {
      for (const sequence of sequences) sequence.free();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.model[Symbol.asyncDispose]();
  }
}

/** The embedding stands for a head that the file may lack, whose tensors then have no prefix. */
function headless(checkpoint: Checkpoint): Checkpoint {
  const { config, tensors } = checkpoint;
  const isBare = tensors.has("embed_tokens.weight");
  const named = [...tensors].map(
    ([name, stored]) => [isBare ? `model.${name}` : name, stored] as const,
  );
  return {
    ...checkpoint,
    config: { ...config, tie_word_embeddings: true },
    tensors: new Map(named),
  };
}
