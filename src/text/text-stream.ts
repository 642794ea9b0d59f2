import type { Tokenizer } from "./tokenizer.ts";

/** Stands where bytes are not, or not yet, whole characters. */
const replacement = "\ufffd";
/** Tokens that one character has at most: a byte each. More never become one. */
const characterTokens = 4;

/**
 * The text of tokens as they come: each call gives what became whole. A character whose bytes are
 * spread over tokens comes with its last one. Each token is decoded with some before it, since a
 * tokenizer may write a word's first space by what stands before (vLLM's detokenizer does so too).
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
    const whole = this.#told === this.#ids.length ? this.#tokenizer.wholeTextOf(id) : undefined;
    if (whole !== undefined) {
      this.#ids = [id];
      this.#told = 1;
      return (this.#before = whole);
    }
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

  /** What is left at the end: bytes that never became a character, as U+FFFD. */
  end(): string {
    const rest = this.#tokenizer.decode(this.#ids).slice(this.#before.length);
    this.#ids = [];
    this.#told = 0;
    this.#before = "";
    return rest;
  }
}
