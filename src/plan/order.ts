import { type IntList, Piece, pieceInts } from "./list.ts";

const buckets = 1024;

/** The order in which processors take the pieces of each class. */
export class PieceOrder {
  /** The piece at each place: places [starts[c], starts[c + 1]) are those of class c. */
  pieces = new Int32Array(256);
  readonly starts: Int32Array;
  readonly #offsets = new Int32Array(buckets + 1);

  constructor(classes: number) {
    this.starts = new Int32Array(classes + 1);
  }

  /** All pieces from `first` on, as they were made, are those of class `kernelClass`. */
  asMade(list: IntList, kernelClass: number, first: number): void {
    this.#grow(list.length);
    const { pieces } = this;
    for (let p = first; p < list.length; p++) pieces[p] = p;
    this.starts[kernelClass] = first;
    this.starts[kernelClass + 1] = list.length;
  }

  /**
   * As asMade, what weighs most first, ties by lowest index; weights within a thousandth of the
   * largest count as equal.
   */
  heaviestFirst(list: IntList, kernelClass: number, first: number): void {
    this.#grow(list.length);
    this.starts[kernelClass] = first;
    this.starts[kernelClass + 1] = list.length;
    const { data } = list;
    const { pieces } = this;
    const offsets = this.#offsets;
    offsets.fill(0);
    let most = 1;
    for (let p = first; p < list.length; p++) {
      const weight = data[p * pieceInts + Piece.weight];
      if (weight > most) most = weight;
    }
    const scale = (buckets - 1) / most;
    for (let p = first; p < list.length; p++) {
      offsets[buckets - ((data[p * pieceInts + Piece.weight] * scale) | 0)]++;
    }
    for (let b = 1; b <= buckets; b++) offsets[b] += offsets[b - 1];
    for (let p = first; p < list.length; p++) {
      const bucket = buckets - 1 - ((data[p * pieceInts + Piece.weight] * scale) | 0);
      pieces[first + offsets[bucket]++] = p;
    }
  }

  #grow(length: number): void {
    if (this.pieces.length >= length) return;
    const grown = new Int32Array(2 * length);
    grown.set(this.pieces);
    this.pieces = grown;
  }
}
