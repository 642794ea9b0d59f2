/** Tiny random models on disk, and what they should say by plain f64 arithmetic. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tokenizerJsonOf } from "../../src/text/gguf-tokenizer.ts";
import { type GgufEntry, ggufBytes } from "./gguf.ts";
import { seeded } from "./random.ts";
import { safetensorsBytes } from "./safetensors.ts";
import { byteVocabulary } from "./vocabulary.ts";

/** Sizes of a tiny model. */
export interface TinyShape {
  readonly layers: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly context: number;
  readonly tied: boolean;
  /** Divides the frequency of each pair; GGUF files alone hold it. */
  readonly ropeDivisors?: readonly number[];
  /** Biases of Q, K and V, as Qwen 2 has them. */
  readonly biased?: boolean;
  /** Norms of query and key heads, as Qwen 3 has them. */
  readonly headNorms?: boolean;
  /** A mixture of experts instead of one gated layer. */
  readonly mixture?: TinyMixture;
  /** Keys that a query sees, itself included; default all. */
  readonly window?: number;
}

/** What most tests ask: two layers, two query heads per key head. */
export const smallShape: TinyShape = {
  layers: 2,
  hidden: 32,
  intermediate: 48,
  queryHeads: 4,
  kvHeads: 2,
  headDim: 8,
  context: 128,
  tied: false,
};

/** Experts of a layer, under the names that their makers use. */
export interface TinyMixture {
  readonly kind: "mixtral" | "qwen3_moe";
  readonly experts: number;
  readonly topK: number;
  readonly renormalize: boolean;
}

/** Names of a mixture's router and of an expert's parts, behind the layer's. */
const mixtureNames = {
  mixtral: {
    router: "block_sparse_moe.gate",
    expert: (i: number) => `block_sparse_moe.experts.${i}`,
    parts: ["w1", "w3", "w2"],
  },
  qwen3_moe: {
    router: "mlp.gate",
    expert: (i: number) => `mlp.experts.${i}`,
    parts: ["gate_proj", "up_proj", "down_proj"],
  },
} as const;

/** A model whose every tensor is a matrix of numbers, by Hugging Face's names. */
export interface TinyModel {
  readonly shape: TinyShape;
  readonly tensors: ReadonlyMap<string, { shape: number[]; values: Float32Array<ArrayBuffer> }>;
}

const theta = 10_000;
const eps = 1e-5;
const vocabulary = byteVocabulary();
/** Ids that the model can give. */
export const vocabularySize = vocabulary.tokens.length;

