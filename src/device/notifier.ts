import { DisposedError } from "../errors.ts";

/** A queue that can be waited for: a stream. */
export interface Awaited {
  readonly device: { readonly label: string; failureNow(): Error | undefined };
  readonly disposed: boolean;
  /** Operations completed so far. */
  completedNow(): number;
  /** Gives the native stream back, once no one waits for it. */
  destroy(): void;
}

interface Reader {
  read(): Promise<{ done: boolean }>;
  cancel(): Promise<void>;
}

interface Waiter {
  stream: Awaited;
  ticket: number;
  resolve: () => void;
  reject: (reason: unknown) => void;
}

/** The reader is kept this long after the last waiter, so that steps in a row share it. */
const graceMs = 20;

/**
 * Turns bytes on the device's pipe into resolved promises. Native threads write one byte when a
 * stream passes a mark; nothing native calls into JavaScript. The pipe is read only while someone
 * waits, so that an idle device keeps no process alive.
 */
export class Notifier {
  readonly #descriptor: number;
  #waiters: Waiter[] = [];
  #reader: Reader | undefined;
  #grace: ReturnType<typeof setTimeout> | undefined;

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  /** Resolves when `stream` has completed `ticket` operations, rejects with its failure. */
  wait(stream: Awaited, ticket: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const waiter: Waiter = { stream, ticket, resolve, reject };
      if (signal !== undefined) this.#follow(waiter, signal);
      this.#waiters.push(waiter);
      this.#open();
    });
  }

  /** True while someone waits for the stream. */
  isWaitedFor(stream: Awaited): boolean {
    return this.#waiters.some((waiter) => waiter.stream === stream);
  }

  /** Stops reading; waiters that are left are settled by what their stream says now. */
  close(): void {
    clearTimeout(this.#grace);
    this.#settle();
    for (const { stream, reject } of this.#waiters) reject(new DisposedError(stream.device.label));
    this.#waiters = [];
    void this.#reader?.cancel();
    this.#reader = undefined;
  }

  #follow(waiter: Waiter, signal: AbortSignal): void {
    const abort = () => {
      this.#waiters = this.#waiters.filter((other) => other !== waiter);
      waiter.reject(signal.reason);
      this.#giveBack(waiter.stream);
    };
    const { resolve, reject } = waiter;
    signal.addEventListener("abort", abort, { once: true });
    waiter.resolve = () => (signal.removeEventListener("abort", abort), resolve());
    waiter.reject = (reason) => (signal.removeEventListener("abort", abort), reject(reason));
  }

  #open(): void {
    clearTimeout(this.#grace);
    if (this.#reader !== undefined) return;
    this.#reader = Bun.file(this.#descriptor).stream().getReader();
    void this.#read(this.#reader);
  }

  async #read(reader: Reader): Promise<void> {
    while (this.#reader === reader) {
      const { done } = await reader.read();
      if (done) return;
      this.#settle();
      if (this.#waiters.length === 0) this.#rest();
    }
  }

  #rest(): void {
    clearTimeout(this.#grace);
    this.#grace = setTimeout(() => {
      if (this.#waiters.length > 0) return;
      void this.#reader?.cancel();
      this.#reader = undefined;
    }, graceMs);
  }

  #settle(): void {
    const waiters = this.#waiters;
    const gone: Awaited[] = [];
    let kept = 0;
    for (let i = 0; i < waiters.length; i++) {
      const waiter = waiters[i];
      if (waiter.stream.completedNow() < waiter.ticket) {
        waiters[kept++] = waiter;
        continue;
      }
      const failure = waiter.stream.device.failureNow();
      if (failure === undefined) waiter.resolve();
      else waiter.reject(failure);
      if (waiter.stream.disposed) gone.push(waiter.stream);
    }
    waiters.length = kept;
    if (gone.length > 0) for (const stream of new Set(gone)) this.#giveBack(stream);
  }

  /** Gives back the native stream of one that was disposed, once no one waits for it. */
  #giveBack(stream: Awaited): void {
    if (stream.disposed && !this.isWaitedFor(stream)) stream.destroy();
  }
}
