import { Counter, Gauge, Registry } from "prom-client";
import type { Engine } from "../engine/engine.ts";
import { Latencies } from "./latencies.ts";

/** Prometheus metrics of an engine, read from its stats when they are asked for. */
export class Metrics {
  readonly #registry = new Registry();
  readonly latencies = new Latencies(this.#registry);

  constructor(engine: Engine) {
    const registers = [this.#registry];
    const gauge = (name: string, help: string, value: () => number) =>
      new Gauge({
        name: `flashbun_${name}`,
        help,
        registers,
        collect() {
          this.set(value());
        },
      });
    const counter = (name: string, help: string, value: () => number) =>
      new Counter({
        name: `flashbun_${name}_total`,
        help,
        registers,
        collect() {
          this.reset();
          this.inc(value());
        },
      });
    gauge("requests_running", "Requests with pages", () => engine.stats().running);
    gauge("requests_waiting", "Requests that wait for pages", () => engine.stats().waiting);
    gauge("pages_used", "Pages of requests and cached prefixes", () => engine.stats().pagesUsed);
    gauge("pages", "Pages of the KV cache", () => engine.stats().pages);
    gauge("adapters", "Adapters that are loaded", () => engine.adapters.length);
    counter("prompt_tokens", "Prompt tokens", () => engine.stats().promptTokens);
    counter("cached_tokens", "Prompt tokens found cached", () => engine.stats().cachedTokens);
    counter("generated_tokens", "Generated tokens", () => engine.stats().generatedTokens);
    counter("steps", "Steps", () => engine.stats().steps);
    counter("drafted_tokens", "Tokens guessed ahead", () => engine.stats().draftedTokens);
    counter("accepted_tokens", "Of those that stood", () => engine.stats().acceptedTokens);
    counter("drafts", "Rows that had drafts", () => engine.stats().drafts);
    counter("preemptions", "Times that a request lost its pages", () => engine.stats().preemptions);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** The exposition format. */
  text(): Promise<string> {
    return this.#registry.metrics();
  }
}
