import { freemem } from "node:os";
import { Attention } from "../attention/attention.ts";
import type { AttentionOptions, GraphOptions } from "../attention/options.ts";
import { PagedCache } from "../cache/paged-cache.ts";
import type { Communicator } from "../comm/communicator.ts";
import type { Loading } from "../comm/loading.ts";
import type { Device } from "../device/device.ts";
import { OptionError } from "../errors.ts";
import type { WorthSharing } from "../kv/share-prefixes.ts";
import type { Sequence } from "../kv/sequence.ts";
import { Rope } from "../ops/rope.ts";
import { type DType, dtypeBytes } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { AdapterFile } from "../weights/adapter.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
import { Adapters, type NumberedAdapter } from "./adapters.ts";
import { Config } from "./config.ts";
import { familyOf } from "./families.ts";
import { attentionFor, type DecodeGraphs, type GraphAttention, graphsOf } from "./decode-graphs.ts";
import type { ModelFamily } from "./family.ts";
import { Kit } from "./kit.ts";
import type { LoadProgress } from "./load-count.ts";
import { RandomSource } from "./random-source.ts";
import { sharedAdapter, sharedCheckpoint, sharedShape } from "./share.ts";
import type { DecoderShape } from "./shape.ts";
import type { StepTokens } from "./step-inputs.ts";
import { TreeMasks } from "./tree-masks.ts";
import { WeightSource } from "./weight-source.ts";

/** How much of a device a model takes. */
export interface ModelOptions {
  readonly dtype: DType;
  /** Default: what the requests can fill, in a share of the memory that is free. */
  readonly pages: number | undefined;
  /** Beside those; default 0. */
  readonly extraPages?: number;
  /** Tokens per page. */
  readonly pageSize: number;
  readonly tokenBudget: number;
  readonly maxBatch: number;
  /** Sequences of its cache, at most; default maxBatch. */
  readonly maxSequences?: number;
  /** Drafts of a request per step, at most, and whether they may be trees; absent: none. */
  readonly drafts?: { readonly draftsMost: number; readonly hasBranches: boolean } | undefined;
  /** Of the share of memory that pages take by default; default 1. */
  readonly memoryPart?: number;
  /** Whether a prefix that requests share is read once for all of them, where that pays. */
  readonly cascade: boolean;
  /** Whether rows beside weights in codes are never rounded. */
  readonly exact: boolean;
  /** Whether bits of a row never depend on the others of its step. */
  readonly deterministic?: boolean;
  /** The processes that share the model. */
  readonly ranks?: Communicator | undefined;
  /** Tells them that this process still loads; where there are `ranks`, waits for them, too. */
  readonly loading?: Loading | undefined;
  /** Is told how far its weights are. */
  readonly onLoad?: ((progress: LoadProgress) => void) | undefined;
  /** True: steps end with states of tokens, and any of them may be wanted. */
  readonly statesOnly?: boolean;
  /** Whether each of them has a part of the keys of every request. */
  readonly splitsContext?: boolean;
}

/** Tables of angles, which are computed here, and a head beside an embedding that it is tied to. */
const ignoredTensors = /rotary_emb\.inv_freq$|^rope_freqs\.weight$|^lm_head\.weight$/;

interface Parts {
  readonly cache: PagedCache;
  readonly attention: readonly Attention[];
  readonly captured: GraphAttention;
  /** For steps with trees of drafts. */
  readonly trees:
    { readonly attention: readonly Attention[]; readonly masks: TreeMasks } | undefined;
  /** What of an adapter is this process's. */
  readonly ownOf: (file: AdapterFile) => AdapterFile;
  /** Absent: prefixes are not levels of their own. */
  readonly worthSharing: WorthSharing | undefined;
}

/** A model on a device: its weights, its cache and attention, and the buffers of its steps. */
export class Model implements AsyncDisposable {
  #lastAttention: Attention | undefined;
  #adapters: Adapters | undefined;

  private constructor(
    readonly device: Device,
    readonly shape: DecoderShape,
    readonly kit: Kit,
    private readonly parts: Parts,
    private readonly graphs: DecodeGraphs,
    private readonly family: ModelFamily,
    private readonly source: WeightSource,
    private readonly weights: unknown,
    private readonly owned: AsyncDisposableStack,
    private readonly options: ModelOptions,
    /** Rows of logits per step, at most. */
    readonly rowsMost: number,
  ) {}

  /** The processes that share the model. */
  get ranks(): Communicator | undefined {
    return this.options.ranks;
  }

