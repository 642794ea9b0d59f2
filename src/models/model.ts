import { freemem } from "node:os";
import { Attention } from "../attention/attention.ts";
import { PagedCache } from "../cache/paged-cache.ts";
import type { Device } from "../device/device.ts";
import type { Batch } from "../kv/batch.ts";
import { type DType, dtypeBytes } from "../tensor/dtype.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
import { Config } from "./config.ts";
import { familyOf } from "./families.ts";
import type { ModelFamily } from "./family.ts";
import { Kit } from "./kit.ts";
import { RandomSource } from "./random-source.ts";
import type { DecoderShape } from "./shape.ts";
import { WeightSource } from "./weight-source.ts";

/** How much of a device a model takes. */
export interface ModelOptions {
  readonly dtype: DType;
  /** Default: the model's context twice over, in at most 0.4 of the memory that is free. */
  readonly pages: number | undefined;
  /** Tokens per page. */
  readonly pageSize: number;
  readonly tokenBudget: number;
  readonly maxBatch: number;
}

/** Tables of angles, which are computed here, and a head beside an embedding that it is tied to. */
const ignoredTensors = /rotary_emb\.inv_freq$|^rope_freqs\.weight$|^lm_head\.weight$/;

/** A model on a device: its weights, its cache and attention, and the buffers of its steps. */
export class Model implements AsyncDisposable {
  private constructor(
    readonly shape: DecoderShape,
    readonly cache: PagedCache,
    readonly attention: readonly Attention[],
    readonly kit: Kit,
    private readonly family: ModelFamily,
    private readonly source: WeightSource,
    private readonly weights: unknown,
  ) {}

  /** Errors: CheckpointError, OptionError, OutOfMemoryError, CompileError. */
  static async load(device: Device, checkpoint: Checkpoint, options: ModelOptions): Promise<Model> {
    const { dtype, pageSize, tokenBudget, maxBatch } = options;
    const config = new Config(checkpoint.path, checkpoint.config);
    const family = familyOf(config);
    const shape = family.shape(config);
    await using made = new AsyncDisposableStack();
    const Source = checkpoint.isRandom ? RandomSource : WeightSource;
    const source = made.use(new Source(device, checkpoint, dtype));
    const weights = family.weights(source, shape);
    source.requireAllTaken(ignoredTensors);
    const { queryHeads, kvHeads, headDim } = shape;
    const heads = { kvHeads, headDim, dtype };
    const pages = options.pages ?? pagesFor(device, shape, options);
    const groups = groupsOf(shape, pages);
    const sizes = { layers: shape.layers, pages, pageSize, maxSequences: maxBatch, groups };
    const cache = made.use(PagedCache.create(device, { ...heads, ...sizes }));
    const attention: Attention[] = [];
    for (const kind of shape.attention)
      attention.push(
        made.use(await Attention.create(device, { ...heads, queryHeads, causal: true, ...kind })),
      );
    const kit = made.use(new Kit({ shape, dtype, cache, attention, tokenBudget, maxBatch }));
    made.move();
    return new Model(shape, cache, attention, kit, family, source, weights);
  }

  /** Bytes of its weights on the device. */
  get weightBytes(): number {
    return this.source.bytes;
  }

  /** Queues a step whose token ids and wanted rows lie in the kit. */
  forward(batch: Batch, wanted: number): void {
    for (const attention of this.attention) attention.plan(batch);
    this.kit.begin(batch, wanted);
    this.family.forward(this.kit, this.weights);
  }

  /** Waits for the device, and frees all that it holds there. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.kit[Symbol.dispose]();
    for (const attention of this.attention) await attention[Symbol.asyncDispose]();
    this.cache[Symbol.dispose]();
    this.source[Symbol.dispose]();
  }
}

/** Layers of one window share pages, which are freed as it passes them. */
function groupsOf({ layers, attention, attentionOf }: DecoderShape, pages: number) {
  const byWindow = new Map<number, number[]>();
  for (let layer = 0; layer < layers; layer++) {
    const { windowLeft } = attention[attentionOf(layer)];
    const group = byWindow.get(windowLeft);
    if (group === undefined) byWindow.set(windowLeft, [layer]);
    else group.push(layer);
  }
  return [...byWindow].map(([windowLeft, group]) => ({ layers: group, pages, windowLeft }));
}

const memoryShare = 0.4;

function pagesFor(device: Device, shape: DecoderShape, { dtype, pageSize }: ModelOptions): number {
  const { layers, kvHeads, headDim, contextTokens } = shape;
  const tokenBytes = 2 * layers * kvHeads * headDim * dtypeBytes(dtype);
  const { totalBytes } = device.properties;
  const free = device.kind === "cpu" ? freemem() : totalBytes - device.memoryStats().usedBytes;
  const tokens = Math.min(2 * contextTokens, (memoryShare * free) / tokenBytes);
  return Math.max(1, Math.floor(tokens / pageSize));
}
