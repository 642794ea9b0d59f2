import { percentilesOf, type PercentilesOrNull } from "../../replay/metrics.ts";

/** Milliseconds between two looks. */
const every = 5;

/** How late timers of this thread run: what keeps it from answering anybody meanwhile. */
export class LoopLag implements Disposable {
  readonly #late: number[] = [];
  readonly #timer: Timer;

  constructor() {
    let last = performance.now();
    this.#timer = setInterval(() => {
      const now = performance.now();
      this.#late.push(Math.max(0, now - last - every));
      last = now;
    }, every);
  }

  /** Milliseconds; null before the first look. */
  get figures(): PercentilesOrNull & { max: number | null } {
    const sorted = Float64Array.from(this.#late).sort();
    return { ...percentilesOf(sorted), max: sorted.at(-1) ?? null };
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
