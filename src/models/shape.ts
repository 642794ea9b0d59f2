import type { RopeOptions } from "../ops/rope.ts";

/** How some layers attend. */
export interface AttentionKind {
  /** Keys before a query's own position that it sees; -1: all. */
  readonly windowLeft: number;
  readonly rope: RopeOptions;
  /** Default 1 / sqrt(headDim). */
  readonly scale?: number;
  readonly softCap?: number;
}

/** Sizes of a decoder, and what of them the cache and the attention must know. */
export interface DecoderShape {
  readonly layers: number;
  /** Elements of the residual stream. */
  readonly hidden: number;
  /** Elements between a layer's up and down projections. */
  readonly intermediate: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Rows of the embedding and of the head. */
  readonly vocabulary: number;
  /** Positions that the model was made for. */
  readonly contextTokens: number;
  readonly normEps: number;
  /** Whether the head is the embedding. */
  readonly isTied: boolean;
  /** Of a mixture of experts. */
  readonly mixture?: {
    /** Which names its tensors have. */
    readonly names: string;
    readonly experts: number;
    /** Experts of a token. */
    readonly topK: number;
    /** Elements between an expert's up and down projections. */
    readonly intermediate: number;
    /** Whether the weights of a token's experts have the sum 1. */
    readonly renormalize: boolean;
  };
  /** Rows of the head that this process has, where several share a model; default all. */
  readonly headRows?: readonly [from: number, to: number];
  /** The ways to attend that there are. */
  readonly attention: readonly AttentionKind[];
  /** Which of them a layer has. */
  attentionOf(layer: number): number;
}
