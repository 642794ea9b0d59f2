import type { Cutter, CutTexts, TextsToCut } from "./cut-texts.ts";
import type { Tokenizer } from "./tokenizer.ts";

interface Job extends TextsToCut {
  readonly resolve: (cut: CutTexts) => void;
}

/**
 * Cuts long texts into tokens on a thread of its own, one caller after another, so that the event
 * loop goes on. The thread starts with the first of them, and keeps no process alive that waits for
 * nothing. Where it cannot start (a bundle without its file), texts are cut here.
 */
export class TokenizerThread implements Disposable {
  #worker: Worker | undefined;
  #isLost = false;
  /** The first of them is at the worker. */
  readonly #jobs: Job[] = [];
  readonly #disposed = new AbortController();

  /** @param cutter what the worker makes its tokenizer of; it is asked for when that starts */
  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly cutter: () => Cutter,
  ) {}

  /**
   * Token ids of each text. Errors: the signal's reason, at once, and the one that the thread is
   * disposed with.
   */
  async encode(
    texts: readonly string[],
    addSpecial: boolean,
    signal?: AbortSignal,
  ): Promise<CutTexts> {
    const { promise, resolve, reject } = Promise.withResolvers<CutTexts>();
    const disposed = this.#disposed.signal;
    const job = { texts, addSpecial, resolve };
    const leave = () => {
      // What the worker has already, it finishes for nobody.
      const at = this.#jobs.indexOf(job);
      if (at > 0) this.#jobs.splice(at, 1);
      reject(signal?.reason ?? disposed.reason);
    };
    if (signal?.aborted || disposed.aborted) leave();
    else {
      signal?.addEventListener("abort", leave);
      disposed.addEventListener("abort", leave);
      this.#jobs.push(job);
      if (this.#jobs.length === 1) this.#next();
    }
    try {
      return await promise;
    } finally {
      signal?.removeEventListener("abort", leave);
      disposed.removeEventListener("abort", leave);
    }
  }

  /** Ends the thread; who waits gets the reason. */
  dispose(reason: unknown): void {
    this.#disposed.abort(reason);
    this.#jobs.length = 0;
    this.#worker?.terminate();
    this.#worker = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose(new Error("the tokenizer's thread was ended"));
  }

  #next(): void {
    const [job] = this.#jobs;
    if (job === undefined) return void this.#worker?.unref();
    if (this.#isLost) return this.#finish(this.#cutHere(job));
    this.#worker ??= this.#start();
    this.#worker.ref();
    const { texts, addSpecial } = job;
    this.#worker.postMessage({ texts, addSpecial } satisfies TextsToCut);
  }

  #finish(cut: CutTexts): void {
    this.#jobs.shift()!.resolve(cut);
    this.#next();
  }

  #start(): Worker {
    const worker = new Worker(new URL("./tokenizer-worker.ts", import.meta.url));
    worker.onmessage = ({ data }: MessageEvent<CutTexts>) => this.#finish(data);
    worker.onerror = (event) => {
      event.preventDefault();
      this.#isLost = true;
      worker.terminate();
      if (this.#jobs.length > 0) this.#next();
    };
    worker.postMessage(this.cutter());
    return worker;
  }

  #cutHere({ texts, addSpecial }: TextsToCut): CutTexts {
    return texts.map((text) => this.tokenizer.encode(text, { addSpecial }));
  }
}
