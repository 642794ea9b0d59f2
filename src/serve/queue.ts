import type { Job } from "./job.ts";

/** Jobs that wait, in the order of their turns. */
export class JobQueue {
  /** The first is last: it leaves without a move of the others. */
  readonly #jobs: Job[] = [];

  get length(): number {
    return this.#jobs.length;
  }

  /** Whose turn it is; undefined when no request waits. */
  get first(): Job | undefined {
    return this.#jobs[this.#jobs.length - 1];
  }

  /** Puts a job in its place. */
  add(job: Job): void {
    this.#jobs.splice(this.#placeOf(job), 0, job);
  }

  /** Takes out a job that waits here. */
  remove(job: Job): void {
    if (job === this.first) this.#jobs.pop();
    else this.#jobs.splice(this.#placeOf(job), 1);
  }

  /** The first place whose job's turn is not after the given one's. */
  #placeOf(job: Job): number {
    let low = 0;
    let high = this.#jobs.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (job.isBefore(this.#jobs[middle])) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
