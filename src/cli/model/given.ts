import { isModelHere, modelFix } from "../../engine/places.ts";
import { OptionError } from "../../errors.ts";
import type { SpeculateArguments } from "./speculate.ts";

/** The name of the model that pip fetches. */
export const builtIn = "smollm2";

/** What a model may be. */
export const modelPlaces =
  "a Hugging Face folder, a .gguf file, org/name in the hub's cache, or smollm2";

/** Options of an engine that exclude one another, or name a model. */
interface Given extends SpeculateArguments {
  randomWeights?: boolean;
  tp?: number;
  dcp?: number;
  deterministic?: boolean;
}

/** Throws an OptionError for what cannot go together or is not there, before anything is loaded. */
export function requireGiven(model: string, options: Given): void {
  requireRanks(options);
  requireDrafts(options);
  // Then both are shapes.
  if (options.randomWeights) return;
  const { speculate = "prompt-lookup" } = options;
  if (model !== builtIn) requireHere("model", model, modelPlaces);
  if (![builtIn, "prompt-lookup"].includes(speculate))
    requireHere("--speculate", speculate, "prompt-lookup or a model's path");
}

/** Throws an OptionError where the model of embeddings is not there. */
export function requireEmbeddings(path: string | undefined): void {
  const allowed = "a folder of a BERT or a decoder";
  if (path === undefined || isModelHere(path)) return;
  throw new OptionError("--embeddings", path, allowed, "check the path.");
}

function requireHere(option: string, path: string, allowed: string): void {
  if (!isModelHere(path)) throw new OptionError(option, path, allowed, modelFix(path));
}

function requireRanks(options: Given): void {
  const { tp = 1, dcp = 1, deterministic, branches } = options;
  const fix = "leave one of the two out.";
  if (tp > 1 && deterministic)
    throw new OptionError("--tp", tp, "left out beside --deterministic", fix);
  if (dcp > 1 && branches?.some((count) => count > 1))
    throw new OptionError("--branches", branches.join(), "left out beside --dcp", fix);
  if (dcp === 1 || dcp === tp) return;
  const allowed = tp === 1 ? "1 without --tp" : `1 or ${tp}, as many ranks as --tp says`;
  throw new OptionError("--dcp", dcp, allowed, `give --tp ${dcp} too.`);
}

function requireDrafts({ speculate, draftTokens, branches }: SpeculateArguments): void {
  const beside = "beside --speculate";
  if (speculate === undefined && branches !== undefined)
    throw new OptionError("--branches", branches.join(), beside, "add --speculate MODEL.");
  if (speculate === undefined && draftTokens !== undefined) {
    const fix = "add --speculate prompt-lookup, or --speculate MODEL.";
    throw new OptionError("--draft-tokens", draftTokens, beside, fix);
  }
  if (speculate !== "prompt-lookup" || branches === undefined) return;
  const allowed = "left out with prompt-lookup";
  throw new OptionError("--branches", branches.join(), allowed, "give --speculate a model.");
}
