/** What a thread cuts texts by, first of all: a tokenizer.json, and what stands beside it. */
export interface Cutter {
  readonly json: string;
  readonly config: Record<string, unknown>;
}

/** Texts of one caller. */
export interface TextsToCut {
  readonly texts: readonly string[];
  readonly addSpecial: boolean;
}

/** Token ids of each of them. */
export type CutTexts = Int32Array[];
