import type { Attention } from "../attention/attention.ts";
import type { GraphOptions } from "../attention/options.ts";
import type { Device } from "../device/device.ts";
import type { Graph } from "../device/graph.ts";
import type { Stream } from "../device/stream.ts";
import { PlanError } from "../errors.ts";
import type { Batch } from "../kv/batch.ts";
import { type LogitParts, logitParts } from "./logit-parts.ts";
import { type ChoosingKind, choosingKinds } from "./step-inputs.ts";

/** Levels of a batch that a graph can run: a shared prefix and the rest. */
const levelsMost = 2;

/** Rows of steps with drafts that have a graph, at most: padding is nearly free up to there. */
const draftRowsMost = 64;

/** Attention in graphs, of each kind of steps. */
export interface GraphAttention {
  readonly plain: readonly Attention[];
  readonly drafts: readonly Attention[];
  /** Of steps of a token each that share a prefix; none: those are plain. */
  readonly prefix: readonly Attention[];
}

/** What steps of one size may differ in, beside their tokens. */
export interface GraphKind {
  readonly sharesPrefix: boolean;
  readonly isAdapted: boolean;
  readonly parts: LogitParts;
  readonly choosing: ChoosingKind;
}

/**
 * Steps of one token per request as captured graphs, one for each bucket of batch sizes: a whole
 * model in one launch. Steps of few requests with chains of drafts have some too, in which each
 * request has room for all of its drafts. Steps in which rows have adapters launch more, and have
 * graphs of their own.
 */
export class DecodeGraphs implements Disposable {
  /** By {@link keyOf}. */
  readonly #plain = new Map<number, Graph>();
  readonly #adapted = new Map<number, Graph>();

  constructor(
    readonly device: Device,
    /** Batch sizes that have a graph, rising. */
    readonly sizes: number[],
    /** Drafts of a request in a graph, at most, and tokens of all. */
    readonly draftsMost = 0,
    readonly draftTokensMost = 0,
  ) {}

  /** Batch sizes that have a graph with drafts. */
  get draftSizes(): number[] {
    const each = 1 + this.draftsMost;
    return each === 1 ? [] : this.sizes.filter((size) => size * each <= this.draftTokensMost);
  }

  /** What attention in them is made for. */
  attentionSizes(maxColumns: number): GraphOptions {
    const most = this.sizes.at(-1)!;
    const rows = { maxBatch: most, maxQueryTokens: most, maxQueryLength: 1 };
    return { ...rows, maxColumns, buckets: this.sizes };
  }

  /** The same for steps that share a prefix. */
  prefixAttentionSizes(maxColumns: number): GraphOptions {
    return { ...this.attentionSizes(maxColumns), sharedPrefix: true };
  }

  /** The same for steps with drafts; undefined where those have no graphs. */
  draftAttentionSizes(maxColumns: number): GraphOptions | undefined {
    const { draftSizes: buckets } = this;
    const maxBatch = buckets.at(-1);
    if (maxBatch === undefined) return undefined;
    const maxQueryLength = 1 + this.draftsMost;
    const rows = { maxBatch, maxQueryTokens: maxBatch * maxQueryLength, maxQueryLength };
    return { ...rows, maxColumns, buckets };
  }

  /** Tokens that a step is padded to: its bucket where a graph may run it. */
  paddedTokens(newTokens: Int32Array, requests: number, tokens: number): number {
    if (tokens === requests) return this.sizes.find((size) => size >= requests) ?? tokens;
    const each = 1 + this.draftsMost;
    const size = this.draftSizes.find((count) => count >= requests);
    for (let r = 0; r < requests; r++) if (newTokens[r] > each) return tokens;
    return size === undefined ? tokens : size * each;
  }

