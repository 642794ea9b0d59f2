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

/** Sizes of heads whose keys and values are latents that all heads share. */
export interface LatentShape {
  /** Elements of a latent. */
  readonly rank: number;
  /** Elements of a head's queries and keys that turn, which the latent is followed by. */
  readonly turned: number;
  /** Those that do not. */
  readonly plain: number;
  /** Elements of a head's values. */
  readonly value: number;
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
  /** What the weights of norms are kept less of; default 0. */
  readonly normOffset?: number;
  /** Logits lie between it and its negative; default: anywhere. */
  readonly logitCap?: number;
  /** Whether the head is the embedding. */
  readonly isTied: boolean;
  /** Of latent attention: kvHeads is 1, and headDim what the cache holds of a token. */
  readonly latent?: LatentShape;
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
  /** Query heads of all ranks, where each has a part of the keys of every request. */
  readonly contextHeads?: number;
  /** The ways to attend that there are. */
  readonly attention: readonly AttentionKind[];
  /** Which of them a layer has. */
  attentionOf(layer: number): number;
}
