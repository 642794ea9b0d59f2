import type { EngineStats } from "../../engine/index.ts";

/** Counts of drafts between two snapshots of an engine. */
export interface DraftFigures {
  readonly draftedTokens: number;
  readonly acceptedTokens: number;
  /** Tokens that stood each time that a request had drafts; each time one more came behind them. */
  readonly acceptedPerStep: number;
}

/** Undefined where nothing was drafted. */
export function draftFigures(after: EngineStats, before?: EngineStats): DraftFigures | undefined {
  const drafts = after.drafts - (before?.drafts ?? 0);
  if (drafts === 0) return undefined;
  const draftedTokens = after.draftedTokens - (before?.draftedTokens ?? 0);
  const acceptedTokens = after.acceptedTokens - (before?.acceptedTokens ?? 0);
  return { draftedTokens, acceptedTokens, acceptedPerStep: acceptedTokens / drafts };
}

/** The same in words. */
export function draftsText({ draftedTokens, acceptedTokens, acceptedPerStep }: DraftFigures) {
  const each = acceptedPerStep.toFixed(2);
  return `${acceptedTokens} of ${draftedTokens} drafted tokens accepted, ${each} per step`;
}
