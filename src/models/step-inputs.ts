import type { Device } from "../device/device.ts";
import { PinnedRing } from "../device/ring.ts";
import type { Batch } from "../kv/batch.ts";
import type { Sequence } from "../kv/sequence.ts";
import { copyRows } from "../ops/copy-rows.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { AdaptedTokens } from "./adapters.ts";
import type { LogitParts } from "./logit-parts.ts";

/** Most that a step has. */
interface Limits {
  readonly tokenBudget: number;
  readonly rowsMost: number;
}

/** A way to choose tokens, which the graph of a step may hold: what it reads lies in its place. */
export interface Choosing {
  readonly kind: ChoosingKind;
  /** Queues it for the first `rows` of the logits. */
  queue(rows: number): void;
}

/** Graphs are of one of these each: of a step that leaves its logits, or chooses. */
export const choosingKinds = ["none", "largest", "drawn"] as const;

/** One of {@link choosingKinds}. */
export type ChoosingKind = (typeof choosingKinds)[number];

/** A step as its kernels want to know it. */
export interface StepTokens {
  readonly batch: Batch;
  /** Of each request of the batch its adapter and new tokens; adapters rise. */
  readonly jobs: readonly AdaptedTokens[];
  /** Those of the batch, best with such that begin alike side by side. */
  readonly sequences: readonly Sequence[];
  /** Ids of the batch's tokens; ~row is the one that the step before chose for that row. */
  readonly ids: Int32Array;
  /** Of each row whose logits are wanted, its token of the batch. */
  readonly logitRows: Int32Array;
  /** How many rows that are. */
  readonly wanted: number;
  /** What of their logits is wanted where ranks share them. */
  readonly parts: LogitParts;
  /** What chooses a token for each row of logits as part of the step. */
  readonly choosing?: Choosing | undefined;
  /** By request of a step with trees of drafts, as {@link TreeMasks.write} takes them. */
  readonly trees?: readonly (readonly number[] | undefined)[] | undefined;
}

/**
 * What a step's kernels read beside weights and cache, in one block of a fixed place that one copy
 * fills: which ids its tokens have, where they stand, which rows of logits are wanted. Ids that the
 * step before chose never leave the device. Before them lies what comes of a step.
 */
export class StepInputs implements Disposable {
  /** int32 [tokenBudget]: ids of the step's tokens, after {@link gather}. */
  readonly tokens: Tensor;
  /** int32 [tokenBudget]: where the step's tokens stand in their sequences. */
  readonly positions: Tensor;
  /** int32 [rowsMost]: the tokens of the step whose logits are wanted. */
  readonly wantedRows: Tensor;
  readonly #limits: Limits;
  readonly #block: Tensor;
  /** int32 [rowsMost + tokenBudget, 1]: chosen ids, then those that the host knows. */
  readonly #ids: Tensor;
  /** int32 [tokenBudget]: of each token its place among #ids. */
  readonly #places: Tensor;
  readonly #ring: PinnedRing;
  /** By row count. */
  readonly #chosen: Tensor[] = [];
  readonly #status: Tensor[] = [];
  readonly #outcomes: Tensor[] = [];

  constructor(
    readonly device: Device,
    limits: Limits,
  ) {
    const { tokenBudget, rowsMost } = limits;
    this.#limits = limits;
    const ints = 3 * rowsMost + 3 * tokenBudget;
    this.#block = Tensor.zeros(device, [ints], "i32", "step inputs");
    // [status | chosen ids | ids | places | positions | wanted rows]
    const part = (from: number, count: number) => this.#block.slice(0, from, from + count);
    const rest = rowsMost + tokenBudget;
    this.#ids = part(rowsMost, rest).reshape(rest, 1);
    this.#places = part(rowsMost + rest, tokenBudget);
    this.positions = part(rowsMost + rest + tokenBudget, tokenBudget);
    this.wantedRows = part(rowsMost + rest + 2 * tokenBudget, rowsMost);
    this.tokens = Tensor.empty(device, [tokenBudget], "i32", "token ids");
    this.#ring = new PinnedRing(device, "step inputs");
  }

  /**
   * Queues what a step brings to the device; padding has the id 0 at position 0. `positions`: where
   * tokens stand, if not at their places.
   */
  write(step: StepTokens, positions: Int32Array = step.batch.positions): void {
    const { batch, ids, logitRows, wanted } = step;
    const { tokenBudget, rowsMost } = this.#limits;
    const { tokenCount, paddedTokens } = batch;
    const ints = 3 * tokenBudget + rowsMost;
    const { i32 } = this.#ring.take(ints);
    for (let i = 0; i < paddedTokens; i++) {
      const id = i < tokenCount ? ids[i] : 0;
      i32[i] = id;
      i32[tokenBudget + i] = id < 0 ? ~id : rowsMost + i;
      i32[2 * tokenBudget + i] = positions[i];
    }
    for (let row = 0; row < rowsMost; row++)
      i32[3 * tokenBudget + row] = row < wanted ? logitRows[row] : 0;
    const { stream } = this.device;
    this.#ring.upload(stream, this.#block.address + 8 * rowsMost, ints);
  }

  /** int32 [rows]: takes the ids that a step chooses for its first rows of logits. */
  chosenOf(rows: number): Tensor {
    return (this.#chosen[rows] ??= this.#ofRows(1, rows));
  }

  /** int32 [rows]: takes what was odd about the logits of these rows. */
  statusOf(rows: number): Tensor {
    return (this.#status[rows] ??= this.#ofRows(0, rows));
  }

  /** int32 [rowsMost + rows]: both, status first, to be brought to the host at once. */
  outcomeOf(rows: number): Tensor {
    return (this.#outcomes[rows] ??= this.#block.slice(0, 0, this.#limits.rowsMost + rows));
  }

  /** Queues the ids of `count` tokens into {@link tokens}, wherever they came from. */
  gather(count: number): void {
    copyRows(this.device.stream, this.#ids, this.#places.address, this.tokens, count);
  }

  /** The first `rows` of the block's i-th list of all rows. */
  #ofRows(i: number, rows: number): Tensor {
    const from = i * this.#limits.rowsMost;
    return this.#block.slice(0, from, from + rows);
  }

  [Symbol.dispose](): void {
    this.#ring[Symbol.dispose]();
    this.#block[Symbol.dispose]();
    this.tokens[Symbol.dispose]();
  }
}
