import type { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import {
  addAttention,
  type AttentionBlock,
  attentionBlock,
  type Ends,
  ends,
  llamaShape,
} from "./attention-block.ts";
import type { ModelFamily } from "./family.ts";

interface LlamaLayer {
  readonly attention: AttentionBlock;
  readonly mlpNorm: Tensor;
  readonly gateUp: Weight;
  readonly down: Weight;
}

/**
 * Llama 2 and 3 (arXiv 2307.09288, 2407.21783) and models of their form: SmolLM2, Mistral, Qwen 2
 * with biases of Q, K and V, Qwen 3 with norms of each query and key head, Phi-3 with packed
 * projections.
 */
export const llama: ModelFamily<Ends & { readonly layers: readonly LlamaLayer[] }> = {
  modelTypes: ["llama", "mistral", "qwen2", "qwen3", "phi3"],

  shape: llamaShape,

  weights(source, shape) {
    const { hidden, intermediate } = shape;
    const layers = Array.from({ length: shape.layers }, (_, layer): LlamaLayer => {
      const at = source.below(`model.layers.${layer}`);
      const packed = { "mlp.gate_up_proj": 2 * intermediate };
      const apart = { "mlp.gate_proj": intermediate, "mlp.up_proj": intermediate };
      return {
        attention: attentionBlock(at, shape),
        mlpNorm: at.vector("post_attention_layernorm", hidden),
        gateUp: at.linear(hidden, at.has("mlp.gate_up_proj") ? packed : apart),
        down: at.linear(intermediate, { "mlp.down_proj": hidden }),
      };
    });
    return { ...ends(source, shape), layers };
  },

  forward(m, { embedding, layers, norm, head }) {
    const x = m.embed(embedding);
    layers.forEach((layer, i) => {
      addAttention(m, x, i, layer.attention);
      const gated = m.gated("silu", m.norm(x, layer.mlpNorm), layer.gateUp);
      m.addLinear(x, gated, layer.down);
    });
    m.logits(m.norm(m.wanted(x), norm), head);
  },
};
