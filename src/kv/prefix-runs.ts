/**
 * Which neighbours read a shared prefix together. From `common`, the leading pages that request i
 * shares with request i + 1, it chooses runs of requests that spare the most page reads.
 */
export class PrefixRuns {
  /** Pages that request i shares with request i + 1. */
  common = new Int32Array(0);
  /** From request 0, each stretch [i, ends[i]) shares pages[i] pages, 0 for no run. */
  ends = new Int32Array(0);
  pages = new Int32Array(0);
  /** Page reads that requests i... can spare. */
  #best = new Int32Array(0);

  /** Makes room for so many requests; what was chosen is lost. */
  resize(requests: number): void {
    this.common = new Int32Array(requests);
    this.#best = new Int32Array(requests + 1);
    this.ends = new Int32Array(requests);
    this.pages = new Int32Array(requests);
  }

  /** Page reads that the chosen runs spare. */
  get spared(): number {
    return this.#best[0];
  }

  /**
   * Chooses the runs that spare the most page reads, found from the last request back. Runs need
   * only part where the shared page count changes.
   */
  choose(count: number): void {
    const { common, ends } = this;
    const best = this.#best;
    best[count] = 0;
    let after = count;
    for (let start = count - 1; start >= 0; start--) {
      if (!this.#parts(start, count)) continue;
      best[start] = best[after];
      ends[start] = after;
      this.pages[start] = 0;
      let pages = start + 1 < count ? common[start] : 0;
      for (let end = start + 2; end <= count && pages > 0; end++) {
        const saving = pages * (end - 1 - start) + best[end];
        if (this.#parts(end, count) && saving > best[start]) {
          best[start] = saving;
          ends[start] = end;
          this.pages[start] = pages;
        }
        if (end < count) pages = Math.min(pages, common[end - 1]);
      }
      after = start;
    }
  }

  /** Whether a run may start or end before request i: not inside a stretch of equal shares. */
  #parts(i: number, count: number): boolean {
    if (i < 2 || i > count - 2) return true;
    const pages = this.common[i - 1];
    return pages !== this.common[i - 2] || pages !== this.common[i];
  }
}
