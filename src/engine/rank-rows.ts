import type { RankFacts } from "../models/logit-parts.ts";
import { sampleStatus } from "../ops/sample.ts";

/** What ranks told of their parts of a step's logits, read on the host; of one rank nothing. */
export class RankRows {
  readonly #ints: readonly Int32Array[];
  readonly #floats: readonly Float32Array[];
  readonly #rows: number;

  /** @param parts by rank, copies of the facts' tensors */
  constructor(facts: RankFacts | undefined, parts: readonly Uint8Array<ArrayBuffer>[]) {
    this.#rows = facts?.rows ?? 0;
    this.#ints = parts.map(
      ({ buffer, byteOffset, byteLength }) => new Int32Array(buffer, byteOffset, byteLength / 4),
    );
    this.#floats = this.#ints.map(
      ({ buffer, byteOffset, length }) => new Float32Array(buffer, byteOffset, length),
    );
  }

  /** Whether a rank met NaN in a row. */
  hasNaN(row: number): boolean {
    return this.#ints.some((ints) => (ints[row] & sampleStatus.nan) !== 0);
  }

  /**
   * What is to be added to log-probabilities among the candidates, so that they are among all
   * tokens; `likeliest`: that of the row's likeliest candidate.
   */
  shift(row: number, likeliest: number): number {
    if (this.#floats.length === 0) return 0;
    const rows = this.#rows;
    const largest = this.#floats.map((floats) => floats[rows + row]);
    const most = Math.max(...largest);
    // Of each rank's part, the sum of exponentials is that of its largest over its probability.
    const sum = this.#floats.reduce(
      (total, floats, rank) => total + Math.exp(largest[rank] - floats[2 * rows + row] - most),
      0,
    );
    return -likeliest - Math.log(sum);
  }
}
