import type { TokenizerJson } from "./tokenizer.ts";

/** What a GGUF file says of its tokenizer, by the keys behind `tokenizer.ggml.`. */
export interface GgufVocabulary {
  /** ggml's name of the algorithm: `gpt2` is byte-level BPE. */
  readonly model: string;
  /** ggml's name of how text is cut before. */
  readonly pre: string;
  readonly tokens: readonly string[];
  /** ggml's kind of each token. */
  readonly kinds: readonly number[];
  readonly merges: readonly string[];
  /** Token that stands before each text, where the file wants one. */
  readonly bos: number | undefined;
}

/** ggml's kind of tokens such as the end of a turn. */
export const control = 3;
/** Its kind of tokens that were added, and are text. */
const userDefined = 4;

const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
const splitBy = (Regex: string) => [
  { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false },
  { ...byteLevel, use_regex: false },
];

/** How text is cut before pairs are merged, by ggml's names, as the models' own files have it. */
const cuts: Readonly<Record<string, object[]>> = {
  "gpt-2": [{ ...byteLevel, use_regex: true }],
  smollm: [
    { type: "Digits", individual_digits: true },
    { ...byteLevel, use_regex: true },
  ],
  "llama-bpe": splitBy(
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" +
      "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  ),
  qwen2: splitBy(
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" +
      "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  ),
};

/** Names of ways to cut that are known, for an error's sentence. */
export const ggufCuts: readonly string[] = Object.keys(cuts);

/** The `tokenizer.json` that says the same; undefined for an algorithm or a cut not known here. */
export function tokenizerJsonOf(vocabulary: GgufVocabulary): TokenizerJson | undefined {
  const { model, pre, tokens, kinds, merges, bos } = vocabulary;
  const pretokenizers = cuts[pre];
  if (model !== "gpt2" || pretokenizers === undefined) return undefined;
  const added = tokens.flatMap((content, id) =>
    kinds[id] === control || kinds[id] === userDefined
      ? [addedToken(id, content, kinds[id] === control)]
      : [],
  );
  return {
    version: "1.0",
    added_tokens: added,
    normalizer: pre === "qwen2" ? { type: "NFC" } : null,
    pre_tokenizer: { type: "Sequence", pretokenizers },
    post_processor: bos === undefined ? null : startsWith(tokens[bos], bos),
    decoder: { ...byteLevel, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: pre === "llama-bpe",
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}

function addedToken(id: number, content: string, special: boolean) {
  return {
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special,
  };
}

function startsWith(content: string, id: number): object {
  const sequence = { Sequence: { id: "A", type_id: 0 } };
  const special = { SpecialToken: { id: content, type_id: 0 } };
  return {
    type: "TemplateProcessing",
    single: [special, sequence],
    pair: [special, sequence],
    special_tokens: { [content]: { id: content, ids: [id], tokens: [content] } },
  };
}
