import type { IntList } from "./list.ts";
import type { Intervals } from "./merges.ts";
import type { PieceOrder } from "./order.ts";
import type { Tiles } from "./tiles.ts";

/** What a planner makes of a batch, in lists that it refills for each. */
export interface Schedule {
  /** Packed rows against their visible keys. */
  readonly tiles: Tiles;
  /** Parts of the tiles' keys, one record for each KV head. */
  readonly pieces: IntList;
  readonly order: PieceOrder;
  /** Rows whose state is in several pieces, or in none. */
  readonly intervals: Intervals;
}
