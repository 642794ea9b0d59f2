import {
  control,
  type GgufVocabulary,
  ggufTokenizers,
  tokenizerJsonOf,
} from "../text/gguf-tokenizer.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { CheckpointError } from "./errors.ts";
import { type GgufFile, openGguf } from "./gguf.ts";
import { list, text, vocabularyOf, whole } from "./gguf-vocabulary.ts";
import type { StoredTensor } from "./stored.ts";
import { unpack } from "./unpack.ts";

/** Keys behind the architecture's name, and what a Hugging Face config calls them. */
const configKeys: Readonly<Record<string, string>> = {
  block_count: "num_hidden_layers",
  context_length: "max_position_embeddings",
  embedding_length: "hidden_size",
  feed_forward_length: "intermediate_size",
  "attention.head_count": "num_attention_heads",
  "attention.head_count_kv": "num_key_value_heads",
  "attention.key_length": "head_dim",
  "attention.layer_norm_rms_epsilon": "rms_norm_eps",
  "attention.sliding_window": "sliding_window",
  "rope.freq_base": "rope_theta",
  expert_count: "num_experts",
  expert_used_count: "num_experts_per_tok",
};

/** Parts of ggml's tensor names inside a block, and Hugging Face's. */
const partNames: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

const topNames: Readonly<Record<string, string>> = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
};

/** A GGUF file, told in Hugging Face's names and orders. Errors: CheckpointError. */
export function openGgufCheckpoint(path: string): Checkpoint {
  const file = openGguf(path);
  const architecture = text(file, "general.architecture");
  const config = configOf(file, architecture);
  const tensors = new Map<string, StoredTensor>();
  for (const tensor of file.tensors.values()) {
    const name = nameOf(tensor.name);
    tensors.set(name, asStoredThere(architecture, config, name, tensor));
  }
  const vocabulary = vocabularyOf(file);
  const { tokens } = vocabulary;
  const json = tokenizerJsonOf(vocabulary);
  if (json === undefined)
    throw new CheckpointError(
      path,
      `its tokenizer is ${vocabulary.model} with ${vocabulary.pre}, not ${ggufTokenizers}`,
      "use the Hugging Face folder of the model, which has a tokenizer.json.",
    );
  const end = whole(file, "tokenizer.ggml.eos_token_id");
  const begin = whole(file, "tokenizer.ggml.bos_token_id");
  return {
    path,
    config,
    tensors,
    tokenizer: { json, config: {} },
    chatTemplate: file.metadata.get("tokenizer.chat_template")?.toString(),
    templateTokens: {
      ...(begin === undefined ? {} : { bos_token: tokens[begin] }),
      ...(end === undefined ? {} : { eos_token: tokens[end] }),
    },
    sampling: {},
    endTokens: endsOf(file, vocabulary),
  };
}

/** Tokens that end a turn by their text, whatever else a file says, as ggml has them. */
const endTexts = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"];

function endsOf(file: GgufFile, { tokens, kinds }: GgufVocabulary): number[] {
  const said = ["eos", "eot", "eom"].map((name) => whole(file, `tokenizer.ggml.${name}_token_id`));
  const named = endTexts.map((text) => tokens.indexOf(text)).filter((id) => kinds[id] === control);
  return [...new Set([...said, ...named])].filter((id) => id !== undefined);
}

function configOf(file: GgufFile, architecture: string): Record<string, unknown> {
  const config: Record<string, unknown> = { model_type: architecture };
  for (const [key, name] of Object.entries(configKeys)) {
    const value = file.metadata.get(`${architecture}.${key}`);
    if (value !== undefined) config[name] = value;
  }
  const scaling = ropeScalingOf(file, architecture);
  if (scaling !== undefined) config["rope_scaling"] = scaling;
  const rotated = file.metadata.get(`${architecture}.rope.dimension_count`);
  const headDim = config["head_dim"] ?? Number(config["hidden_size"]) / headCountOf(config);
  if (typeof rotated === "number" && rotated !== headDim) config["rotary_dim"] = rotated;
  config["vocab_size"] = list(file, "tokenizer.ggml.tokens").length;
  config["tie_word_embeddings"] = !file.tensors.has("output.weight");
  return config;
}

function headCountOf(config: Readonly<Record<string, unknown>>): number {
  return Number(config["num_attention_heads"]);
}

/**
 * How rotary frequencies are scaled. Llama 3.1's are in a tensor, a divisor for each pair, which is
 * what LongRoPE has.
 */
function ropeScalingOf(
  { metadata, tensors }: GgufFile,
  architecture: string,
): Record<string, unknown> | undefined {
  const key = (name: string) => metadata.get(`${architecture}.rope.scaling.${name}`);
  const divisors = tensors.get("rope_freqs.weight");
  if (divisors !== undefined) {
    const factors = [...unpack(divisors)];
    return {
      rope_type: "longrope",
      factor: 1,
      attention_factor: 1,
      original_max_position_embeddings: metadata.get(`${architecture}.context_length`),
      short_factor: factors,
      long_factor: factors,
    };
  }
  const [type, factor, attention] = ["type", "factor", "attn_factor"].map(key);
  if (type === undefined || type === "none") return undefined;
  return {
    rope_type: type,
    factor,
    original_max_position_embeddings: key("original_context_length"),
    // ggml's is times what YaRN has anyway.
    ...(typeof attention === "number" && {
      attention_factor: attention * (1 + 0.1 * Math.log(Number(factor))),
    }),
  };
}

function nameOf(name: string): string {
  const block = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(name);
  if (block !== null) {
    const [, layer, part, kind] = block;
    return `model.layers.${layer}.${partNames[part] ?? part}.${kind}`;
  }
  const top = /^(\w+)\.(weight|bias)$/.exec(name);
  return top === null ? name : `${topNames[top[1]] ?? top[1]}.${top[2]}`;
}

/**
 * Of architecture `llama` ggml's converter reorders rows of Q and K, so that RoPE turns neighbours:
 * row 2i + j of a head there is row j * headDim / 2 + i here.
 */
function asStoredThere(
  architecture: string,
  config: Readonly<Record<string, unknown>>,
  name: string,
  tensor: StoredTensor,
): StoredTensor {
  const part = /\.self_attn\.(q|k)_proj\.(weight|bias)$/.exec(name)?.[1];
  const { shape, format } = tensor;
  const headCount =
    config[part === "q" ? "num_attention_heads" : "num_key_value_heads"] ??
    config["num_attention_heads"];
  const isPermuted = architecture === "llama" && part !== undefined;
  return {
    name,
    shape,
    format,
    get bytes() {
      const { bytes } = tensor;
      return isPermuted ? unpermuted(bytes, shape[0], shape[0] / Number(headCount)) : bytes;
    },
  };
}

function unpermuted(bytes: Uint8Array, rows: number, headRows: number): Uint8Array {
  const rowBytes = bytes.length / rows;
  const half = headRows / 2;
  const out = new Uint8Array(bytes.length);
  for (let row = 0; row < rows; row++) {
    const inHead = row % headRows;
    const from = row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
    out.set(bytes.subarray(from * rowBytes, (from + 1) * rowBytes), row * rowBytes);
  }
  return out;
}
