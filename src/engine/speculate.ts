import type { Device } from "../device/device.ts";
import { OptionError } from "../errors.ts";
import { Model, type ModelOptions } from "../models/model.ts";
import { checkOptions, integer, list, oneOf, type OptionSchemas } from "../options.ts";
import { requireInteger } from "../require.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { openCheckpoint } from "../weights/open.ts";
import { randomCheckpoint } from "../weights/random.ts";
import { DraftModel, treeSizes } from "./draft-model.ts";
import type { Drafter } from "./drafter.ts";
import { PromptLookup } from "./prompt-lookup.ts";
import { Prompts } from "./prompts.ts";

/** Drafts from the request's own text: what followed its last tokens where they stood before. */
export interface PromptLookupOptions {
  method: "prompt-lookup";
  /** Tokens that are drafted per step, at most; default 4. */
  draftTokensMost?: number;
  /** Last tokens of the text that are searched for, at most; default 3. */
  ngramMost?: number;
  /** The same at least; default 2. */
  ngramLeast?: number;
}

/** Drafts by a smaller model. */
export interface DraftModelOptions {
  method: "draft";
  /** A folder or a GGUF file, as of the model itself; its vocabulary must be the same. */
  model: string;
  /** Tokens that are drafted one behind the other, at most; default 4. */
  draftTokensMost?: number;
  /**
   * By level, how many drafts follow each of the level before: [3, 2] are six branches. Default []:
   * one each, a chain.
   */
  branches?: readonly number[];
}

/** Who guesses the tokens that come next. */
export type SpeculateOptions = PromptLookupOptions | DraftModelOptions;

/** Drafts of a request per step, at most: each is a row of logits. */
const nodesMost = 64;
const method = oneOf(["prompt-lookup", "draft"]);
const schemas: Record<SpeculateOptions["method"], OptionSchemas> = {
  "prompt-lookup": {
    method,
    draftTokensMost: integer(1, nodesMost),
    ngramMost: integer(1, 64),
    ngramLeast: integer(1, 64),
  },
  draft: {
    method,
    model: { type: "string", minLength: 1, description: "a folder or a .gguf file" },
    draftTokensMost: integer(1, nodesMost),
    branches: list(integer(1, nodesMost), "a list of how many drafts follow each, by level"),
  },
};

/**
 * Throws an OptionError for options that are not as they should be, and for branches where keys may
 * not move as drafts beside one another make them: in a `deterministic` engine, where ranks share
 * the keys of each request.
 */
export function checkSpeculate(
  options: SpeculateOptions,
  { deterministic = false, splitsContext }: { deterministic?: boolean; splitsContext: boolean },
): void {
  const isDraft = (options as SpeculateOptions | null)?.method === "draft";
  const schema = schemas[isDraft ? "draft" : "prompt-lookup"];
  const required = isDraft ? ["method", "model"] : ["method"];
  checkOptions("speculate", schema, required, options, "speculate.");
  if (options.method === "prompt-lookup") {
    const { ngramMost = ngramMostDefault, ngramLeast = 1 } = options;
    requireInteger("speculate.ngramLeast", ngramLeast, 1, ngramMost);
    return;
  }
  const { draftTokensMost = draftTokensDefault, branches = [] } = options;
  requireInteger("speculate.branches.length", branches.length, 0, draftTokensMost);
  const { nodes, leaves } = treeSizes({ draftTokensMost, branches });
  if ((deterministic || splitsContext) && leaves > 1) {
    const allowed = `left out beside ${deterministic ? "deterministic" : "dcp"}`;
    throw new OptionError("speculate.branches", branches.join(", "), allowed, "draft a chain.");
  }
  requireInteger("drafts of speculate.branches", nodes, 1, nodesMost);
}

const draftTokensDefault = 4;
const ngramMostDefault = 3;

/** How many drafts of a request a step has at most, and whether they may be trees. */
export function draftsOf(options: SpeculateOptions): Pick<Drafter, "draftsMost" | "hasBranches"> {
  const { draftTokensMost = draftTokensDefault } = options;
  if (options.method === "prompt-lookup")
    return { draftsMost: draftTokensMost, hasBranches: false };
  const { branches = [] } = options;
  const { nodes, leaves } = treeSizes({ draftTokensMost, branches });
  return { draftsMost: nodes, hasBranches: leaves > 1 };
}

/** What a drafter is made for. */
export interface DrafterContext {
  readonly device: Device;
  readonly tokenizer: Tokenizer;
  readonly randomWeights: boolean;
  /** Of the model. */
  readonly sizes: Omit<ModelOptions, "drafter">;
}

/** Part of the memory for pages that a draft model takes: its tokens are smaller, too. */
const memoryPart = 0.2;

/** Makes who drafts, if somebody does. Errors: OptionError, and what loading a model throws. */
export async function drafterOf(
  options: SpeculateOptions | undefined,
  { device, tokenizer, randomWeights, sizes }: DrafterContext,
): Promise<Drafter | undefined> {
  if (options === undefined) return undefined;
  const { draftTokensMost = draftTokensDefault } = options;
  if (options.method === "prompt-lookup") {
    const { ngramMost = ngramMostDefault, ngramLeast = Math.min(2, ngramMost) } = options;
    return new PromptLookup({ draftTokensMost, ngramMost, ngramLeast });
  }
  const { model: path, branches = [] } = options;
  const checkpoint = randomWeights
    ? randomCheckpoint(path, "speculate.model")
    : openCheckpoint(path);
  const different = new Prompts(checkpoint).tokenizer.firstDifference(tokenizer);
  if (different >= 0) {
    const allowed = `a model of the same vocabulary (token ${different} is another)`;
    throw new OptionError("speculate.model", path, allowed, "take one of the same family.");
  }
  const tree = { draftTokensMost, branches };
  const { tokenBudget, maxBatch } = sizes;
  const { leaves } = treeSizes(tree);
  // Each branch goes on in a copy of the page that its request is in.
  const extraPages = maxBatch * leaves * (1 + Math.ceil(draftTokensMost / sizes.pageSize));
  const model = await Model.load(device, checkpoint, {
    ...sizes,
    extraPages,
    memoryPart,
    maxBatch: Math.min(tokenBudget, maxBatch * leaves),
    maxSequences: maxBatch * (1 + leaves),
    cascade: false,
    // What it guesses changes no answer, and one rank alone guesses.
    deterministic: false,
    ranks: undefined,
    splitsContext: false,
  });
  return new DraftModel(model, tree, { tokenBudget, maxBatch });
}
