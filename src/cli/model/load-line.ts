import type { LoadProgress } from "../../engine/index.ts";

/** Milliseconds between two updates: a terminal's line moves, a log grows slowly. */
const movePeriod = 100;
const linePeriod = 10_000;
/** What loads faster than this shows none. */
const quietMs = 500;
const clear = "\r\x1b[K";

/** Where progress is written: a terminal or not. */
export type LoadStream = Pick<NodeJS.WriteStream, "write" | "isTTY">;

/** How far a model's weights are: one line on a terminal that moves, now and then one in a log. */
export class LoadLine {
  readonly #started: number;
  #shownAt: number;
  #isShown = false;

  constructor(
    private readonly stream: LoadStream,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.#started = now();
    this.#shownAt = this.#started;
  }

  show(progress: LoadProgress): void {
    if (progress.bytes === progress.totalBytes) return this.end();
    const now = this.now();
    const { isTTY } = this.stream;
    if (now - this.#started < quietMs) return;
    if (now - this.#shownAt < (isTTY ? movePeriod : linePeriod)) return;
    this.#shownAt = now;
    const line = `flashbun: ${loadSaid(progress, (now - this.#started) / 1000)}`;
    this.stream.write(isTTY ? `${clear}${line}` : `${line}\n`);
    this.#isShown = isTTY;
  }

  /** Makes room for what is said next. */
  end(): void {
    if (this.#isShown) this.stream.write(clear);
    this.#isShown = false;
  }

  [Symbol.dispose](): void {
    this.end();
  }
}

function loadSaid({ bytes, totalBytes }: LoadProgress, seconds: number): string {
  const gigabytes = (count: number) => (count / 1e9).toFixed(count < 1e9 ? 2 : 1);
  const of = totalBytes === undefined ? "" : ` of ${gigabytes(totalBytes)}`;
  return `loading weights, ${gigabytes(bytes)}${of} GB, ${gigabytes(bytes / seconds)} GB/s`;
}
