import type { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import type { Config } from "./config.ts";
import type { ModelFamily } from "./family.ts";
import type { Kit } from "./kit.ts";
import type { DecoderShape } from "./shape.ts";
import type { WeightSource } from "./weight-source.ts";

interface LlamaLayer {
  readonly attentionNorm: Tensor;
  readonly qkv: Weight;
  readonly qkvBias: Tensor | undefined;
  readonly queryNorm: Tensor | undefined;
  readonly keyNorm: Tensor | undefined;
  readonly out: Weight;
  readonly mlpNorm: Tensor;
  readonly gateUp: Weight;
  readonly down: Weight;
}

interface LlamaWeights {
  readonly embedding: Tensor;
  readonly layers: readonly LlamaLayer[];
  readonly norm: Tensor;
  readonly head: Weight;
}

/**
 * Llama 2 and 3 (arXiv 2307.09288, 2407.21783) and models of their form: SmolLM2, Mistral, Qwen 2
 * with biases of Q, K and V, Qwen 3 with norms of each query and key head.
 */
export const llama: ModelFamily<LlamaWeights> = {
  modelTypes: ["llama", "mistral", "qwen2", "qwen3"],

  shape(config: Config): DecoderShape {
    const queryHeads = config.count("num_attention_heads");
    const hidden = config.count("hidden_size");
    const headDim = config.count("head_dim", hidden / queryHeads);
    const layers = config.count("num_hidden_layers");
    config.requireOneOf("hidden_act", ["silu", "swish"], "silu");
    return {
      layers,
      hidden,
      intermediate: config.count("intermediate_size"),
      queryHeads,
      kvHeads: config.count("num_key_value_heads", queryHeads),
      headDim,
      vocabulary: config.count("vocab_size"),
      contextTokens: config.count("max_position_embeddings"),
      normEps: config.positive("rms_norm_eps", 1e-6),
      isTied: config.flag("tie_word_embeddings", false),
      attention: [{ windowLeft: config.windowLeft(), rope: config.rope(headDim) }],
      attentionOf: () => 0,
    };
  },

  weights(source: WeightSource, shape: DecoderShape): LlamaWeights {
    const { hidden, intermediate, queryHeads, kvHeads, headDim, vocabulary } = shape;
    const [q, kv] = [queryHeads * headDim, kvHeads * headDim];
    const layers = Array.from({ length: shape.layers }, (_, layer): LlamaLayer => {
      const at = source.below(`model.layers.${layer}`);
      const qkv = { "self_attn.q_proj": q, "self_attn.k_proj": kv, "self_attn.v_proj": kv };
      return {
        attentionNorm: at.vector("input_layernorm", hidden),
        qkv: at.linear(hidden, qkv),
        qkvBias: at.biasIfThere(qkv),
        queryNorm: at.vectorIfThere("self_attn.q_norm", headDim),
        keyNorm: at.vectorIfThere("self_attn.k_norm", headDim),
        out: at.linear(q, { "self_attn.o_proj": hidden }),
        mlpNorm: at.vector("post_attention_layernorm", hidden),
        gateUp: at.linear(hidden, { "mlp.gate_proj": intermediate, "mlp.up_proj": intermediate }),
        down: at.linear(intermediate, { "mlp.down_proj": hidden }),
      };
    });
    const embedding = source.table("model.embed_tokens", vocabulary, hidden);
    return {
      embedding,
      layers,
      norm: source.vector("model.norm", hidden),
      head: shape.isTied
        ? source.tied("model.embed_tokens", embedding)
        : source.linear(hidden, { lm_head: vocabulary }),
    };
  },

  forward(m: Kit, { embedding, layers, norm, head }: LlamaWeights): void {
    const x = m.embed(embedding);
    layers.forEach((layer, i) => {
      const qkv = m.linear("qkv", m.norm(x, layer.attentionNorm), layer.qkv, layer.qkvBias);
      if (layer.queryNorm !== undefined) m.normHeads(qkv, layer.queryNorm, layer.keyNorm!);
      m.addLinear(x, m.attend(i, qkv), layer.out);
      const gated = m.gated("silu", m.norm(x, layer.mlpNorm), layer.gateUp);
      m.addLinear(x, gated, layer.down);
    });
    m.logits(m.norm(m.wanted(x), norm), head);
  },
};
