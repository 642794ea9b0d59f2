import type { Config } from "./config.ts";
import type { Kit } from "./kit.ts";
import type { DecoderShape } from "./shape.ts";
import type { WeightSource } from "./weight-source.ts";

/** One architecture of models: its sizes, its weights by name, and the order of its operators. */
export interface ModelFamily<Weights = unknown> {
  /** Values of `model_type` in config.json that it takes. */
  readonly modelTypes: readonly string[];
  /** Errors: CheckpointError for sizes that are missing or that it does not know. */
  shape(config: Config): DecoderShape;
  /** Puts the weights on the device. Errors: CheckpointError, OutOfMemoryError. */
  weights(source: WeightSource, shape: DecoderShape): Weights;
  /** Queues one step and returns the logits of the rows that want them. */
  forward(kit: Kit, weights: Weights): void;
}
