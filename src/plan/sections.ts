/** Sections start at multiples of so many ints. */
export const sectionUnit = 16;

/** A growing block of int32 with a place to write at; it keeps its memory from plan to plan. */
export class Sections {
  data: Int32Array;
  /** Where the next int is written. */
  at = 0;
  /** What is written to when no other block is given, or when that is too small. */
  #own: Int32Array = new Int32Array(4096);

  constructor() {
    this.data = this.#own;
  }

  /** Starts again: in the given block, which is left for a larger one once it is full. */
  start(data = this.#own): void {
    this.data = data;
    this.at = 0;
  }

  /** Makes room for `ints` in all: `data` may be another array then. */
  ensure(ints: number): void {
    const before = this.data;
    if (ints <= before.length) return;
    if (ints > this.#own.length) this.#own = new Int32Array(Math.max(ints, 2 * this.#own.length));
    this.#own.set(before);
    this.data = this.#own;
  }

  /** Zeros up to `end`, and moves on to it. */
  clearTo(end: number): void {
    this.ensure(end);
    this.data.fill(0, this.at, end);
    this.at = end;
  }

  /** Ends a section after `end` ints, over zeros: equal plans are equal bit for bit. */
  close(end: number): void {
    this.at = end;
    this.clearTo(Math.ceil(end / sectionUnit) * sectionUnit);
  }

  /** Writes a section: `count` ints of `source`, then zeros up to `capacity`. Returns its start. */
  copy(source: Int32Array, count: number, capacity: number): number {
    const start = this.at;
    // What an array holds past its count is overwritten below: whole arrays copy fastest.
    const whole = source.length <= 4 * count + 64;
    this.ensure(start + Math.max(capacity, whole ? source.length : count));
    const { data } = this;
    if (whole) data.set(source, start);
    else for (let i = 0; i < count; i++) data[start + i] = source[i];
    data.fill(0, start + count, start + capacity);
    this.close(start + capacity);
    return start;
  }
}
