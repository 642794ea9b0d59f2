import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { DebloatError } from "../../errors.ts";
import { requireInteger } from "../../require.ts";
import { counted, showAsText } from "../../shown.ts";
import { type Job, type JobOf, type JobResults, runJob } from "./jobs.ts";
import type { Reply, Request } from "./worker.ts";

const workerFile = join(import.meta.dir, "worker.ts");

/** Threads that work on one library after another; each reads the file itself. */
export class Pool {
  readonly #workers: Worker[] = [];
  readonly #idle: Worker[] = [];
  readonly #waiting: ((worker: Worker) => void)[] = [];
  readonly #threads: number;

  /** @param threads workers; 0 does all work in this thread */
  constructor(threads = Math.min(8, availableParallelism())) {
    requireInteger("threads", threads, 0, 1024);
    // A bundle does not hold the worker's file.
    this.#threads = existsSync(workerFile) ? threads : 0;
  }

  /**
   * @internal Does a job on a library.
   * @throws DebloatError what the job threw
   */
  async run<K extends Job["kind"]>(
    job: JobOf<K>,
    data: Uint8Array,
    file: string,
  ): Promise<JobResults[K]> {
    if (this.#threads === 0)
      return runJob(job, (offset, bytes) => data.subarray(offset, offset + bytes), file);
    const worker = await this.#take();
    try {
      return (await ask(worker, { job, file })) as JobResults[K];
    } finally {
      this.#give(worker);
    }
  }

  /** Ends the threads. */
  [Symbol.dispose](): void {
    for (const worker of this.#workers) worker.terminate();
  }

  /** @internal */
  toString(): string {
    return `Pool of ${counted(this.#threads, "thread")}`;
  }

  #take(): Promise<Worker> {
    const idle = this.#idle.pop();
    if (idle !== undefined) return Promise.resolve(idle);
    if (this.#workers.length < this.#threads) {
      const worker = new Worker(workerFile);
      this.#workers.push(worker);
      return Promise.resolve(worker);
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #give(worker: Worker): void {
    const waiting = this.#waiting.shift();
    if (waiting === undefined) this.#idle.push(worker);
    else waiting(worker);
  }
}

showAsText(Pool.prototype);

function ask(worker: Worker, request: Request): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }: MessageEvent<Reply>) => {
      if ("results" in data) resolve(data.results);
      else if (data.file === undefined) reject(new Error(data.message));
      else reject(new DebloatError(data.file, data.message, data.fix));
    };
    worker.onerror = (event) => reject(new Error(event.message));
    worker.postMessage(request);
  });
}
