import { DisposedError } from "../errors.ts";
import { showAsText } from "../shown.ts";

let disposals = 0;

/** How many owners this process has disposed: while it stays, whoever could be used still can. */
export function disposalCount(): number {
  return disposals;
}

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

  /** @internal Whether a call would throw DisposedError. */
  get gone(): boolean {
    try {
      this.guard();
      return false;
    } catch (error) {
      if (error instanceof DisposedError) return true;
      throw error;
    }
  }

  /** @internal What console.log and JSON show. */
  toString(): string {
    return `${this.constructor.name} ${this.label}${this.gone ? " (disposed)" : ""}`;
  }

  /**
   * Frees what is owned, after the work queued so far; never blocks. A second call does nothing.
   */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    disposals++;
    this.release();
  }

  protected abstract release(): void;
}

showAsText(Owner.prototype);
