/** What a Hugging Face `tokenizer.json` holds. */
export type TokenizerJson = Record<string, unknown> & {
  readonly model: { readonly vocab: unknown; readonly [field: string]: unknown };
  readonly added_tokens?: readonly AddedToken[];
  readonly pre_tokenizer?: unknown;
};

/** A token beside the vocabulary, such as one that ends a turn. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}
