import type { BenchRequest } from "./load.ts";

/** How a request is put, and since when times count. */
export interface Asking {
  /** Answers that share its prompt. */
  readonly samples: number;
  readonly temperature: number;
  readonly signal: AbortSignal;
  /** Milliseconds since the start. */
  now(): number;
}

/** What a client saw of one request. */
export interface Asked {
  /** When, in milliseconds from the start. */
  readonly askedMs: number;
  /** Of each answer, when each of its pieces came: a token, or what a server sent at once. */
  readonly answersMs: readonly (readonly number[])[];
  /** Tokens, as the server counts them. */
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
  /** Why it was not answered whole. */
  readonly failure?: string;
}

/** Whom requests are put to. */
export interface Target {
  /** Puts a request and reads its answers to their ends. */
  ask(request: BenchRequest, asking: Asking): Promise<Asked>;
}
