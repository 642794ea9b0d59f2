import { maxInt32 } from "./validate.ts";

/** Which keys of a pool's sequences stand at their places, and which may be at other positions. */
export class KeyPlaces {
  /** By slot: leading tokens whose keys stand at their places; maxInt32: all. */
  readonly plainLengths: Int32Array;
  /** Whether keys keep the positions that they were appended with, wherever they move. */
  kept: boolean;
  /** By slot: its first token in the step that it was in last; -1: not known. */
  readonly #firstTokens: Int32Array;
  /** By slot: that step. */
  readonly #steps: Int32Array;
  /** The step that was reserved last, and the positions of its tokens. */
  #step = 0;
  #positions: Int32Array = new Int32Array(0);

  constructor(slots: number, kept: boolean) {
    this.plainLengths = new Int32Array(slots);
    this.kept = kept;
    this.#firstTokens = new Int32Array(slots);
    this.#steps = new Int32Array(slots);
  }

  /** Starts a step, whose positions the caller writes. */
  begin(positions: Int32Array): void {
    this.#step++;
    this.#positions = positions;
  }

  /** Notes where a slot's tokens begin in the step. */
  add(slot: number, firstToken: number): void {
    this.#steps[slot] = this.#step;
    this.#firstTokens[slot] = firstToken;
  }

  /** Notes that the key at a place was given another position. */
  give(slot: number, place: number): void {
    this.kept = true;
    if (place < this.plainLengths[slot]) this.plainLengths[slot] = place;
  }

  /** A slot's keys are those of another one. */
  fork(slot: number, copy: number): void {
    this.plainLengths[copy] = this.plainLengths[slot];
    this.#firstTokens[copy] = this.#firstTokens[slot];
    this.#steps[copy] = this.#steps[slot];
  }

  /** Notes that a slot's last tokens are those of a step before the last. */
  rollback(slot: number): void {
    this.#firstTokens[slot] = -1;
  }

  /** Forgets the tokens of a slot from `length` on. */
  cut(slot: number, length: number): void {
    if (this.plainLengths[slot] >= length) this.plainLengths[slot] = maxInt32;
  }

  /**
   * Notes that, of a slot's last tokens, which begin at `base`, the accepted come together: those
   * from `first` on move, with their positions. Of older steps than the last these are not known.
   */
  compact(slot: number, base: number, accepted: ArrayLike<number>, first: number): void {
    const token = this.#steps[slot] === this.#step ? this.#firstTokens[slot] : -1;
    this.#firstTokens[slot] = -1;
    if (!this.kept || first === accepted.length || this.plainLengths[slot] < base + first) return;
    let i = first;
    while (token >= 0 && this.#positions[token + accepted[i]] === base + i) i++;
    this.plainLengths[slot] = i === accepted.length ? maxInt32 : base + i;
  }
}
