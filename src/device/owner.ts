import { DisposedError } from "../errors.ts";

/** Base of everything that owns native memory: names itself in errors and is disposed once. */
export abstract class Owner implements Disposable {
  #disposed = false;

  /** @param label what errors and reports call it */
  constructor(readonly label: string) {}

  /** True once disposed. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** @internal Throws DisposedError after disposal. */
  guard(): void {
    if (this.#disposed) throw new DisposedError(this.label);
  }

  /**
   * Frees what is owned, after the work queued so far; never blocks. A second call does nothing.
   */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.release();
  }

  protected abstract release(): void;
}
