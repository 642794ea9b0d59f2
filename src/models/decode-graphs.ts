import type { Device } from "../device/device.ts";
import type { Graph } from "../device/graph.ts";
import type { Stream } from "../device/stream.ts";
import { PlanError } from "../errors.ts";
import type { Batch } from "../kv/batch.ts";
import { type LogitParts, logitParts } from "./logit-parts.ts";

/** Levels of a batch that a graph can run: a shared prefix and the rest. */
const levelsMost = 2;

/** What steps of one size may differ in, beside their tokens. */
export interface GraphKind {
  readonly isAdapted: boolean;
  readonly parts: LogitParts;
}

/**
 * Steps of one token per request as captured graphs, one for each bucket of batch sizes: a whole
 * model in one launch. Steps in which rows have adapters launch more, and have graphs of their own.
 */
export class DecodeGraphs implements Disposable {
  /** By what of the logits they bring; then by padded tokens. */
  readonly #plain = logitParts.map(() => new Map<number, Graph>());
  readonly #adapted = logitParts.map(() => new Map<number, Graph>());

  constructor(
    readonly device: Device,
    /** Batch sizes that have a graph, rising. */
    readonly sizes: number[],
  ) {}

  get largest(): number {
    return this.sizes.at(-1)!;
  }

  /** Tokens that a step is padded to: its bucket where a graph may run it. */
  paddedTokens(requests: number, tokens: number): number {
    if (tokens !== requests) return tokens;
    return this.sizes.find((size) => size >= requests) ?? tokens;
  }

  /** Whether a graph can run the step, `wanted` of whose rows want logits. */
  takes({ requestCount, tokenCount, paddedTokens, layout }: Batch, wanted: number): boolean {
    if (tokenCount !== requestCount || wanted !== tokenCount) return false;
    return layout.levels.length <= levelsMost && this.sizes.includes(paddedTokens);
  }

  /** Queues a planned step: its graph, or `queue` where none was captured yet, and that then is. */
  run({ paddedTokens }: Batch, kind: GraphKind, queue: () => void): void {
    const { device } = this;
    const { isAdapted, parts } = kind;
    const graphs = (isAdapted ? this.#adapted : this.#plain)[logitParts.indexOf(parts)];
    const graph = graphs.get(paddedTokens);
    if (graph !== undefined && isReplayed(graph, device.stream)) return;
    graphs.delete(paddedTokens);
    graph?.[Symbol.dispose]();
    queue();
    const label = `decode graph of ${paddedTokens}${isAdapted ? " with adapters" : ""}`;
    graphs.set(paddedTokens, device.capture(device.stream, queue, label));
  }

  /** Frees those of steps with adapters, which are to be others. */
  dropAdapted(): void {
    this.#adapted.forEach(drop);
  }

  /** Frees all of them. */
  [Symbol.dispose](): void {
    this.#plain.forEach(drop);
    this.#adapted.forEach(drop);
  }
}

function drop(graphs: Map<number, Graph>): void {
  for (const graph of graphs.values()) graph[Symbol.dispose]();
  graphs.clear();
}

/** Powers of two up to the largest batch, and that. */
export function bucketsOf(maxBatch: number): number[] {
  const sizes: number[] = [];
  for (let size = 1; size < maxBatch; size *= 2) sizes.push(size);
  return [...sizes, maxBatch];
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
