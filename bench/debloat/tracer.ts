/**
 * What the tracer of device code costs a command, by parts: in turn without it, with it but without
 * CUPTI, and with both, device code loaded lazily and eagerly.
 *
 * Usage: bun bench/debloat/tracer.ts [--rounds <n>] [--json <file>] <command...>
 */
import { writeFileSync } from "node:fs";
import { Command } from "commander";
import { traceCommand, type Traced } from "../../src/debloat/index.ts";
import { runCommand } from "../../src/debloat/process/spawn.ts";
import { median } from "../bench.ts";
import { parseCount } from "../table.ts";

/** How CUDA loads device code. */
export const loadings = ["LAZY", "EAGER"] as const;
const ways = ["without CUPTI", "with CUPTI"] as const;

/** Medians of the rounds, in seconds. */
export interface TracerCost {
  readonly loading: (typeof loadings)[number];
  readonly way: (typeof ways)[number];
  /** Of the command alone, and under the tracer. */
  readonly without: number;
  readonly within: number;
  /** In the tracer: opening CUPTI, sums of images, ends of processes, and starts and look-ups. */
  readonly opening: number;
  readonly images: number;
  readonly ending: number;
  readonly rest: number;
}

/**
 * Measures a command.
 * @param onProblem called with what a trace lacks; that CUPTI is absent where it is to be is none
 */
export async function tracerCosts(
  command: readonly string[],
  rounds: number,
  onProblem: (problem: string) => void,
): Promise<TracerCost[]> {
  const costs: TracerCost[] = [];
  for (const loading of loadings) {
    // The tracer asks for lazy loading, which the program's own environment overrides.
    const loaded = ["env", `CUDA_MODULE_LOADING=${loading}`, ...command];
    const without: number[] = [];
    const traced = { "without CUPTI": [] as Traced[], "with CUPTI": [] as Traced[] };
    for (let round = 0; round < rounds; round++) {
      without.push(secondsOf(await runCommand(loaded, {})));
      for (const way of ways) {
        const none = way === "without CUPTI";
        const hidden = none ? { cupti: "/dev/null" } : { onProblem };
        traced[way].push(await traceCommand(loaded, { host: "off", ...hidden }));
      }
    }
    for (const way of ways) costs.push(costOf(loading, way, without, traced[way]));
  }
  return costs;
}

function secondsOf({ exitCode, seconds }: Traced["ended"]): number {
  if (exitCode === 0) return seconds;
  throw new Error(`the command ended with ${exitCode}`);
}

function costOf(
  loading: TracerCost["loading"],
  way: TracerCost["way"],
  without: readonly number[],
  traced: readonly Traced[],
): TracerCost {
  const middle = (of: (run: Traced) => number) => median(traced.map(of));
  const parts = traced.map(({ tracerParts }) => tracerParts);
  const [opening, images, ending] = (["opening", "images", "ending"] as const).map((part) =>
    median(parts.map((of) => of[part])),
  );
  const all = middle(({ tracerSeconds }) => tracerSeconds);
  return {
    loading,
    way,
    without: median([...without]),
    within: middle(({ ended }) => secondsOf(ended)),
    opening,
    images,
    ending,
    rest: all - opening - images - ending,
  };
}

/** A line of a cost, its parts in milliseconds. */
export function textOfCost(cost: TracerCost): string {
  const { loading, way, without, within, opening, images, ending, rest } = cost;
  const share = ((100 * (within - without)) / without).toFixed(1);
  const named = [
    ["opening CUPTI", opening],
    ["sums of images", images],
    ["ends", ending],
    ["starts and look-ups", rest],
    ["not in it", within - without - opening - images - ending - rest],
  ] as const;
  const parts = named.map(([name, seconds]) => `${name} ${(1000 * seconds).toFixed(1)} ms`);
  return (
    `${loading}, the tracer ${way}: ${within.toFixed(2)} s against ${without.toFixed(2)} s, ` +
    `${share} %; ${parts.join(", ")}\n`
  );
}

if (import.meta.main) {
  const parsed = new Command("tracer")
    .description("Runs a command with and without the tracer, and says what it costs by parts.")
    .option("--rounds <n>", "runs of each kind", parseCount(1, 100), 3)
    .option("--json <file>", "write everything as JSON")
    .argument("<command...>")
    .passThroughOptions()
    .parse();
  const { rounds, json } = parsed.opts<{ rounds: number; json?: string }>();
  const say = (problem: string) => void process.stderr.write(`${problem}\n`);
  const costs = await tracerCosts(parsed.args, rounds, say);
  for (const cost of costs) process.stdout.write(textOfCost(cost));
  if (costs.every(({ opening }) => opening === 0))
    process.stdout.write("the command used no GPU: CUPTI was never opened\n");
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(costs, undefined, 1)}\n`);
}
