import { Tokenizer as Encoder } from "@huggingface/tokenizers";
import { OptionError } from "../errors.ts";
import { counted, showAsText } from "../shown.ts";
import { requireInteger, requireList, requireOptions } from "../require.ts";
import { fromLetters, tokenBytes } from "./token-bytes.ts";
import type { AddedToken, TokenizerJson } from "./tokenizer-json.ts";

export type { AddedToken, TokenizerJson } from "./tokenizer-json.ts";

/** Texts to token ids and back, by the Hugging Face library for `tokenizer.json`. */
export class Tokenizer {
  readonly #encoder: Encoder;
  readonly #ids: ReadonlyMap<string, number>;
  readonly #special: ReadonlySet<number>;
  readonly #json: TokenizerJson;
  #bytes: (Uint8Array | undefined)[] | undefined;
  /** Texts of tokens that were asked for by themselves. */
  readonly #texts = new Map<number, string>();
  /** By id, what tokens add to a text, where that is their bytes and no more. */
  readonly #pieces: Map<number, Piece> | undefined;
  /** One more than the highest id. */
  readonly vocabularySize: number;
  /** Characters of a text that one token stands for, at most. */
  readonly longestToken: number;

  constructor(json: TokenizerJson, config: Record<string, unknown> = {}) {
    this.#json = json;
    const pre_tokenizer = withNumbers(json.pre_tokenizer);
    this.#encoder = new Encoder({ ...json, pre_tokenizer }, config);
    const added = json.added_tokens ?? [];
    this.#ids = new Map(added.map(({ content, id }) => [content, id]));
    this.#special = new Set(added.filter(({ special }) => special).map(({ id }) => id));
    const { type } = (json["decoder"] ?? {}) as { type?: string };
    if (type === "ByteLevel") this.#pieces = new Map();
    this.longestToken = longest(json.model.vocab, added);
    this.vocabularySize = 1 + Math.max(highestId(json.model.vocab), ...added.map(({ id }) => id));
  }

  /**
   * Token ids of a text; with `addSpecial` (default false) those that the tokenizer puts around it.
   * Special tokens that the text spells out become theirs.
   */
  encode(text: string, options: { addSpecial?: boolean } = {}): Int32Array {
    requireOptions("options", options, ["addSpecial"]);
    const { addSpecial = false } = options;
    if (typeof text !== "string") throw new OptionError("text", text, "a string", "give text.");
    return Int32Array.from(this.#encoder.encode(text, { add_special_tokens: addSpecial }).ids);
  }

  /**
   * The text of token ids, special ones left out unless `keepSpecial`. A model's vocabulary may be
   * padded: ids past the tokenizer's stand for nothing.
   */
  decode(ids: ArrayLike<number>, options: { keepSpecial?: boolean } = {}): string {
    requireOptions("options", options, ["keepSpecial"]);
    const { keepSpecial = false } = options;
    const count = requireList("ids", ids);
    for (let i = 0; i < count; i++) requireInteger(`ids[${i}]`, ids[i], 0);
    const known = Array.from(ids).filter((id) => id < this.vocabularySize);
    if (known.length === 0) return "";
    if (this.#pieces !== undefined) {
      const pieces = known.map((id) => this.#pieceOf(id, this.#pieces!));
      const shown = keepSpecial ? pieces : pieces.filter(({ isSpecial }) => !isSpecial);
      return utf8.decode(Buffer.concat(shown.map(({ bytes }) => bytes)));
    }
    return this.#encoder.decode(known, {
      skip_special_tokens: !keepSpecial,
      clean_up_tokenization_spaces: false,
    });
  }

  /** @internal What `decode` makes of one token, which is kept. */
  textOf(id: number): string {
    let text = this.#texts.get(id);
    if (text === undefined) this.#texts.set(id, (text = this.decode([id])));
    return text;
  }