  /** Whether a graph can run the step, `wanted` of whose rows want logits. */
  takes({ requestCount, tokenCount, paddedTokens, layout }: Batch, wanted: number): boolean {
    if (wanted !== tokenCount || layout.levels.length > levelsMost) return false;
    if (tokenCount === requestCount) return this.sizes.includes(paddedTokens);
    // Then `paddedTokens` found that no request has more tokens than a graph has room for.
    const size = this.draftSizes.find((count) => count >= requestCount);
    return size !== undefined && paddedTokens === size * (1 + this.draftsMost);
  }

  /** Queues a planned step: its graph, or `queue` where none was captured yet, and that then is. */
  run(batch: Batch, kind: GraphKind, queue: () => void): void {
    const { device } = this;
    const { isAdapted } = kind;
    const { paddedTokens } = batch;
    const key = keyOf(batch, kind);
    const graphs = isAdapted ? this.#adapted : this.#plain;
    const graph = graphs.get(key);
    if (graph !== undefined && isReplayed(graph, device.stream)) return;
    graphs.delete(key);
    graph?.[Symbol.dispose]();
    queue();
    const label = `decode graph of ${paddedTokens}${isAdapted ? " with adapters" : ""}`;
    graphs.set(key, device.capture(device.stream, queue, label));
  }

  /** Frees those of steps with adapters, which are to be others. */
  dropAdapted(): void {
    drop(this.#adapted);
  }

  /** Frees all of them. */
  [Symbol.dispose](): void {
    drop(this.#plain);
    drop(this.#adapted);
  }
}

/**
 * A number for padded tokens, what of the logits is brought, who chooses, and whether a prefix is
 * shared; with drafts below 0.
 */
function keyOf(batch: Batch, { parts, choosing, sharesPrefix }: GraphKind): number {
  const tokens = batch.paddedTokens * logitParts.length + logitParts.indexOf(parts);
  const chosen = tokens * choosingKinds.length + choosingKinds.indexOf(choosing);
  const key = 2 * chosen + (sharesPrefix ? 1 : 0);
  return hasDrafts(batch) ? -key : key;
}

/** Of a step that a graph may run: whether any request has more than one token. */
export function hasDrafts({ tokenCount, requestCount }: Batch): boolean {
  return tokenCount !== requestCount;
}

/** The attention of a step in a graph. */
export function attentionFor(
  batch: Batch,
  { plain, drafts, prefix }: GraphAttention,
): readonly Attention[] {
  if (hasDrafts(batch)) return drafts;
  return batch.layout.levels.length > 1 && prefix.length > 0 ? prefix : plain;
}

function drop(graphs: Map<number, Graph>): void {
  for (const graph of graphs.values()) graph[Symbol.dispose]();
  graphs.clear();
}

/** Of a model's options. */
interface GraphLimits {
  readonly maxBatch: number;
  readonly tokenBudget: number;
  readonly drafts?: { readonly draftsMost: number } | undefined;
}

/** Batches that the CPU takes longer over than this thread takes to launch them. */
const largeOnCpu = 16;

/**
 * The graphs of a device: on a GPU, where padding costs little, of powers of two up to the largest
 * batch, and that; on the CPU, where it is computed, of each batch of up to 16.
 */
export function graphsOf(
  device: Device,
  { maxBatch, tokenBudget, drafts }: GraphLimits,
): DecodeGraphs {
  const sizes: number[] = [];
  if (device.kind === "cpu") {
    for (let size = 1; size <= Math.min(maxBatch, largeOnCpu); size++) sizes.push(size);
    return new DecodeGraphs(device, sizes);
  }
  for (let size = 1; size < maxBatch; size *= 2) sizes.push(size);
  const draftTokensMost = Math.min(draftRowsMost, tokenBudget);
  return new DecodeGraphs(device, [...sizes, maxBatch], drafts?.draftsMost, draftTokensMost);
}

/** False for a graph to capture again, as a buffer of it grew; then nothing was launched. */
function isReplayed(graph: Graph, stream: Stream): boolean {
  try {
    graph.replay(stream);
    return true;
  } catch (error) {
    if (error instanceof PlanError) return false;
    throw error;
  }
}
