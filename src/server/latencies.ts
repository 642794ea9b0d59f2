import { Histogram, type Registry } from "prom-client";

/** Values that percentiles are taken of: the last ones. */
const keptMost = 1024;
const firstBuckets = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30];
const betweenBuckets = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1];

/** Percentiles in milliseconds; null where nothing came yet. */
export interface LatencySummary {
  readonly p50: number | null;
  readonly p99: number | null;
}

/** Times until an answer's first token and between its tokens, as they are read for a client. */
export class Latencies {
  readonly #first: Times;
  readonly #between: Times;

  constructor(registry: Registry) {
    const histogram = (name: string, help: string, buckets: number[]) =>
      new Times(new Histogram({ name, help, buckets, registers: [registry] }));
    const first = "Time until an answer's first token";
    this.#first = histogram("flashbun_time_to_first_token_seconds", first, firstBuckets);
    const between = "Time between an answer's tokens";
    this.#between = histogram("flashbun_inter_token_seconds", between, betweenBuckets);
  }

  /** Notes the tokens of one answer, which was asked for now: call it with each. */
  answer(): () => void {
    let last = performance.now();
    let times = this.#first;
    return () => {
      const now = performance.now();
      times.note(now - last);
      last = now;
      times = this.#between;
    };
  }

  /** Of the last answers and tokens. */
  summary(): { first: LatencySummary; between: LatencySummary } {
    return { first: this.#first.summary(), between: this.#between.summary() };
  }
}

class Times {
  readonly #kept = new Float64Array(keptMost);
  #count = 0;

  constructor(private readonly histogram: Histogram) {}

  note(ms: number): void {
    this.histogram.observe(ms / 1000);
    this.#kept[this.#count++ % keptMost] = ms;
  }

  summary(): LatencySummary {
    const sorted = this.#kept.slice(0, Math.min(this.#count, keptMost)).sort();
    const at = (part: number) =>
      sorted.length === 0 ? null : sorted[Math.ceil(part * sorted.length) - 1];
    return { p50: at(0.5), p99: at(0.99) };
  }
}