  /**
   * @internal What a token adds to a text of whole characters whatever stands before it; undefined
   * where that counts, or where it may be a part of a character.
   */
  wholeTextOf(id: number): string | undefined {
    if (this.#pieces === undefined) return undefined;
    const text = this.textOf(id);
    return text.includes("\ufffd") ? undefined : text;
  }

  /** @internal The bytes that a token adds to any text; undefined where it depends on that. */
  pieceOf(id: number): Uint8Array | undefined {
    if (this.#pieces === undefined) return undefined;
    const { bytes, isSpecial } = this.#pieceOf(id, this.#pieces);
    return isSpecial ? nothing : bytes;
  }

  /** @internal What console.log and JSON show. */
  toString(): string {
    return `Tokenizer of ${counted(this.vocabularySize, "token")}`;
  }

  /** The id of an added token by its text; undefined when there is none. */
  idOf(content: string): number | undefined {
    return this.#ids.get(content);
  }

  /** @internal The bytes that a token adds to a text, a special one its name's; none: no token. */
  bytesOf(id: number): Uint8Array | undefined {
    this.#bytes ??= tokenBytes(this.#json);
    return this.#bytes[id];
  }

  /** @internal The first id that does not stand for the same token in both; -1: none. */
  firstDifference(other: Tokenizer): number {
    const [own, theirs] = [piecesOf(this.#json), piecesOf(other.#json)];
    const count = Math.max(own.length, theirs.length);
    for (let id = 0; id < count; id++) if (own[id] !== theirs[id]) return id;
    return -1;
  }

  #pieceOf(id: number, pieces: Map<number, Piece>): Piece {
    let piece = pieces.get(id);
    if (piece !== undefined) return piece;
    const isSpecial = this.#encoder.decode([id], { skip_special_tokens: true }) === "";
    piece = { bytes: fromLetters(this.#encoder.id_to_token(id) ?? ""), isSpecial };
    pieces.set(id, piece);
    return piece;
  }

  /** Whether an id stands for no text: a special token, or one past the tokenizer's last. */
  isSpecial(id: number): boolean {
    requireInteger("id", id, 0);
    return id >= this.vocabularySize || this.#special.has(id);
  }
}

/** Bytes that are no characters become U+FFFD, and a byte order mark stays. */
export function utf8Decoder(): TextDecoder {
  return new TextDecoder("utf-8", { ignoreBOM: true });
}

const utf8 = utf8Decoder();
const nothing = new Uint8Array(0);

interface Piece {
  readonly bytes: Uint8Array;
  readonly isSpecial: boolean;
}

/** What each id is called. */
function piecesOf({ model: { vocab }, added_tokens: added = [] }: TokenizerJson): string[] {
  const pieces: string[] = Array.isArray(vocab)
    ? (vocab as [string][]).map(([piece]) => piece)
    : [];
  if (pieces.length === 0)
    for (const [piece, id] of Object.entries(vocab as Record<string, number>)) pieces[id] = piece;
  for (const { id, content } of added) pieces[id] = content;
  return pieces;
}

function highestId(vocab: unknown): number {
  // BPE and WordPiece map texts to ids, Unigram lists its pieces in their order.
  if (Array.isArray(vocab)) return vocab.length - 1;
  return Object.values(vocab as Record<string, number>).reduce(
    (most, id) => Math.max(most, id),
    -1,
  );
}

function longest(vocab: unknown, added: readonly AddedToken[]): number {
  // Unigram has pairs of a piece and its score.
  const pieces = Array.isArray(vocab)
    ? (vocab as [string, number][]).map(([piece]) => piece)
    : Object.keys(vocab as object);
  let most = 1;
  for (const piece of pieces) most = Math.max(most, piece.length);
  for (const { content } of added) most = Math.max(most, content.length);
  return most;
}

/**
 * A pre-tokenizer with each `Digits` as the pattern of all numeric characters, as the library in
 * Rust has it; the one in JavaScript takes decimal digits alone.
 */
function withNumbers(pre: unknown): unknown {
  if (typeof pre !== "object" || pre === null) return pre;
  const { type, individual_digits: alone, pretokenizers } = pre as Record<string, unknown>;
  if (type === "Digits") {
    const pattern = { Regex: alone === true ? "\\p{N}" : "\\p{N}+" };
    return { type: "Split", pattern, behavior: "Isolated", invert: false };
  }
  if (!Array.isArray(pretokenizers)) return pre;
  return { ...pre, pretokenizers: pretokenizers.map(withNumbers) };
}

showAsText(Tokenizer.prototype);