  /** Errors: CheckpointError, OptionError, OutOfMemoryError, CompileError. */
  static async load(device: Device, checkpoint: Checkpoint, options: ModelOptions): Promise<Model> {
    const { dtype, pageSize, tokenBudget, maxBatch, drafts, exact, ranks } = options;
    const { splitsContext = false, deterministic: batchInvariant = false } = options;
    const config = new Config(checkpoint.path, checkpoint.config);
    const family = familyOf(config);
    const whole = family.shape(config);
    const share = ranks && { rank: ranks.rank, ranks: ranks.ranks, splitsContext };
    const shape = share === undefined ? whole : sharedShape(whole, share);
    await using made = new AsyncDisposableStack();
    const Source = checkpoint.isRandom ? RandomSource : WeightSource;
    const own = share === undefined ? checkpoint : sharedCheckpoint(checkpoint, whole, share);
    const source = made.use(new Source(device, own, dtype));
    source.onProgress = () => {
      options.loading?.tell();
      options.onLoad?.(source.progress);
    };
    const weights = family.weights(source, shape);
    source.requireAllTaken(ignoredTensors);
    // Products begin to read weights before the kernels ahead of them are done.
    await device.stream.done();
    const { kvHeads, headDim } = shape;
    const heads = { kvHeads, headDim, dtype };
    const { maxSequences = maxBatch, extraPages = 0 } = options;
    const asked = options.pages ?? (await pagesOf(device, shape, options));
    const pages = asked + extraPages;
    const groups = groupsOf(shape, pages);
    const sizes = { layers: shape.layers, pages, pageSize, maxSequences, groups };
    const planes = planesOf(shape, dtype);
    const part = splitsContext ? share : undefined;
    const kept = { ...heads, ...sizes, ...planes, keyPositions: splitsContext };
    const cache = made.use(PagedCache.create(device, kept, part));
    const attention = await attentionOf(device, made, shape, { dtype, batchInvariant });
    const graphs = made.use(graphsOf(device, options));
    const maxColumns = Math.ceil(shape.contextTokens / pageSize);
    const captured = async (graph: GraphOptions | undefined) =>
      graph ? await attentionOf(device, made, shape, { dtype, batchInvariant, graph }) : [];
    const plain = await captured(graphs.attentionSizes(maxColumns));
    const drafted = await captured(graphs.draftAttentionSizes(maxColumns));
    const ropes = shape.attention.map(({ rope }) => made.use(Rope.create(device, headDim, rope)));
    // Windows pass prefixes at times of their own, and levels round apart.
    const hasWindow = groups.some(({ windowLeft }) => windowLeft >= 0);
    const cascades = options.cascade && !hasWindow && !splitsContext && !batchInvariant;
    const worthSharing = cascades ? attention[0].worthSharing : undefined;
    const shares = cascades && device.kind === "cuda";
    const prefix = shares ? await captured(graphs.prefixAttentionSizes(maxColumns)) : [];
    const trees = drafts?.hasBranches ? await treesOf(device, made, shape, options) : undefined;
    const ownOf = (file: AdapterFile) => (share ? sharedAdapter(file, whole, share) : file);
    const kinds = { attention, captured: { plain, drafts: drafted, prefix }, trees };
    const parts = { cache, ...kinds, worthSharing, ownOf };
    const { statesOnly } = options;
    const inStep = maxBatch * (1 + (drafts?.draftsMost ?? 0));
    const rowsMost = Math.min(tokenBudget, statesOnly === true ? tokenBudget : inStep);
    const how = { shape, dtype, cache, ropes, exact, invariant: batchInvariant, statesOnly, ranks };
    const kit = made.use(new Kit({ ...how, tokenBudget, rowsMost }));
    if (ranks !== undefined) await options.loading!.least(1);
    const rest = [graphs, family, source, weights, made.move(), options, rowsMost] as const;
    return new Model(device, shape, kit, parts, ...rest);
  }

  /**
   * Replaces the adapters, which rise by number; steps that are queued have those before. Errors:
   * CheckpointError, OutOfMemoryError; then nothing has changed.
   */
  setAdapters(adapters: readonly NumberedAdapter[]): void {
    const { device, source, options } = this;
    const before = this.#adapters;
    const own = adapters.map(({ id, file }) => ({ id, file: this.parts.ownOf(file) }));
    const made = own.length > 0;
    this.#adapters = made ? new Adapters(device, source.linears, own, options) : undefined;
    this.kit.adapters = this.#adapters;
    this.graphs.dropAdapted();
    before?.[Symbol.dispose]();
  }

  /** The plan of the last step, of the first kind of attention. */
  get lastPlan() {
    return this.#lastAttention?.lastPlan;
  }

