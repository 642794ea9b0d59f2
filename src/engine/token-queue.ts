/** Hands values from a loop to one reader, in order; it ends, or fails, after the last. */
export class TokenQueue<T> implements AsyncIterableIterator<T> {
  readonly #values: T[] = [];
  #wake: (() => void) | undefined;
  #ended = false;
  #failure: unknown;

  /** Adds a value. */
  push(value: T): void {
    this.#values.push(value);
    this.#wake?.();
  }

  /** No value follows; with a failure the reader gets it after the last value. */
  end(failure?: unknown): void {
    this.#ended = true;
    this.#failure = failure;
    this.#wake?.();
  }

  async next(): Promise<IteratorResult<T>> {
    while (this.#values.length === 0) {
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#ended) return { done: true, value: undefined };
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    return { done: false, value: this.#values.shift()! };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
