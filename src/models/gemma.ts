import type { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import {
  attended,
  type AttentionBlock,
  attentionBlock,
  decoderShape,
  type Ends,
  ends,
} from "./attention-block.ts";
import type { Config } from "./config.ts";
import type { ModelFamily } from "./family.ts";
import type { AttentionKind } from "./shape.ts";

interface GemmaLayer {
  readonly attention: AttentionBlock;
  readonly attentionNorm: Tensor;
  readonly mlpNorm: Tensor;
  readonly gateUp: Weight;
  readonly down: Weight;
  readonly outNorm: Tensor;
}

interface GemmaWeights extends Ends {
  readonly layers: readonly GemmaLayer[];
  /** Of embeddings. */
  readonly factor: number;
  readonly logitCap: number | undefined;
}

/**
 * Gemma 2 (arXiv 2408.00118) and the texts of Gemma 3 (2503.19786): norms before and after each
 * part, windows in most layers, logits that are kept within a cap, or norms of query and key heads.
 */
export const gemma: ModelFamily<GemmaWeights> = {
  modelTypes: ["gemma2", "gemma3_text"],

  shape(config) {
    config.requireOneOf("hidden_activation", ["gelu_pytorch_tanh"], "gelu_pytorch_tanh");
    if (config.flag("use_bidirectional_attention", false))
      throw config.wrong("use_bidirectional_attention", "false");
    const defaults = { head_dim: 256, tie_word_embeddings: true };
    const shape = decoderShape(config.with({ ...defaults, ...config.fields }));
    const windows = windowsOf(config, shape.layers);
    const used = [true, false].filter((hasWindow) => windows.includes(hasWindow));
    const cap = config.fields["final_logit_softcapping"] ?? null;
    return {
      ...shape,
      normOffset: 1,
      ...(cap !== null && { logitCap: config.positive("final_logit_softcapping") }),
      attention: used.map((hasWindow) => attentionKind(config, shape.headDim, hasWindow)),
      attentionOf: (layer) => used.indexOf(windows[layer]),
    };
  },

  weights(source, shape) {
    const { hidden, intermediate, normOffset, logitCap } = shape;
    const layers = Array.from({ length: shape.layers }, (_, layer): GemmaLayer => {
      const at = source.below(`model.layers.${layer}`);
      const norm = (name: string) => at.vector(name, hidden, normOffset);
      return {
        attention: attentionBlock(at, shape),
        attentionNorm: norm("post_attention_layernorm"),
        mlpNorm: norm("pre_feedforward_layernorm"),
        gateUp: at.linear(hidden, { "mlp.gate_proj": intermediate, "mlp.up_proj": intermediate }),
        down: at.linear(intermediate, { "mlp.down_proj": hidden }),
        outNorm: norm("post_feedforward_layernorm"),
      };
    });
    return { ...ends(source, shape), layers, factor: Math.sqrt(hidden), logitCap };
  },

  forward(m, { embedding, layers, norm, head, factor, logitCap }) {
    const x = m.embed(embedding, factor);
    layers.forEach((layer, i) => {
      const { attention } = layer;
      const seen = attended(m, x, i, attention);
      m.addNorm(x, m.linear("block", seen, attention.out), layer.attentionNorm);
      const gated = m.gated("gelu-tanh", m.norm(x, layer.mlpNorm), layer.gateUp);
      m.addNorm(x, m.linear("block", gated, layer.down), layer.outNorm);
    });
    m.logits(m.norm(m.wanted(x), norm), head, logitCap);
  },
};

/** By layer, whether it has a window. */
function windowsOf(config: Config, layers: number): boolean[] {
  const { layer_types: types } = config.fields;
  if (types === undefined || types === null) {
    // Gemma 2's every other layer, of Gemma 3 all but each sixth.
    const every = config.count("sliding_window_pattern", config.modelType === "gemma2" ? 2 : 6);
    return Array.from({ length: layers }, (_, layer) => (layer + 1) % every !== 0);
  }
  const known = ["sliding_attention", "full_attention"];
  if (
    Array.isArray(types) &&
    types.length === layers &&
    types.every((type) => known.includes(type))
  )
    return types.map((type) => type === known[0]);
  throw config.wrong("layer_types", `${layers} of ${known.join(" and ")}`);
}

/** How layers with a window attend, or those without. */
function attentionKind(config: Config, headDim: number, hasWindow: boolean): AttentionKind {
  const cap = config.fields["attn_logit_softcapping"] ?? null;
  return {
    windowLeft: hasWindow ? config.count("sliding_window", 4096) - 1 : -1,
    rope: ropeConfig(config, hasWindow).rope(headDim),
    scale: 1 / Math.sqrt(config.positive("query_pre_attn_scalar", 256)),
    ...(cap !== null && { softCap: config.positive("attn_logit_softcapping") }),
  };
}

/** Gemma 3 turns in layers with a window by a base of its own, which it does not scale. */
function ropeConfig(config: Config, hasWindow: boolean): Config {
  const kind = hasWindow ? "sliding_attention" : "full_attention";
  const { rope_parameters: newer } = config.fields;
  const byKind = (newer as Record<string, unknown> | null | undefined)?.[kind];
  if (byKind !== undefined) return config.with({ rope_parameters: byKind });
  if (config.modelType === "gemma2") return config;
  const base = hasWindow ? "rope_local_base_freq" : "rope_theta";
  const rope_theta = config.positive(base, hasWindow ? 10_000 : 1_000_000);
  return config.with(hasWindow ? { rope_theta, rope_scaling: null } : { rope_theta });
}