  /** Bytes of its weights on the device, with its adapters'. */
  get weightBytes(): number {
    return this.source.bytes + (this.#adapters?.bytes ?? 0);
  }

  get cache(): PagedCache {
    return this.parts.cache;
  }

  /** Grows sequences by a step's tokens, padded to the graph that may run it. */
  reserve(sequences: readonly Sequence[], newTokens: Int32Array, tokens: number) {
    const padTo = this.graphs.paddedTokens(newTokens, sequences.length, tokens);
    return this.cache.reserve(sequences, newTokens, { padTo });
  }

  /** Queues a step; its logits lie in the kit. */
  forward(step: StepTokens): void {
    const { batch, jobs, sequences, wanted, parts: asked } = step;
    const { cache, worthSharing } = this.parts;
    if (worthSharing !== undefined) cache.sharePrefixes(batch, sequences, worthSharing);
    const { captured, trees } = this.parts;
    const graphed = step.trees === undefined && this.graphs.takes(batch, wanted);
    const masks = step.trees && trees!.masks.write(batch, step.trees);
    const plain = masks === undefined ? this.parts.attention : trees!.attention;
    const attention = graphed ? attentionFor(batch, captured) : plain;
    for (const each of attention) each.plan(batch);
    this.#lastAttention = attention[0];
    this.kit.inputs.write(step, masks && trees!.masks.positions);
    // Of logits that are all here there is one kind of step.
    const parts = this.ranks === undefined ? "all" : asked;
    this.kit.begin(batch, graphed ? "all" : wanted, parts, { attention, masks });
    const isAdapted = this.#adapters?.begin(jobs) ?? false;
    const { choosing } = step;
    const queue = () => {
      this.family.forward(this.kit, this.weights);
      choosing?.queue(graphed ? batch.paddedTokens : wanted);
    };
    const kind = { isAdapted, parts, choosing: choosing?.kind ?? "none" };
    const sharesPrefix = attention === captured.prefix;
    if (graphed) this.graphs.run(batch, { ...kind, sharesPrefix }, queue);
    else queue();
  }

  /** Queues the ids that rank 0 chose for so many rows to the others; undefined for none. */
  shareChosen(rows: number): Tensor | undefined {
    if (rows === 0) return undefined;
    const chosen = this.kit.inputs.chosenOf(rows);
    this.ranks?.broadcast(chosen);
    return chosen;
  }

  /** Waits for the device, and frees all that it holds there. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#adapters?.[Symbol.dispose]();
    await this.owned[Symbol.asyncDispose]();
  }
}

/** The attention of each kind that a model has; keys lie turned in the cache. */
async function attentionOf(
  device: Device,
  made: AsyncDisposableStack,
  { queryHeads: own, kvHeads, headDim, attention, latent, contextHeads }: DecoderShape,
  options: Pick<AttentionOptions, "dtype" | "batchInvariant" | "graph" | "mask">,
): Promise<Attention[]> {
  const all: Attention[] = [];
  for (const { rope: _, ...kind } of attention) {
    const value = latent && { valueDim: latent.rank, keyPlane: "latent", valuePlane: "latent" };
    const queryHeads = contextHeads ?? own;
    // What is seen of a part of the keys is merged with the rest.
    const part = contextHeads && { finalize: false, keyPositions: true };
    const heads = { queryHeads, kvHeads, headDim, causal: true, ...value, ...part };
    all.push(made.use(await Attention.create(device, { ...heads, ...kind, ...options })));
  }
  return all;
}

/** What steps with trees of drafts take. Errors: OptionError for a model with windows. */
async function treesOf(
  device: Device,
  made: AsyncDisposableStack,
  shape: DecoderShape,
  { dtype, tokenBudget, maxBatch }: ModelOptions,
) {
  // A window is as long in places, where siblings lie side by side, as it is in positions.
  if (shape.attention.some(({ windowLeft }) => windowLeft >= 0)) {
    const fix = "leave it out: drafts are then a chain.";
    throw new OptionError("speculate.branches", "a tree", "left out for a model with windows", fix);
  }
  const attention = await attentionOf(device, made, shape, { dtype, mask: "tail" });
  return { attention, masks: made.use(new TreeMasks(device, { tokenBudget, maxBatch })) };
}

/** A latent and what turns beside it lie in one plane. */
function planesOf({ latent, headDim: dim }: DecoderShape, dtype: DType) {
  return latent === undefined ? {} : { planes: [{ name: "latent", heads: 1, dim, dtype }] };
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

/** Of free memory: on the CPU others want some, too. */
const memoryShare = { cpu: 0.4, cuda: 0.8 };

/**
 * As many as all requests can fill, on the CPU two contexts, in a share of the memory; where ranks
 * share the model, as many as fit each of them.
 */
async function pagesOf(device: Device, shape: DecoderShape, options: ModelOptions) {
  const pages = pagesFor(device, shape, options);
  return options.ranks === undefined ? pages : await options.loading!.least(pages);
}

function pagesFor(device: Device, shape: DecoderShape, options: ModelOptions): number {
  const { layers, kvHeads, headDim, contextTokens } = shape;
  const { dtype, pageSize, maxBatch, memoryPart = 1, ranks, splitsContext } = options;
  const { kind } = device;
  const tokenBytes = 2 * layers * kvHeads * headDim * dtypeBytes(dtype);
  const { totalBytes } = device.properties;
  const free = kind === "cpu" ? freemem() : totalBytes - device.memoryStats().usedBytes;
  const contexts = (kind === "cpu" ? 2 : maxBatch) / (splitsContext ? ranks!.ranks : 1);
  const room = memoryPart * memoryShare[kind] * free;
  const tokens = Math.min(contexts * contextTokens, room / tokenBytes);
  return Math.max(1, Math.floor(tokens / pageSize));
}
