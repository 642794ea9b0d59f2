import type { SpeculateOptions } from "../../engine/index.ts";

/** Options of drafts, as the command line parsed them. */
export interface SpeculateArguments {
  speculate?: "prompt-lookup";
  draftTokens?: number;
}

/** What they say to an engine. */
export function speculateOf({ speculate, draftTokens }: SpeculateArguments): {
  speculate?: SpeculateOptions;
} {
  if (speculate === undefined) return {};
  const sizes = draftTokens === undefined ? {} : { draftTokensMost: draftTokens };
  return { speculate: { method: speculate, ...sizes } };
}
