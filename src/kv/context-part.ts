import type { StepArrays } from "./step-batch.ts";

/**
 * Whose keys this process keeps of every sequence, where several share them (decode context
 * parallel): those of the tokens whose position is `rank` modulo `ranks`. A page then stands for
 * `ranks` times the tokens that it holds here.
 */
export interface ContextPart {
  readonly rank: number;
  readonly ranks: number;
}

/** Of a sequence's first tokens, those that are kept here. */
export function keptTokens(tokens: number, { rank, ranks }: ContextPart): number {
  return tokens <= rank ? 0 : Math.ceil((tokens - rank) / ranks);
}

/**
 * Makes a step that was written for whole sequences one over the keys that are kept here: lengths
 * count these, the other new tokens are not appended, and keys are told by their positions.
 */
export function keepPart(step: StepArrays, part: ContextPart): void {
  const { kvLengths, requestCount, tokenCount, slotMappings, plain } = step;
  const { rank, ranks } = part;
  for (let r = 0; r < requestCount; r++) kvLengths[r] = keptTokens(kvLengths[r], part);
  // Pages begin at multiples of `ranks`, so that a token's place in its page is its owner, too.
  for (const places of slotMappings)
    for (let token = 0; token < tokenCount; token++)
      places[token] = places[token] % ranks === rank ? Math.floor(places[token] / ranks) : -1;
  step.customPositions = true;
  step.plainLengths = plain.fill(0, 0, requestCount);
}
