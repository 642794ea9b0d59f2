import { OptionError } from "../errors.ts";
import { checkOptions, integer, oneOf, type OptionSchemas } from "../options.ts";
import { requireInteger } from "../require.ts";
import type { Drafter } from "./drafter.ts";
import { PromptLookup } from "./prompt-lookup.ts";

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

/** Who guesses the tokens that come next. */
export type SpeculateOptions = PromptLookupOptions;

const methods = oneOf(["prompt-lookup"]);
const schemas: Record<SpeculateOptions["method"], OptionSchemas> = {
  "prompt-lookup": {
    method: methods,
    draftTokensMost: integer(1, 64),
    ngramMost: integer(1, 64),
    ngramLeast: integer(1, 64),
  },
};

/** Makes who drafts; undefined for nobody. Errors: OptionError. */
export async function drafterOf(
  options: SpeculateOptions | undefined,
): Promise<Drafter | undefined> {
  if (options === undefined) return undefined;
  const known = options !== null && typeof options === "object" && options.method in schemas;
  const schema = schemas[known ? options.method : "prompt-lookup"];
  checkOptions("speculate", schema, ["method"], options, "speculate.");
  const { draftTokensMost = 4, ngramMost = 3, ngramLeast = Math.min(2, ngramMost) } = options;
  requireInteger("speculate.ngramLeast", ngramLeast, 1, ngramMost);
  return new PromptLookup({ draftTokensMost, ngramMost, ngramLeast });
}

/** The error for drafts where several ranks share a model. */
export function notShared(): OptionError {
  const fix = "leave one of the two out: ranks that follow do not know of drafts.";
  return new OptionError("speculate", "an object", "left out beside tp", fix);
}
