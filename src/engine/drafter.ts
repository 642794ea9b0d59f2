import type { Generation } from "./request.ts";

/** A request, and its tokens that are known. */
export interface DraftRequest {
  readonly generation: Generation;
  /** Prompt and generated tokens; the last one's keys and values are yet to be computed. */
  readonly tokens: Int32Array;
}

/** Guesses at what comes next: a chain, or a tree by `parents`. */
export interface Drafts {
  readonly tokens: readonly number[];
  /**
   * The node that each draft follows, 0 for the request's last token, i + 1 for draft i, which
   * comes before it; absent: each follows the one before it.
   */
  readonly parents?: readonly number[];
}

/** Who guesses the tokens that come next, so that one step verifies several. */
export interface Drafter extends AsyncDisposable {
  /** Drafts of a request per step, at most. */
  readonly draftsMost: number;
  /** Whether they may be trees. */
  readonly hasBranches: boolean;
  /** Guesses for each of the requests, in their order; empty where there are none. */
  draft(requests: readonly DraftRequest[]): Promise<readonly Drafts[]>;
  /** A request that ended. */
  forget(generation: Generation): void;
}
