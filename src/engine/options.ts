import type { DeviceKind } from "../device/open.ts";
import { OptionError } from "../errors.ts";
import { checkOptions, flag, integer, oneOf, type OptionSchemas, unchecked } from "../options.ts";
import type { LoadProgress } from "../models/load-count.ts";
import type { SpeculateOptions } from "./speculate.ts";

/** How much an engine takes, and where it runs. */
export interface EngineOptions {
  /** Default "cpu". */
  device?: DeviceKind | "auto";
  /** Of weights that are not quantised, and of activations; default f32 on the CPU, else bf16. */
  dtype?: "f32" | "f16" | "bf16";
  /**
   * Pages of the KV cache. Default: on the CPU for two contexts, in at most 0.4 of free memory; on
   * a GPU for as many as there are requests, in at most 0.8.
   */
  pages?: number;
  /** Tokens per page; default 16. */
  pageSize?: number;
  /** Most tokens per step; default 512, on a GPU 2048. */
  tokenBudget?: number;
  /** Most requests that run at once; default 64, on a GPU 256. */
  maxBatch?: number;
  /** Reads a prefix that requests share once for all of them, where that pays; default true. */
  cascade?: boolean;
  /**
   * False: beside weights in codes a CPU may round activations to 16 bits, by groups of 32 of one
   * scale, where that is faster; logits move by 1e-4 of theirs. Default false.
   */
  exact?: boolean;
  /**
   * True: a request has the same tokens and log-probabilities, bit for bit, whatever else runs. See
   * docs/engine.md for what it costs. Default false.
   */
  deterministic?: boolean;
  /**
   * True, for measuring: the path is a shape such as "llama-8b", or a config.json, and weights are
   * random. Nothing but its length ends an answer then. Default false.
   */
  randomWeights?: boolean;
  /**
   * Processes that share the model, each with a part of every layer (tensor parallel): as many as a
   * launcher started. Those of a rank above 0 call {@link Engine.follow}. Default 1.
   */
  tp?: number;
  /**
   * Ranks that each keep a part of the keys of every request (decode context parallel), for
   * contexts that do not fit one: as many as `tp`, or 1, the default. A page holds `pageSize`
   * tokens of each rank.
   */
  dcp?: number;
  /**
   * Guesses several tokens per request and step, which one step verifies; the tokens that come are
   * those that would have come without. Default: none.
   */
  speculate?: SpeculateOptions;
  /** Low-rank adapters (LoRA) that requests may name: folders of PEFT by name. Default: none. */
  adapters?: Readonly<Record<string, string>>;
  /**
   * Is told now and then how far the weights are, while the load takes this thread: what it is to
   * show, it has to write at once.
   */
  onLoad?: (progress: LoadProgress) => void;
}

/** What each of them may be. */
export const engineSchemas: OptionSchemas = {
  device: {
    type: "string",
    pattern: "^(auto|cpu|cuda:\\d{1,3})$",
    description: "cpu, auto or cuda:0",
  },
  dtype: oneOf(["f32", "f16", "bf16"]),
  pages: integer(1, 1 << 24),
  pageSize: integer(1, 4096),
  tokenBudget: integer(1, 1 << 20),
  maxBatch: integer(1, 1 << 16),
  cascade: flag,
  exact: flag,
  deterministic: flag,
  randomWeights: flag,
  tp: integer(1, 1024),
  dcp: integer(1, 1024),
  speculate: unchecked("an object with a method"),
  adapters: {
    type: "object",
    additionalProperties: { type: "string" },
    description: "an object of folders by name",
  },
  onLoad: unchecked("a function"),
};

/** Errors: OptionError. */
export function checkEngineOptions(options: EngineOptions): void {
  checkOptions("options", engineSchemas, [], options);
  const { onLoad } = options;
  if (onLoad === undefined || typeof onLoad === "function") return;
  const fix = "pass one that takes { bytes, totalBytes }.";
  throw new OptionError("onLoad", onLoad, "a function", fix);
}

/** Each request has a token in a step. Errors: OptionError. */
export function requireBatch(maxBatch: number, tokenBudget: number): void {
  if (maxBatch <= tokenBudget) return;
  const fix = `give maxBatch at most ${tokenBudget}, or raise tokenBudget to ${maxBatch} too.`;
  throw new OptionError("maxBatch", maxBatch, `at most tokenBudget, ${tokenBudget}`, fix);
}
