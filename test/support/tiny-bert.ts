/** A tiny random BERT on disk. */
import { seeded } from "./random.ts";
import { type TinyModel, vocabularySize, writeFolder } from "./tiny-llama.ts";

const [hidden, inner, context] = [16, 24, 32];

/** Writes one as a Hugging Face folder; returns its path. */
export function writeTinyBert(folder: string): string {
  const random = seeded(1);
  const tensors = new Map<string, { shape: number[]; values: Float32Array<ArrayBuffer> }>();
  const add = (name: string, ...shape: number[]) => {
    const count = shape.reduce((product, size) => product * size, 1);
    const values = Float32Array.from({ length: count }, () => 0.4 * random.normal());
    tensors.set(name, { shape, values });
  };
  const both = (name: string, ...shape: number[]) => {
    add(`${name}.weight`, ...shape);
    add(`${name}.bias`, shape[0]);
  };
  add("embeddings.word_embeddings.weight", vocabularySize, hidden);
  add("embeddings.position_embeddings.weight", context, hidden);
  add("embeddings.token_type_embeddings.weight", 2, hidden);
  both("embeddings.LayerNorm", hidden);
  const at = "encoder.layer.0";
  for (const part of ["query", "key", "value"])
    both(`${at}.attention.self.${part}`, hidden, hidden);
  both(`${at}.attention.output.dense`, hidden, hidden);
  both(`${at}.attention.output.LayerNorm`, hidden);
  both(`${at}.intermediate.dense`, inner, hidden);
  both(`${at}.output.dense`, hidden, inner);
  both(`${at}.output.LayerNorm`, hidden);
  const config = {
    model_type: "bert",
    hidden_size: hidden,
    intermediate_size: inner,
    num_attention_heads: 2,
    num_hidden_layers: 1,
    max_position_embeddings: context,
    hidden_act: "gelu",
  };
  return writeFolder(folder, { shape: {}, tensors } as unknown as TinyModel, config);
}
