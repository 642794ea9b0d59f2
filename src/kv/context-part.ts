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

/** Of a sequence's first tokens those that are here, without a part all of them. */
export function keptOf(tokens: number, part: ContextPart | undefined): number {
  return part === undefined ? tokens : keptTokens(tokens, part);
}
