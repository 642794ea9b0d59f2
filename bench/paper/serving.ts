import { existsSync, readFileSync, writeFileSync } from "node:fs";
import type { DeviceKind } from "../../src/device/open.ts";
import { families } from "../../src/attention/families/table.ts";
import type { KernelFamily } from "../../src/attention/families/family.ts";
import { Engine } from "../../src/engine/index.ts";
import { OptionError } from "../../src/errors.ts";
import { measure, type Measured } from "../serving/measure.ts";
import type { Row } from "../serving/rows.ts";
import { withServing } from "./serving-page.ts";
import {
  type EngineKind,
  servingCases,
  type ServingCase,
  type ServingResult,
} from "./serving-rows.ts";

/** How serving is measured. */
export interface ServingOptions {
  readonly only: RegExp;
  readonly device: DeviceKind;
  readonly shape: string;
  /** A JSON file of results: those that it has are not measured again. */
  readonly rows: string;
  /** Of arrivals, for each row. */
  readonly arrivals: number;
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
  let engine: Engine | undefined;
  let kind: EngineKind | undefined;
  for (const each of servingCases) {
    if (!options.only.test(each.id) || results[each.id] !== undefined) continue;
    if (performance.now() - began > 1e3 * options.budget) {
      process.stdout.write(`no time is left for ${each.id}\n`);
      continue;
    }
    if (JSON.stringify(kind) !== JSON.stringify(each.kind)) {
      await engine?.[Symbol.asyncDispose]();
      engine = await engineOf((kind = each.kind), options);
    }
    results[each.id] = await resultOf(engine!, each, options.arrivals);
    process.stdout.write(`${each.id}  ${JSON.stringify(results[each.id])}\n`);
    writeFileSync(options.rows, `${JSON.stringify(results, null, 2)}\n`);
  }
  await engine?.[Symbol.asyncDispose]();
  if (options.page === undefined) return;
  writeFileSync(options.page, withServing(readFileSync(options.page, "utf8"), results));
  process.stdout.write(`written: ${options.page}\n`);
}

async function engineOf({ cascade, planned: isPlanned }: EngineKind, options: ServingOptions) {
  // Nothing but a benchmark wants to be without it, so that no option is for it.
  Object.assign(families, { cuda: isPlanned ? planned : unplanned });
  const { device, shape } = options;
  return await Engine.load(shape, { device, dtype: "f16", randomWeights: true, cascade });
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

async function resultOf(engine: Engine, { row, mostTtftMs }: ServingCase, arrivals: number) {
  if (mostTtftMs === undefined)
    return kept(engine, row, await measure(engine, lasting(row, arrivals)));
  let [low, high] = ratesSearched;
  let best: ServingResult | undefined;
  // Halves the range by its ratio.
  for (let step = 0; step < searchSteps; step++) {
    const rate = Math.round(Math.sqrt(low * high));
    const tried = { ...row, rate };
    const result = kept(engine, tried, await measure(engine, lasting(tried, arrivals)));
    process.stdout.write(`  ${rate}/s: ${result.ttftMs[1].toFixed(0)} ms\n`);
    if (result.ttftMs[1] > mostTtftMs) high = rate;
    else [low, best] = [rate, result];
  }
  return best ?? kept(engine, row, await measure(engine, lasting(row, arrivals)));
}

const ratesSearched = [2, 128];
const searchSteps = 5;

/** A row that asks for so many seconds; of a slow one a few more requests. */
function lasting(row: Row, arrivals: number): Row {
  return { ...row, requests: Math.max(12, Math.ceil(row.rate! * arrivals)) };
}

function kept(engine: Engine, { rate }: Row, figures: Measured): ServingResult {
  const { itlMs, ttftMs, answers, outputTokensPerSecond, hostShare } = figures;
  if (figures.failed > 0) throw new Error(`requests failed: ${JSON.stringify(figures.failures)}`);
  return {
    day: new Date().toISOString().slice(0, 10),
    machine: engine.device.name,
    requests: answers,
    itlMs: [itlMs.p50!, itlMs.p99!],
    ttftMs: [ttftMs.p50!, ttftMs.p99!],
    tokensPerSecond: outputTokensPerSecond,
    hostShare,
    rate: rate!,
  };
}
