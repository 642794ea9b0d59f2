import { type Tokenizer, utf8Decoder } from "./tokenizer.ts";

/** Stands where bytes are not, or not yet, whole characters. */
const replacement = "\ufffd";
/** Tokens that one character has at most: a byte each. More never become one. */
const characterTokens = 4;

/**
 * The text of tokens as they come: each call gives what became whole. A character whose bytes are
 * spread over tokens comes with its last one. Where tokens are bytes, these are decoded as they
 * come; else each token is decoded with some before it, since a tokenizer may write a word's first
 * space by what stands before (vLLM's detokenizer does so too).
 */
export class TextStream {
  readonly #tokenizer: Tokenizer;
  readonly #shown: ReadonlyMap<number, string>;
  /** Tokens from the last two cuts on. */
  #ids: number[] = [];
  /** How many of them gave text already. */
  #told = 0;
  /** What those gave. */
  #before = "";
  /** Of bytes; made for the first that are no whole character. */
  #decoder: TextDecoder | undefined;
  /** Whether it may hold a part of a character. */
  #isOpen = false;

  /** @param shown special tokens that are text here, by id */
  constructor(tokenizer: Tokenizer, shown: ReadonlyMap<number, string> = new Map()) {
    this.#tokenizer = tokenizer;
    this.#shown = shown;
  }

  /** What the next token adds; "" for one that is special or ends within a character. */
  push(id: number): string {
    if (this.#tokenizer.isSpecial(id)) {
      const shown = this.#shown.get(id);
      return shown === undefined ? "" : this.end() + shown;
    }
    const bytes = this.#tokenizer.pieceOf(id);
    if (bytes !== undefined) return this.#pushBytes(id, bytes);
    this.#ids.push(id);
    const before = this.#before;
    const now = this.#tokenizer.decode(this.#ids);
    const waits = now.endsWith(replacement) && this.#ids.length - this.#told <= characterTokens;
    if (now.length <= before.length || waits) return "";
    this.#ids = this.#ids.slice(this.#told);
    this.#told = this.#ids.length;
    this.#before =
      this.#told === 1 ? this.#tokenizer.textOf(id) : this.#tokenizer.decode(this.#ids);
    return now.slice(before.length);
  }

  #pushBytes(id: number, bytes: Uint8Array): string {
    if (bytes.length === 0) return "";
    const whole = this.#tokenizer.wholeTextOf(id);
    if (whole !== undefined && !this.#isOpen) return whole;
    this.#isOpen = whole === undefined;
    this.#decoder ??= utf8Decoder();
    return this.#decoder.decode(bytes, { stream: true });
  }

  /** What is left at the end: bytes that never became a character, as U+FFFD. */
  end(): string {
    this.#isOpen = false;
    if (this.#decoder !== undefined) return this.#decoder.decode();
    const rest = this.#tokenizer.decode(this.#ids).slice(this.#before.length);
    this.#ids = [];
    this.#told = 0;
    this.#before = "";
    return rest;
  }
}
