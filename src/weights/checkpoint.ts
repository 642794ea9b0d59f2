import type { TokenizerJson } from "../text/tokenizer.ts";
import type { StoredTensor } from "./stored.ts";

/** A model on disk, in Hugging Face's names and orders whatever its files are. */
export interface Checkpoint {
  readonly path: string;
  /** What config.json says. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** True: there are no tensors, and weights are made up by whoever loads it. */
  readonly isRandom?: boolean;
  readonly tokenizer: {
    readonly json: TokenizerJson;
    readonly config: Readonly<Record<string, unknown>>;
  };
  /** Jinja; undefined for a model without turns. */
  readonly chatTemplate: string | undefined;
  /** Tokens that templates name: `bos_token`, `eos_token`. */
  readonly templateTokens: Readonly<Record<string, string>>;
  /** How its makers sample, where they say so. */
  readonly sampling: {
    readonly temperature?: number;
    readonly topK?: number;
    readonly topP?: number;
    readonly repetitionPenalty?: number;
  };
  /** Ids that end a text. */
  readonly endTokens: readonly number[];
}
