import type { TokenizerJson } from "./tokenizer.ts";

/** What a GGUF file says of its tokenizer, by the keys behind `tokenizer.ggml.`. */
export interface GgufVocabulary {
  /** ggml's name of the algorithm: `gpt2` is byte-level BPE, `llama` SentencePiece's BPE. */
  readonly model: string;
  /** ggml's name of how text is cut before. */
  readonly pre: string;
  readonly tokens: readonly string[];
  /** ggml's kind of each token. */
  readonly kinds: readonly number[];
  readonly merges: readonly string[];
  /** Of SentencePiece, by token: of two pairs the one with the larger is merged first. */
  readonly scores?: readonly number[];
  /** Whether SentencePiece puts a space before each text. */
  readonly spacePrefix?: boolean;
  /** Token that stands before each text, where the file wants one. */
  readonly bos: number | undefined;
}

/** ggml's kind of tokens such as the end of a turn. */
export const control = 3;
/** Its kind of tokens that were added, and are text. */
const userDefined = 4;
/** Its kind of the token for what no other stands for. */
const unknownKind = 2;
/** Stands for a space in pieces of SentencePiece. */
const lowLine = "\u2581";

const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
const splitBy = (Regex: string) => [
  { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false },
  { ...byteLevel, use_regex: false },
];

/** Numeric characters one by one, then as GPT-2. */
const digitsAlone = [
  { type: "Digits", individual_digits: true },
  { ...byteLevel, use_regex: true },
];

/** How text is cut before pairs are merged, by ggml's names, as the models' own files have it. */
const cuts: Readonly<Record<string, object[]>> = {
  "gpt-2": [{ ...byteLevel, use_regex: true }],
  smollm: digitsAlone,
  starcoder: digitsAlone,
  refact: digitsAlone,
  "command-r": digitsAlone,
  "llama-bpe": splitBy(
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" +
      "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  ),
  qwen2: splitBy(
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" +
      "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  ),
};

/** What is known, for an error's sentence. */
export const ggufTokenizers = `gpt2 with ${Object.keys(cuts).join(", ")}, or llama`;

/** The `tokenizer.json` that says the same; undefined for an algorithm or a cut not known here. */
export function tokenizerJsonOf(vocabulary: GgufVocabulary): TokenizerJson | undefined {
  if (vocabulary.model === "llama") return sentencePieceJson(vocabulary);
  const { model, pre, tokens, kinds, merges, bos } = vocabulary;
  const pretokenizers = cuts[pre];
  if (model !== "gpt2" || pretokenizers === undefined) return undefined;
  return {
    version: "1.0",
    added_tokens: addedTokens(tokens, kinds),
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

function addedTokens(tokens: readonly string[], kinds: readonly number[]): AddedTokenJson[] {
  return tokens.flatMap((content, id) =>
    kinds[id] === control || kinds[id] === userDefined
      ? [addedToken(id, content, kinds[id] === control)]
      : [],
  );
}

type AddedTokenJson = ReturnType<typeof addedToken>;

/** As transformers converts SentencePiece's BPE: its merges are those that make up each piece. */
function sentencePieceJson(vocabulary: GgufVocabulary): TokenizerJson {
  const { tokens, kinds, scores = [], bos, spacePrefix = true } = vocabulary;
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const unknown = tokens[kinds.indexOf(unknownKind)] ?? null;
  const space = { type: "Replace", pattern: { String: " " }, content: lowLine };
  const prepended = {
    type: "Sequence",
    normalizers: [{ type: "Prepend", prepend: lowLine }, space],
  };
  const decoders = [
    { type: "Replace", pattern: { String: lowLine }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
  ];
  const strip = { type: "Strip", content: " ", start: 1, stop: 0 };
  return {
    version: "1.0",
    added_tokens: addedTokens(tokens, kinds),
    normalizer: spacePrefix ? prepended : space,
    pre_tokenizer: null,
    post_processor: bos === undefined ? null : startsWith(tokens[bos], bos),
    decoder: { type: "Sequence", decoders: spacePrefix ? [...decoders, strip] : decoders },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: unknown,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: Object.fromEntries(ids),
      merges: mergesOf(ids, scores),
    },
  };
}

/** Every pair of pieces that makes up a piece, those of higher scores first. */
function mergesOf(ids: ReadonlyMap<string, number>, scores: readonly number[]): [string, string][] {
  const merges: { pair: [string, string]; score: number; order: number }[] = [];
  for (const [piece, id] of ids) {
    for (let cut = 1; cut < piece.length; cut++) {
      const pair: [string, string] = [piece.slice(0, cut), piece.slice(cut)];
      const [left, right] = [ids.get(pair[0]), ids.get(pair[1])];
      if (left === undefined || right === undefined) continue;
      merges.push({ pair, score: scores[id] ?? 0, order: left * ids.size + right });
    }
  }
  merges.sort((a, b) => b.score - a.score || a.order - b.order);
  return merges.map(({ pair }) => pair);
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
