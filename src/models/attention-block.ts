import type { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import type { Config } from "./config.ts";
import type { Kit } from "./kit.ts";
import type { DecoderShape } from "./shape.ts";
import type { WeightSource } from "./weight-source.ts";

/** Weights of grouped-query attention with its norm before it, as Llama has it. */
export interface AttentionBlock {
  readonly norm: Tensor;
  readonly qkv: Weight;
  readonly qkvBias: Tensor | undefined;
  readonly queryNorm: Tensor | undefined;
  readonly keyNorm: Tensor | undefined;
  readonly out: Weight;
}

/** Embedding, last norm and head around the blocks. */
export interface Ends {
  readonly embedding: Tensor;
  readonly norm: Tensor;
  readonly head: Weight;
}

/** Sizes that configs of Llama's kind share, with SiLU in its gated layers. */
export function llamaShape(config: Config): DecoderShape {
  config.requireOneOf("hidden_act", ["silu", "swish"], "silu");
  return decoderShape(config);
}

/** Sizes that configs of decoders share. */
export function decoderShape(config: Config): DecoderShape {
  const queryHeads = config.count("num_attention_heads");
  const hidden = config.count("hidden_size");
  const headDim = config.count("head_dim", hidden / queryHeads);
  return {
    layers: config.count("num_hidden_layers"),
    hidden,
    intermediate: config.count("intermediate_size"),
    queryHeads,
    kvHeads: config.count("num_key_value_heads", queryHeads),
    headDim,
    vocabulary: config.count("vocab_size"),
    contextTokens: config.contextTokens(),
    normEps: config.positive("rms_norm_eps", 1e-6),
    isTied: config.flag("tie_word_embeddings", false),
    attention: [{ windowLeft: config.windowLeft(), rope: config.rope(headDim) }],
    attentionOf: () => 0,
  };
}

/** The attention of the layer behind a source, with the biases and head norms that it has. */
export function attentionBlock(at: WeightSource, shape: DecoderShape): AttentionBlock {
  const { hidden, queryHeads, kvHeads, headDim, normOffset } = shape;
  const [q, kv] = [queryHeads * headDim, kvHeads * headDim];
  const apart = { "self_attn.q_proj": q, "self_attn.k_proj": kv, "self_attn.v_proj": kv };
  const packed = { "self_attn.qkv_proj": q + 2 * kv };
  const qkv = at.has("self_attn.qkv_proj") ? packed : apart;
  return {
    norm: at.vector("input_layernorm", hidden, normOffset),
    qkv: at.linear(hidden, qkv),
    qkvBias: at.biasIfThere(qkv),
    queryNorm: at.vectorIfThere("self_attn.q_norm", headDim, normOffset),
    keyNorm: at.vectorIfThere("self_attn.k_norm", headDim, normOffset),
    out: at.linear(q, { "self_attn.o_proj": hidden }),
  };
}

/** Adds a layer's attention to the residual stream. */
export function addAttention(m: Kit, x: Tensor, layer: number, block: AttentionBlock): void {
  m.addLinear(x, attended(m, x, layer, block), block.out);
}

/** What a layer's heads make of the residual stream, ahead of their last projection. */
export function attended(m: Kit, x: Tensor, layer: number, block: AttentionBlock): Tensor {
  const qkv = m.linear("qkv", m.norm(x, block.norm), block.qkv, block.qkvBias);
  return m.attend(layer, qkv, block);
}

/** Embedding, last norm and head. */
export function ends(source: WeightSource, shape: DecoderShape): Ends {
  const { hidden, vocabulary, isTied, normOffset } = shape;
  const [from, to] = shape.headRows ?? [0, vocabulary];
  const embedding = source.table("model.embed_tokens", vocabulary, hidden);
  return {
    embedding,
    norm: source.vector("model.norm", hidden, normOffset),
    head: isTied
      ? source.tied("model.embed_tokens", embedding, [from, to])
      : source.linear(hidden, { lm_head: to - from }),
  };
}
