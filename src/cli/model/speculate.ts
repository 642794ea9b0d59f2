import type { SpeculateOptions } from "../../engine/index.ts";

/** Options of drafts, as the command line parsed them. */
export interface SpeculateArguments {
  /** prompt-lookup, or a draft model. */
  speculate?: string;
  draftTokens?: number;
  branches?: number[];
}

/** What they say to an engine; `pathOf` gives the path of a model. */
export async function speculateOf(
  { speculate, draftTokens, branches }: SpeculateArguments,
  pathOf: (model: string) => Promise<string>,
): Promise<{ speculate?: SpeculateOptions }> {
  if (speculate === undefined) return {};
  const sizes = {
    ...(draftTokens !== undefined && { draftTokensMost: draftTokens }),
    ...(branches !== undefined && { branches }),
  };
  if (speculate === "prompt-lookup") return { speculate: { method: speculate, ...sizes } };
  return { speculate: { method: "draft", model: await pathOf(speculate), ...sizes } };
}
