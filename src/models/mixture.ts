import type { Tensor } from "../tensor/tensor.ts";
import {
  addAttention,
  type AttentionBlock,
  attentionBlock,
  type Ends,
  ends,
  llamaShape,
} from "./attention-block.ts";
import type { ModelFamily } from "./family.ts";
import type { Experts } from "./kit.ts";

interface MixtureLayer {
  readonly attention: AttentionBlock;
  readonly mlpNorm: Tensor;
  readonly experts: Experts;
}

/** What the parts of a layer are called. */
interface Names {
  readonly router: string;
  readonly expert: (index: number) => string;
  readonly gate: string;
  readonly up: string;
  readonly down: string;
}

const names: Readonly<Record<string, Names>> = {
  mixtral: {
    router: "block_sparse_moe.gate",
    expert: (index) => `block_sparse_moe.experts.${index}`,
    gate: "w1",
    up: "w3",
    down: "w2",
  },
  qwen3_moe: {
    router: "mlp.gate",
    expert: (index) => `mlp.experts.${index}`,
    gate: "gate_proj",
    up: "up_proj",
    down: "down_proj",
  },
};

/** Llama's form with a mixture of experts: Mixtral (arXiv 2401.04088), Qwen 3's mixtures. */
export const mixture: ModelFamily<Ends & { readonly layers: readonly MixtureLayer[] }> = {
  modelTypes: Object.keys(names),

  shape(config) {
    const shape = llamaShape(config);
    const isMixtral = config.modelType === "mixtral";
    const intermediate = isMixtral ? shape.intermediate : config.count("moe_intermediate_size");
    return {
      ...shape,
      intermediate,
      mixture: {
        names: config.modelType,
        experts: config.count(isMixtral ? "num_local_experts" : "num_experts"),
        topK: config.count("num_experts_per_tok"),
        intermediate,
        renormalize: isMixtral || config.flag("norm_topk_prob", false),
      },
    };
  },

  weights(source, shape) {
    const { hidden } = shape;
    const { names: kind, experts, intermediate, topK, renormalize } = shape.mixture!;
    const { router, expert, gate, up, down } = names[kind];
    const layers = Array.from({ length: shape.layers }, (_, layer): MixtureLayer => {
      const at = source.below(`model.layers.${layer}`);
      const gateUp = { [gate]: intermediate, [up]: intermediate };
      return {
        attention: attentionBlock(at, shape),
        mlpNorm: at.vector("post_attention_layernorm", hidden),
        experts: {
          router: at.linear(hidden, { [router]: experts }),
          gateUp: at.experts(experts, expert, hidden, gateUp),
          down: at.experts(experts, expert, intermediate, { [down]: hidden }),
          topK,
          renormalize,
        },
      };
    });
    return { ...ends(source, shape), layers };
  },

  forward(m, { embedding, layers, norm, head }) {
    const x = m.embed(embedding);
    layers.forEach((layer, i) => {
      addAttention(m, x, i, layer.attention);
      m.addExperts(x, m.norm(x, layer.mlpNorm), layer.experts);
    });
    m.logits(m.norm(m.wanted(x), norm), head);
  },
};
