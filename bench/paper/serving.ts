import { existsSync, readFileSync, writeFileSync } from "node:fs";
import type { DeviceKind } from "../../src/device/open.ts";
import { families } from "../../src/attention/families/table.ts";
import type { KernelFamily } from "../../src/attention/families/family.ts";
import { Engine } from "../../src/engine/index.ts";
import { OptionError } from "../../src/errors.ts";
import { measure, type Measured } from "../serving/measure.ts";
import type { Row } from "../serving/rows.ts";
import { withServing } from "./serving-page.ts";
import { servingCases, type ServingCase, type ServingResult } from "./serving-rows.ts";

/** How serving is measured. */
export interface ServingOptions {
  readonly only: RegExp;
  readonly device: DeviceKind;
  readonly shape: string;
  /** A JSON file of results: those that it has are not measured again. */
  readonly rows: string;
  /** For which a row lasts; one of few requests up to twice as long. */
  readonly seconds: number;
  /** Rates that are tried for the highest one. */
  readonly search: number;
  /** No row is begun after so many seconds. */
  readonly budget: number;
  /** Where the page with all results goes; absent: it is not written. */
  readonly page?: string;
}

/** Results by the id of their case. */
export type Results = Record<string, ServingResult>;

/** The planner's side of G.3: class by class as they are, or left uncut. */
const planned = families.cuda;
const unplanned = planned.map(withoutPlanner);

/** Measures what is missing of the paper's serving tables, and writes the page. */
export async function measureServing(options: ServingOptions): Promise<void> {
  const results: Results = existsSync(options.rows)
    ? JSON.parse(readFileSync(options.rows, "utf8"))
    : {};
  const began = performance.now();
  let engine: ServingEngine | undefined;
  for (const each of servingCases) {
    if (!options.only.test(each.id) || results[each.id] !== undefined) continue;
    if (performance.now() - began > 1e3 * options.budget) {
      process.stdout.write(`no time is left for ${each.id}\n`);
      continue;
    }
    if (engine?.planned !== each.kind.planned) {
      await engine?.[Symbol.asyncDispose]();
      engine = await engineOf(each.kind.planned, options);
    }
    engine.share(each.kind.cascade);
    const result = await resultOf(engine.engine, each, options);
    if (result === undefined) continue;
    results[each.id] = result;
    process.stdout.write(`${each.id}  ${JSON.stringify(result)}\n`);
    writeFileSync(options.rows, `${JSON.stringify(results, null, 2)}\n`);
  }
  await engine?.[Symbol.asyncDispose]();
  if (options.page === undefined) return;
  writeFileSync(options.page, withServing(readFileSync(options.page, "utf8"), results));
  process.stdout.write(`written: ${options.page}\n`);
}

/** An engine that shared prefixes are changed of, so that weights are made once for both. */
interface ServingEngine extends AsyncDisposable {
  readonly engine: Engine;
  readonly planned: boolean;
  /** Whether they are levels of their own from now on. */
  share(cascade: boolean): void;
}

async function engineOf(
  isPlanned: boolean,
  { device, shape }: ServingOptions,
): Promise<ServingEngine> {
  // Nothing but a benchmark wants to be without it, so that no option is for it.
  Object.assign(families, { cuda: isPlanned ? planned : unplanned });
  const engine = await Engine.load(shape, { device, dtype: "f16", randomWeights: true });
  const parts = Reflect.get(engine.model, "parts") as { worthSharing: unknown };
  const { worthSharing } = parts;
  return {
    engine,
    planned: isPlanned,
    share: (cascade) => (parts.worthSharing = cascade ? worthSharing : undefined),
    [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
  };
}

/** A family whose classes leave rows whole, in the order of the batch. */
function withoutPlanner({ name, offer }: KernelFamily): KernelFamily {
  return {
    name,
    offer(facts, options) {
      const made = offer(facts, options);
      if (made instanceof OptionError) return made;
      const classes = made.classes.map((row) => {
        return { ...row, schedule: "whole", take: "as-made" } as const;
      });
      return { ...made, classes, costs: { ...made.costs, splitKeys: Infinity } };
    },
  };
}

async function resultOf(
  engine: Engine,
  { row, mostTtftMs, rates }: ServingCase,
  { seconds, search }: ServingOptions,
): Promise<ServingResult | undefined> {
  const at = async (rate: number) => {
    const lasting = secondsOf(rate, seconds);
    // More than come in that time, which ends the row.
    const tried = { ...row, rate, requests: Math.ceil(1.5 * rate * lasting) + 8 };
    const figures = await measure(engine, tried, false, lasting);
    return { figures, result: kept(engine, tried, lasting, figures) };
  };
  if (mostTtftMs === undefined) return (await at(row.rate!)).result;
  let [low, high] = rates!;
  let best: ServingResult | undefined;
  // Halves the range by its ratio.
  for (let step = 0; step < search; step++) {
    const rate = Math.round(Math.sqrt(low * high));
    const { figures, result } = await at(rate);
    const waited = Math.max(result.ttftMs[1], figures.waitedMs);
    process.stdout.write(`  ${rate}/s: ${waited.toFixed(0)} ms\n`);
    if (waited > mostTtftMs) high = rate;
    else [low, best] = [rate, result];
  }
  if (best === undefined) {
    process.stdout.write(
      `  no rate above ${low}/s keeps below ${mostTtftMs} ms: nothing is told\n`,
    );
    return undefined;
  }
  return high === rates![1] ? { ...best, isHighestTried: true } : best;
}

/** For how long a load is put: of few requests for longer. */
function secondsOf(rate: number, seconds: number): number {
  const few = 10;
  return Math.min(2 * seconds, Math.max(seconds, few / rate));
}

function kept(engine: Engine, { rate }: Row, seconds: number, figures: Measured): ServingResult {
  const { itlMs, ttftMs, answers, outputTokensPerSecond, hostShare } = figures;
  if (figures.failed > 0) throw new Error(`requests failed: ${JSON.stringify(figures.failures)}`);
  return {
    day: new Date().toISOString().slice(0, 10),
    machine: engine.device.name,
    requests: answers,
    seconds,
    itlMs: [itlMs.p50!, itlMs.p99!],
    ttftMs: [ttftMs.p50!, ttftMs.p99!],
    tokensPerSecond: outputTokensPerSecond,
    hostShare,
    rate: rate!,
  };
}
