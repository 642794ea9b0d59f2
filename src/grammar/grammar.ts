import { OptionError } from "../errors.ts";
import { Matcher, type State } from "./matcher.ts";
import type { Rule } from "./rule.ts";
import type { TokenTrie } from "./token-trie.ts";

/** What texts a rule allows, in tokens of one vocabulary; many texts may follow it at once. */
export class Grammar {
  readonly matcher: Matcher;

  /**
   * @param name what the rule is, for errors
   * Errors: OptionError for a rule without texts.
   */
  constructor(
    rule: Rule,
    readonly trie: TokenTrie,
    readonly bytesOf: (token: number) => Uint8Array | undefined,
    name: string,
  ) {
    this.matcher = new Matcher(rule);
    const { frames, mayEnd } = this.matcher.start;
    if (frames.length > 0 || mayEnd) return;
    throw new OptionError(
      name,
      "a schema that no text fits",
      "one that some text fits",
      "mend it.",
    );
  }
}

/** How far one text has got in a grammar. */
export class GrammarState {
  readonly #grammar: Grammar;
  readonly #endTokens: readonly number[];
  /** Null after a token that was not allowed. */
  #state: State | null;

  /** @param endTokens what may come where the text may end */
  constructor(grammar: Grammar, endTokens: readonly number[]) {
    this.#grammar = grammar;
    this.#endTokens = endTokens;
    this.#state = grammar.matcher.start;
  }

  /** Writes a bit for each token that may come next, from the lowest on. */
  allowed(bits: Int32Array): void {
    bits.fill(0);
    if (this.#state === null) return;
    const { trie, matcher } = this.#grammar;
    bits.set(trie.allowed(matcher, this.#state));
    if (this.#state.mayEnd)
      for (const token of this.#endTokens) bits[token >> 5] |= 1 << (token & 31);
  }

  /** The next token of the text. */
  push(token: number): void {
    const bytes = this.#grammar.bytesOf(token);
    if (this.#state === null || bytes === undefined) return;
    if (this.#state.mayEnd && this.#endTokens.includes(token)) return;
    this.#state = this.#grammar.matcher.run(this.#state, bytes);
  }

  /** Whether the text is whole: nothing may follow. */
  get isWhole(): boolean {
    return this.#state !== null && this.#state.mayEnd && this.#state.frames.length === 0;
  }
}
