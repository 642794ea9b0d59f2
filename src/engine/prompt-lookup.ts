import type { Drafter, DraftRequest, Drafts } from "./drafter.ts";

/** How far a text is searched for what its end repeats. */
export interface PromptLookupLimits {
  /** Tokens that are drafted, at most. */
  readonly draftTokensMost: number;
  /** Tokens of the text's end that are searched for, at most and at least. */
  readonly ngramMost: number;
  readonly ngramLeast: number;
}

const none: Drafts = { tokens: [] };

/**
 * Drafts from the request's own text (prompt lookup decoding): its last few tokens stood there
 * before, and what followed them may follow again. The longest such end counts, the last place of
 * equal ones; where the text ends before the draft does, it goes on as if it had repeated itself.
 */
export class PromptLookup implements Drafter {
  readonly hasBranches = false;
  readonly #limits: PromptLookupLimits;

  constructor(limits: PromptLookupLimits) {
    this.#limits = limits;
  }

  get draftsMost(): number {
    return this.#limits.draftTokensMost;
  }

  async draft(requests: readonly DraftRequest[]): Promise<readonly Drafts[]> {
    return requests.map(({ tokens }) => this.#of(tokens));
  }

  forget(): void {}

  async [Symbol.asyncDispose](): Promise<void> {}

  #of(tokens: Int32Array): Drafts {
    const { ngramMost, ngramLeast, draftTokensMost } = this.#limits;
    const end = tokens.length - 1;
    let [from, longest] = [-1, ngramLeast - 1];
    for (
      let at = tokens.lastIndexOf(tokens[end], end - 1);
      at >= longest && longest < ngramMost;
      at = at > 0 ? tokens.lastIndexOf(tokens[end], at - 1) : -1
    ) {
      let length = 1;
      while (length < ngramMost && length <= at && tokens[at - length] === tokens[end - length])
        length++;
      if (length > longest) [from, longest] = [at + 1, length];
    }
    if (from < 0) return none;
    const period = tokens.length - from;
    const drafted = (_: unknown, i: number) => tokens[from + (i % period)];
    return { tokens: Array.from({ length: draftTokensMost }, drafted) };
  }
}
