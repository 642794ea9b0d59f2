import type { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import { decoderShape, type Ends, ends } from "./attention-block.ts";
import type { Config } from "./config.ts";
import type { ModelFamily } from "./family.ts";
import type { Experts } from "./kit.ts";
import type { LatentHeads } from "./latent.ts";
import type { AttentionKind, DecoderShape } from "./shape.ts";
import type { WeightSource } from "./weight-source.ts";

/** A gated layer that every token goes through. */
interface Gated {
  readonly gateUp: Weight;
  readonly down: Weight;
}

interface DeepseekLayer {
  readonly norm: Tensor;
  /** Queries through a narrow middle, or at once. */
  readonly queryDown: Weight | undefined;
  readonly queryNorm: Tensor | undefined;
  readonly query: Weight;
  readonly latent: Weight;
  readonly latentNorm: Tensor;
  readonly heads: LatentHeads;
  readonly out: Weight;
  readonly mlpNorm: Tensor;
  readonly experts: Experts | undefined;
  readonly gated: Gated | undefined;
}

/**
 * DeepSeek-V2 and V3 (arXiv 2405.04434, 2412.19437): latent attention, and after some dense layers
 * many small experts, a few of which every token goes to. Weights in 16 or 32 bits.
 */
export const deepseek: ModelFamily<Ends & { readonly layers: readonly DeepseekLayer[] }> = {
  modelTypes: ["deepseek_v2", "deepseek_v3"],

  shape(config) {
    config.requireOneOf("hidden_act", ["silu"], "silu");
    if (config.flag("attention_bias", false)) throw config.wrong("attention_bias", "false");
    const rank = config.count("kv_lora_rank");
    const turned = config.count("qk_rope_head_dim");
    const plain = config.count("qk_nope_head_dim");
    const latent = { rank, turned, plain, value: config.count("v_head_dim") };
    const one = { head_dim: rank + turned, num_key_value_heads: 1 };
    return {
      ...decoderShape(config.with(one)),
      latent,
      attention: [attentionKind(config, rank, turned, plain)],
      mixture: mixtureOf(config),
    };
  },

  weights(source, shape) {
    const { layers: count, hidden } = shape;
    const { config } = source;
    // A layer that guesses further tokens is none of these.
    source.leave(`model.layers.${count}.`);
    const queryRank =
      (config.fields["q_lora_rank"] ?? null) === null ? 0 : config.count("q_lora_rank");
    const firstMixed = config.count("first_k_dense_replace", 1);
    const layers = Array.from({ length: count }, (_, layer): DeepseekLayer => {
      const at = source.below(`model.layers.${layer}`);
      const isMixed = layer >= firstMixed;
      return {
        norm: at.vector("input_layernorm", hidden),
        ...queryWeights(at, shape, queryRank),
        ...latentWeights(at, shape),
        mlpNorm: at.vector("post_attention_layernorm", hidden),
        experts: isMixed ? expertsOf(at, shape, config) : undefined,
        gated: isMixed
          ? sharedOf(at, shape, config)
          : gatedOf(at.below("mlp"), shape, shape.intermediate),
      };
    });
    return { ...ends(source, shape), layers };
  },

  forward(m, { embedding, layers, norm, head }) {
    const x = m.embed(embedding);
    layers.forEach((layer, i) => {
      const h = m.norm(x, layer.norm);
      const { queryDown, queryNorm, gated, experts } = layer;
      const narrow = queryDown && m.normIn(m.linear("query rank", h, queryDown), queryNorm!);
      const queries = m.linear("queries", narrow ?? h, layer.query);
      const latents = m.linear("latents", h, layer.latent);
      m.normIn(m.columns(latents, layer.latentNorm.elements), layer.latentNorm);
      m.addLinear(x, m.attendLatents(i, queries, latents, layer.heads), layer.out);
      const seen = m.norm(x, layer.mlpNorm);
      if (experts !== undefined) m.addExperts(x, seen, experts);
      if (gated === undefined) return;
      const name = experts === undefined ? "gated" : "shared experts";
      m.addLinear(x, m.gated("silu", seen, gated.gateUp, name), gated.down);
    });
    m.logits(m.norm(m.wanted(x), norm), head);
  },
};

/** How it attends over latents, whose last elements turn in pairs of neighbours. */
function attentionKind(config: Config, rank: number, turned: number, plain: number): AttentionKind {
  const { scaling, ...rope } = config.rope(turned);
  let scale = 1 / Math.sqrt(plain + turned);
  // The part of YaRN's factor that is the same at all places stands before the softmax.
  if (scaling?.kind === "yarn" && scaling.mscaleAllDim !== undefined)
    scale *= (1 + 0.1 * scaling.mscaleAllDim * Math.log(scaling.factor)) ** 2;
  const turns = {
    ...rope,
    ...(scaling && { scaling }),
    first: rank,
    dim: turned,
    interleaved: true,
  };
  return { windowLeft: -1, rope: turns, scale };
}

function mixtureOf(config: Config): NonNullable<DecoderShape["mixture"]> {
  return {
    names: config.modelType,
    experts: config.count("n_routed_experts"),
    topK: config.count("num_experts_per_tok"),
    intermediate: config.count("moe_intermediate_size"),
    renormalize: config.flag("norm_topk_prob", false),
  };
}

function queryWeights(at: WeightSource, shape: DecoderShape, rank: number) {
  const { hidden, queryHeads, latent } = shape;
  const width = queryHeads * (latent!.plain + latent!.turned);
  if (rank === 0) {
    const query = at.linear(hidden, { "self_attn.q_proj": width });
    return { queryDown: undefined, queryNorm: undefined, query };
  }
  return {
    queryDown: at.linear(hidden, { "self_attn.q_a_proj": rank }),
    queryNorm: at.vector("self_attn.q_a_layernorm", rank),
    query: at.linear(rank, { "self_attn.q_b_proj": width }),
  };
}

function latentWeights(at: WeightSource, { hidden, queryHeads, latent }: DecoderShape) {
  const { rank, turned, plain, value } = latent!;
  return {
    latent: at.linear(hidden, { "self_attn.kv_a_proj_with_mqa": rank + turned }),
    latentNorm: at.vector("self_attn.kv_a_layernorm", rank),
    heads: at.latentHeads("self_attn.kv_b_proj", queryHeads, { rank, plain, value }),
    out: at.linear(queryHeads * value, { "self_attn.o_proj": hidden }),
  };
}

function gatedOf(at: WeightSource, { hidden }: DecoderShape, inner: number): Gated {
  const gateUp = at.linear(hidden, { gate_proj: inner, up_proj: inner });
  return { gateUp, down: at.linear(inner, { down_proj: hidden }) };
}

/** The experts that every token goes to are as one wider one. */
function sharedOf(at: WeightSource, shape: DecoderShape, config: Config): Gated | undefined {
  const { n_shared_experts: shared } = config.fields;
  if (shared === undefined || shared === null) return undefined;
  const inner = config.count("n_shared_experts") * shape.mixture!.intermediate;
  return gatedOf(at.below("mlp.shared_experts"), shape, inner);
}

function expertsOf(at: WeightSource, shape: DecoderShape, config: Config): Experts {
  const { hidden } = shape;
  const { experts, intermediate, topK, renormalize } = shape.mixture!;
  const expert = (index: number) => `mlp.experts.${index}`;
  const gateUp = { gate_proj: intermediate, up_proj: intermediate };
  const isV3 = config.modelType === "deepseek_v3";
  const groups = { count: config.count("n_group", 1), kept: config.count("topk_group", 1) };
  const isGrouped = isV3 || config.fields["topk_method"] === "group_limited_greedy";
  config.requireOneOf("scoring_func", [isV3 ? "sigmoid" : "softmax"], isV3 ? "sigmoid" : "softmax");
  return {
    router: at.linear(hidden, { "mlp.gate": experts }),
    gateUp: at.experts(experts, expert, hidden, gateUp),
    down: at.experts(experts, expert, intermediate, { down_proj: hidden }),
    topK,
    renormalize,
    scale: config.positive("routed_scaling_factor", 1),
    ...(isGrouped && groups.count > 1 && { groups: { ...groups, best: isV3 ? 2 : 1 } as const }),
    ...(isV3 && {
      scoring: "sigmoid" as const,
      bias: at.vector("mlp.gate", experts, 0, "e_score_correction_bias"),
    }),
  };
}