/** A model whose tokens differ: weights of a size that keeps logits apart. */
export function tinyModel(seed: number, shape: TinyShape): TinyModel {
  const random = seeded(seed);
  const { layers, hidden, intermediate, queryHeads, kvHeads, headDim, tied } = shape;
  const { biased, headNorms } = shape;
  const tensors: [string, { shape: number[]; values: Float32Array<ArrayBuffer> }][] = [];
  const add = (name: string, sizes: number[], mean = 0, kind = "weight") => {
    const count = sizes.reduce((product, size) => product * size, 1);
    const spread = mean === 0 ? 1.5 / Math.sqrt(sizes.at(-1)!) : 0.2;
    const values = Float32Array.from({ length: count }, () => mean + spread * random.normal());
    tensors.push([`${name}.${kind}`, { shape: sizes, values }]);
  };
  add("model.embed_tokens", [vocabularySize, hidden]);
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`;
    add(`${at}.input_layernorm`, [hidden], 1);
    add(`${at}.self_attn.q_proj`, [queryHeads * headDim, hidden]);
    add(`${at}.self_attn.k_proj`, [kvHeads * headDim, hidden]);
    add(`${at}.self_attn.v_proj`, [kvHeads * headDim, hidden]);
    const heads = { q: queryHeads, k: kvHeads, v: kvHeads };
    for (const [part, count] of Object.entries(heads)) {
      if (biased) add(`${at}.self_attn.${part}_proj`, [count * headDim], 0, "bias");
      if (headNorms && part !== "v") add(`${at}.self_attn.${part}_norm`, [headDim], 1);
    }
    add(`${at}.self_attn.o_proj`, [hidden, queryHeads * headDim]);
    add(`${at}.post_attention_layernorm`, [hidden], 1);
    if (shape.mixture !== undefined)
      add(`${at}.${routerOf(shape.mixture)}`, [shape.mixture.experts, hidden]);
    for (const expert of expertsOf(at, shape)) {
      const [gate, up, down] = expert;
      add(gate, [intermediate, hidden]);
      add(up, [intermediate, hidden]);
      add(down, [hidden, intermediate]);
    }
  }
  add("model.norm", [hidden], 1);
  if (!tied) add("lm_head", [vocabularySize, hidden]);
  return { shape, tensors: new Map(tensors) };
}

function routerOf({ kind }: TinyMixture): string {
  return mixtureNames[kind].router;
}

/** Gate, up and down of each expert of a layer; a layer without a mixture is one expert. */
function expertsOf(at: string, { mixture }: TinyShape): string[][] {
  if (mixture === undefined)
    return [["gate_proj", "up_proj", "down_proj"].map((part) => `${at}.mlp.${part}`)];
  const { expert, parts } = mixtureNames[mixture.kind];
  return Array.from({ length: mixture.experts }, (_, i) =>
    parts.map((part) => `${at}.${expert(i)}.${part}`),
  );
}

/** The same model with Q, K and V in one tensor, and gate and up in one, as Phi-3 has them. */
export function packed({ shape, tensors }: TinyModel): TinyModel {
  const packs: [string, string[]][] = [
    ["self_attn.qkv_proj", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]],
    ["mlp.gate_up_proj", ["mlp.gate_proj", "mlp.up_proj"]],
  ];
  const made = new Map(tensors);
  for (let layer = 0; layer < shape.layers; layer++)
    for (const [whole, parts] of packs) {
      const at = (name: string) => `model.layers.${layer}.${name}.weight`;
      const held = parts.map((name) => tensors.get(at(name))!);
      const rows = held.reduce((sum, { shape: sizes }) => sum + sizes[0], 0);
      const values = Float32Array.from(held.flatMap((each) => [...each.values]));
      made.set(at(whole), { shape: [rows, shape.hidden], values });
      for (const name of parts) made.delete(at(name));
    }
  return { shape, tensors: made };
}

const template =
  "{% for m in messages %}<user>{{ m.content }}{% endfor %}" +
  "{% if add_generation_prompt %}\n{% endif %}";

/** Writes it as a Hugging Face folder, with other fields of config.json; returns its path. */
export function writeFolder(folder: string, { shape, tensors }: TinyModel, fields = {}): string {
  mkdirSync(folder, { recursive: true });
  const config = {
    model_type: "llama",
    num_hidden_layers: shape.layers,
    hidden_size: shape.hidden,
    intermediate_size: shape.intermediate,
    num_attention_heads: shape.queryHeads,
    num_key_value_heads: shape.kvHeads,
    head_dim: shape.headDim,
    max_position_embeddings: shape.context,
    rms_norm_eps: eps,
    rope_theta: theta,
    vocab_size: vocabularySize,
    tie_word_embeddings: shape.tied,
    eos_token_id: vocabulary.tokens.indexOf("<end>"),
    ...fields,
  };
  const json = (name: string, value: object) =>
    writeFileSync(join(folder, name), JSON.stringify(value));
  json("config.json", config);
  json("tokenizer.json", tokenizerJsonOf({ ...ggufVocabulary, bos: undefined })!);
  json("tokenizer_config.json", { chat_template: template, eos_token: { content: "<end>" } });
  const stored = [...tensors].map(([name, { shape: sizes, values }]) => [
    name,
    { dtype: "F32", shape: sizes, bytes: new Uint8Array(values.buffer) },
  ]);
  writeFileSync(join(folder, "model.safetensors"), safetensorsBytes(Object.fromEntries(stored)));
  return folder;
}

const ggufVocabulary = { model: "gpt2", pre: "smollm", ...vocabulary };

const ggufParts: readonly [theirs: string, ours: string][] = [
  ["attn_norm", "input_layernorm"],
  ["attn_q", "self_attn.q_proj"],
  ["attn_k", "self_attn.k_proj"],
  ["attn_v", "self_attn.v_proj"],
  ["attn_output", "self_attn.o_proj"],
  ["ffn_norm", "post_attention_layernorm"],
  ["ffn_gate", "mlp.gate_proj"],
  ["ffn_up", "mlp.up_proj"],
  ["ffn_down", "mlp.down_proj"],
  ["token_embd", "model.embed_tokens"],
  ["output_norm", "model.norm"],
  ["output", "lm_head"],
];

/** Weights that GGUF files hold as codes. */
const isCoded = (name: string) => /_proj|lm_head/.test(name);
const q8 = { format: 8, group: 32 };

/** ggml's Q8_0 of some weights: 32 codes with a scale of f16, and the numbers that these are. */
function codesOf(weights: Float32Array): { bytes: Uint8Array; values: Float32Array<ArrayBuffer> } {
  const groups = weights.length / q8.group;
  const bytes = new Uint8Array(groups * (2 + q8.group));
  const values = new Float32Array(weights.length);
  const view = new DataView(bytes.buffer);
  for (let group = 0; group < groups; group++) {
    const own = weights.subarray(group * q8.group, (group + 1) * q8.group);
    const scale = Math.f16round(Math.max(...own.map(Math.abs)) / 127);
    view.setFloat16(group * (2 + q8.group), scale, true);
    own.forEach((weight, i) => {
      const code = Math.max(-127, Math.min(127, Math.round(weight / scale)));
      view.setInt8(group * (2 + q8.group) + 2 + i, code);
      values[group * q8.group + i] = code * scale;
    });
  }
  return { bytes, values };
}

/** The model that a GGUF file of codes holds. */
export function coded({ shape, tensors }: TinyModel): TinyModel {
  const held = [...tensors].map(([name, tensor]) => {
    const values = isCoded(name) ? codesOf(tensor.values).values : tensor.values;
    return [name, { ...tensor, values }] as const;
  });
  return { shape, tensors: new Map(held) };
}

/**
 * Writes it as a GGUF file, rows of Q and K reordered as ggml wants them; returns its path.
 * @param asCodes whether linear layers are Q8_0, of inputs in multiples of 32
 */
export function writeGguf(path: string, { shape, tensors }: TinyModel, asCodes = false): string {
  const u32 = (value: number): GgufEntry => ({ type: "u32", value });
  const metadata: Record<string, GgufEntry> = {
    "general.architecture": { type: "string", value: "llama" },
    "llama.block_count": u32(shape.layers),
    "llama.context_length": u32(shape.context),
    "llama.embedding_length": u32(shape.hidden),
    "llama.feed_forward_length": u32(shape.intermediate),
    "llama.attention.head_count": u32(shape.queryHeads),
    "llama.attention.head_count_kv": u32(shape.kvHeads),
    "llama.attention.key_length": u32(shape.headDim),
    "llama.attention.layer_norm_rms_epsilon": { type: "f32", value: eps },
    "llama.rope.freq_base": { type: "f32", value: theta },
    "tokenizer.ggml.model": { type: "string", value: "gpt2" },
    "tokenizer.ggml.pre": { type: "string", value: "smollm" },
    "tokenizer.ggml.tokens": { type: "strings", value: vocabulary.tokens },
    "tokenizer.ggml.token_type": { type: "i32s", value: vocabulary.kinds },
    "tokenizer.ggml.merges": { type: "strings", value: vocabulary.merges },
    "tokenizer.ggml.eos_token_id": u32(vocabulary.tokens.indexOf("<end>")),
    "tokenizer.chat_template": { type: "string", value: template },
  };
  const stored = [...tensors].map(([name, { shape: sizes, values }]) => {
    const rows = permuted(name, sizes, values, shape.headDim);
    const named = { name: ggufName(name), shape: sizes };
    if (asCodes && isCoded(name))
      return { ...named, format: q8.format, bytes: codesOf(rows).bytes };
    return { ...named, format: 0, bytes: new Uint8Array(rows.buffer) };
  });
  if (shape.ropeDivisors !== undefined) {
    const bytes = new Uint8Array(new Float32Array(shape.ropeDivisors).buffer);
    const sizes = [shape.ropeDivisors.length];
    stored.push({ name: "rope_freqs.weight", shape: sizes, format: 0, bytes });
  }
  writeFileSync(path, ggufBytes(metadata, stored));
  return path;
}

function ggufName(name: string): string {
  const layer = /^model\.layers\.(\d+)\./.exec(name);
  const rest = layer === null ? name : name.slice(layer[0].length);
  const [theirs] = ggufParts.find(([, ours]) => rest === `${ours}.weight`)!;
  return layer === null ? `${theirs}.weight` : `blk.${layer[1]}.${theirs}.weight`;
}

/** Row i of a head's half h goes to row 2i + h. */
function permuted(name: string, shape: number[], values: Float32Array<ArrayBuffer>, dim: number) {
  if (!/[qk]_proj/.test(name)) return values;
  const [rows, columns] = shape;
  const out = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    const inHead = row % dim;
    const to = row - inHead + 2 * (inHead % (dim / 2)) + Math.floor(inHead / (dim / 2));
    out.set(values.subarray(row * columns, (row + 1) * columns), to * columns);
  }
  return out;
}

/** Weights of the experts that a token goes to. */
function routed(logits: number[], { topK, renormalize }: TinyMixture): Map<number, number> {
  const most = Math.max(...logits);
  const scores = logits.map((logit) => Math.exp(logit - most));
  const total = scores.reduce((sum, score) => sum + score, 0);
  const best = scores
    .map((score, expert) => ({ expert, weight: score / total }))
    .sort((a, b) => b.weight - a.weight)
    .slice(0, topK);
  const sum = renormalize ? best.reduce((held, { weight }) => held + weight, 0) : 1;
  return new Map(best.map(({ expert, weight }) => [expert, weight / sum]));
}

/** What a layer's expert, or those that a token goes to, make of it. */
function feedForward(
  shape: TinyShape,
  at: string,
  h: number[],
  times: (name: string, x: number[]) => number[],
): number[] {
  const { mixture, hidden } = shape;
  const weights = mixture && routed(times(`${at}.${routerOf(mixture)}`, h), mixture);
  const sum = new Array<number>(hidden).fill(0);
  for (const [e, [gate, up, down]] of expertsOf(at, shape).entries()) {
    const factor = weights === undefined ? 1 : (weights.get(e) ?? 0);
    if (factor === 0) continue;
    const ups = times(up, h);
    const gated = times(gate, h).map((g, i) => (g / (1 + Math.exp(-g))) * ups[i]);
    times(down, gated).forEach((value, d) => (sum[d] += factor * value));
  }
  return sum;
}

/** A linear layer's result. */
function product({ tensors }: TinyModel, name: string, x: number[]): number[] {
  const { shape: sizes, values } = tensors.get(`${name}.weight`)!;
  const columns = x.length;
  const bias = tensors.get(`${name}.bias`)?.values;
  return Array.from({ length: sizes[0] }, (_, row) =>
    x.reduce((sum, value, i) => sum + value * values[row * columns + i], bias?.[row] ?? 0),
  );
}

/** The logits after each token, all of them computed anew in f64. */
export function naiveLogits(model: TinyModel, tokens: ArrayLike<number>): number[][] {
  const head = model.shape.tied ? "model.embed_tokens" : "lm_head";
  return naiveStates(model, tokens).map((x) => product(model, head, x));
}

/** What the last norm makes of each token, in f64. */
export function naiveStates(model: TinyModel, tokens: ArrayLike<number>): number[][] {
  const { shape, tensors } = model;
  const { layers, hidden, queryHeads, kvHeads, headDim } = shape;
  const weight = (name: string) => tensors.get(`${name}.weight`)!;
  const times = (name: string, x: number[]): number[] => product(model, name, x);
  const norm = (name: string, x: number[]): number[] => {
    const mean = x.reduce((sum, value) => sum + value * value, 0) / x.length;
    return x.map((value, i) => (value / Math.sqrt(mean + eps)) * weight(name).values[i]);
  };
  const rotate = (heads: number[], position: number): number[] =>
    heads.map((value, at) => {
      const i = at % headDim;
      const half = headDim / 2;
      const pair = i % half;
      const angle = (position * theta ** (-pair / half)) / (shape.ropeDivisors?.[pair] ?? 1);
      const other = i < half ? -heads[at + half] : heads[at - half];
      return value * Math.cos(angle) + other * Math.sin(angle);
    });
  /** Each head by itself, where the model has such a norm. */
  const normHeads = (name: string, heads: number[]): number[] =>
    tensors.has(`${name}.weight`)
      ? Array.from({ length: heads.length / headDim }, (_, head) =>
          norm(name, heads.slice(head * headDim, (head + 1) * headDim)),
        ).flat()
      : heads;
  const embedding = weight("model.embed_tokens").values;
  const streams = Array.from(tokens, (token) => [
    ...embedding.subarray(token * hidden, (token + 1) * hidden),
  ]);
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`;
    const normed = streams.map((x) => norm(`${at}.input_layernorm`, x));
    const turned = (part: "q" | "k") =>
      normed.map((x, i) => {
        const heads = times(`${at}.self_attn.${part}_proj`, x);
        return rotate(normHeads(`${at}.self_attn.${part}_norm`, heads), i);
      });
    const [q, k] = [turned("q"), turned("k")];
    const v = normed.map((x) => times(`${at}.self_attn.v_proj`, x));
    streams.forEach((x, i) => {
      const out: number[] = [];
      for (let head = 0; head < queryHeads; head++) {
        const kvHead = Math.floor((head * kvHeads) / queryHeads);
        const part = (row: number[], of: number) => row.slice(of * headDim, (of + 1) * headDim);
        const query = part(q[i], head);
        const first = Math.max(0, i + 1 - (shape.window ?? Infinity));
        const logits = k.slice(first, i + 1).map((key) => {
          const own = part(key, kvHead);
          return query.reduce((sum, value, d) => sum + value * own[d], 0) / Math.sqrt(headDim);
        });
        const most = Math.max(...logits);
        const weights = logits.map((logit) => Math.exp(logit - most));
        const total = weights.reduce((sum, value) => sum + value, 0);
        for (let d = 0; d < headDim; d++)
          out.push(
            weights.reduce((sum, w, j) => sum + (w / total) * part(v[first + j], kvHead)[d], 0),
          );
      }
      times(`${at}.self_attn.o_proj`, out).forEach((value, d) => (x[d] += value));
    });
    for (const x of streams) {
      const h = norm(`${at}.post_attention_layernorm`, x);
      feedForward(shape, at, h, times).forEach((value, d) => (x[d] += value));
    }
  }
  return streams.map((x) => norm("model.norm", x));
}

/** The tokens that it gives greedily, each computed anew; also how far the two best were apart. */
export function naiveGreedy(model: TinyModel, prompt: readonly number[], count: number) {
  const tokens = [...prompt];
  let margin = Infinity;
  while (tokens.length < prompt.length + count) {
    const logits = naiveLogits(model, tokens).at(-1)!;
    const best = logits.indexOf(Math.max(...logits));
    const second = Math.max(...logits.filter((_, i) => i !== best));
    margin = Math.min(margin, logits[best] - second);
    tokens.push(best);
  }
  return { tokens: tokens.slice(prompt.length), margin };
}
