import { native } from "../ffi/library.ts";
import { check } from "../ffi/status.ts";
import { Owner } from "./owner.ts";
import type { Stream } from "./stream.ts";

/** Something a graph captured that must still hold when it is replayed; throws when it does not. */
export type ReplayCheck = () => void;

/** A captured list of launches and copies, replayed with one call. Contents change, addresses do not. */
export class Graph extends Owner {
  readonly #checks: ReplayCheck[];

  constructor(
    /** Native handle. */
    readonly handle: number,
    checks: ReplayCheck[],
    label: string,
  ) {
    super(label);
    this.#checks = checks;
  }

  /**
   * Queues all captured work on `stream`. Every plan that was captured is checked first: one that is
   * missing, stale or over its bucket throws PlanError and nothing is launched.
   */
  replay(stream: Stream): void {
    this.guard();
    stream.guard();
    for (let i = 0; i < this.#checks.length; i++) this.#checks[i]!();
    check(native().fb_graph_launch(this.handle as never, stream.handle as never), this.label);
  }

  protected override release(): void {
    native().fb_graph_free(this.handle as never);
  }
}
