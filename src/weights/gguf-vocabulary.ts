import type { GgufVocabulary } from "../text/gguf-tokenizer.ts";
import { CheckpointError } from "./errors.ts";
import type { GgufFile, GgufValue } from "./gguf.ts";

/** What a file says of its tokenizer. Errors: CheckpointError. */
export function vocabularyOf(file: GgufFile): GgufVocabulary {
  const pre = file.metadata.get("tokenizer.ggml.pre")?.toString() ?? "gpt-2";
  const model = text(file, "tokenizer.ggml.model");
  // Files of Llama 2 and 3 may not say it, and ggml begins their texts with one.
  const isLlama = model === "llama" || pre === "llama-bpe";
  const begins = file.metadata.get("tokenizer.ggml.add_bos_token") ?? isLlama;
  return {
    model,
    pre,
    tokens: list(file, "tokenizer.ggml.tokens") as string[],
    kinds: list(file, "tokenizer.ggml.token_type") as number[],
    merges: (file.metadata.get("tokenizer.ggml.merges") ?? []) as string[],
    ...(model === "llama" && {
      scores: list(file, "tokenizer.ggml.scores") as number[],
      spacePrefix: file.metadata.get("tokenizer.ggml.add_space_prefix") !== false,
    }),
    bos: begins === true ? whole(file, "tokenizer.ggml.bos_token_id") : undefined,
  };
}

/** A text of the metadata. Errors: CheckpointError. */
export function text(file: GgufFile, key: string): string {
  const value = file.metadata.get(key);
  if (typeof value === "string") return value;
  throw missing(file, key);
}

/** A list of the metadata. Errors: CheckpointError. */
export function list(file: GgufFile, key: string): GgufValue[] {
  const value = file.metadata.get(key);
  if (Array.isArray(value)) return value;
  throw missing(file, key);
}

/** A number of the metadata, if it is there. */
export function whole(file: GgufFile, key: string): number | undefined {
  const value = file.metadata.get(key);
  return typeof value === "number" ? value : undefined;
}

function missing({ path }: GgufFile, key: string): CheckpointError {
  return new CheckpointError(path, `its metadata has no ${key}`, "convert the model anew.");
}
