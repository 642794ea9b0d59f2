/**
 * What the tracer of device code costs a command, by parts: in turn without it, with it but without
 * CUPTI, and with both, device code loaded lazily and eagerly.
 *
 * Usage: bun bench/debloat/tracer.ts [--rounds <n>] [--loading <LAZY|EAGER>] [--state <folder>]
 *                                    [--steps <n>] [--json <file>] <command...>
 */
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Option } from "commander";
import { traceCommand, type Traced } from "../../src/debloat/index.ts";
import { runCommand } from "../../src/debloat/process/spawn.ts";
import { median } from "../bench.ts";
import { benchCommand } from "../command.ts";
import { parseCount } from "../table.ts";
import { Steps, Unfinished, unfinished } from "./steps.ts";

/** How CUDA loads device code. */
export const loadings = ["LAZY", "EAGER"] as const;
export type Loading = (typeof loadings)[number];
const ways = ["without CUPTI", "with CUPTI"] as const;

/** One run of a command: its time, and that of the tracer's parts. */
interface Run {
  readonly seconds: number;
  readonly opening: number;
  readonly images: number;
  readonly ending: number;
  readonly all: number;
}

/** The figures are those of the run of middle length. */
export interface TracerCost {
  readonly loading: Loading;
  readonly way: (typeof ways)[number];
  /** Of the command alone, and under the tracer. */
  readonly without: number;
  readonly within: number;
  /** Least times: what another program on the machine took is in none of them. */
  readonly leastWithout: number;
  readonly leastWithin: number;
  /** In the tracer: opening CUPTI, sums of images, ends of processes, and starts and look-ups. */
  readonly opening: number;
  readonly images: number;
  readonly ending: number;
  readonly rest: number;
}

/**
 * Measures a command.
 * @param onProblem called with what a trace lacks; that CUPTI is absent where it is to be is none
 * @throws Unfinished when steps are left
 */
export async function tracerCosts(
  command: readonly string[],
  rounds: number,
  steps: Steps,
  onProblem: (problem: string) => void,
  wanted: readonly Loading[] = loadings,
): Promise<TracerCost[]> {
  const costs: TracerCost[] = [];
  for (const loading of wanted) {
    // The tracer asks for lazy loading, which the program's own environment overrides.
    const loaded = ["env", `CUDA_MODULE_LOADING=${loading}`, ...command];
    const runs = { without: [] as Run[], "without CUPTI": [] as Run[], "with CUPTI": [] as Run[] };
    const take = (kind: keyof typeof runs, round: number) =>
      steps.take(`tracer ${kind} ${loading} ${round}`, async (): Promise<Run> => {
        if (kind === "without") {
          const seconds = secondsOf(await runCommand(loaded, {}));
          return { seconds, opening: 0, images: 0, ending: 0, all: 0 };
        }
        const more = kind === "with CUPTI" ? { onProblem } : { cupti: "/dev/null" };
        return runOf(await traceCommand(loaded, { host: "off", ...more }));
      });
    const kinds = ["without", ...ways] as const;
    for (let round = 0; round < rounds; round++)
      // What is first in a round is last in the next: what warms up or slows down hits each.
      for (const kind of round % 2 === 0 ? kinds : kinds.toReversed())
        runs[kind].push(await take(kind, round));
    for (const way of ways) costs.push(costOf(loading, way, runs.without, runs[way]));
  }
  return costs;
}

function runOf({ ended, tracerSeconds, tracerParts }: Traced): Run {
  return { seconds: secondsOf(ended), ...tracerParts, all: tracerSeconds };
}

function secondsOf({ exitCode, seconds }: Traced["ended"]): number {
  if (exitCode === 0) return seconds;
  throw new Error(`the command ended with ${exitCode}`);
}

function costOf(
  loading: Loading,
  way: TracerCost["way"],
  without: readonly Run[],
  within: readonly Run[],
): TracerCost {
  const middle = (runs: readonly Run[], of: keyof Run) => median(runs.map((run) => run[of]));
  const least = (runs: readonly Run[]) => Math.min(...runs.map(({ seconds }) => seconds));
  const [opening, images, ending] = (["opening", "images", "ending"] as const).map((part) =>
    middle(within, part),
  );
  return {
    loading,
    way,
    without: middle(without, "seconds"),
    within: middle(within, "seconds"),
    leastWithout: least(without),
    leastWithin: least(within),
    opening,
    images,
    ending,
    rest: middle(within, "all") - opening - images - ending,
  };
}

/** A line of a cost, its parts in milliseconds. */
export function textOfCost(cost: TracerCost): string {
  const { loading, way, without, within, opening, images, ending, rest } = cost;
  const share = (more: number, of: number) => ((100 * (more - of)) / of).toFixed(1);
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
    `${share(within, without)} % (of the least times ` +
    `${share(cost.leastWithin, cost.leastWithout)} %); ${parts.join(", ")}\n`
  );
}

if (import.meta.main) {
  const parsed = benchCommand("tracer")
    .description("Runs a command with and without the tracer, and says what it costs by parts.")
    .option("--rounds <n>", "runs of each kind", parseCount(1, 100), 3)
    .addOption(new Option("--loading <way>", "only this way of loading").choices(loadings))
    .option("--state <folder>", "keeps what is measured: the same command goes on")
    .option("--steps <n>", "runs at most, the rest by the next command", parseCount(1, 1000))
    .option("--json <file>", "write everything as JSON")
    .argument("<command...>")
    .passThroughOptions()
    .parse();
  const options = parsed.opts<{
    rounds: number;
    loading?: Loading;
    state?: string;
    steps?: number;
    json?: string;
  }>();
  const { rounds, loading, json } = options;
  const state = options.state ?? mkdtempSync(join(tmpdir(), "flashbun-tracer-"));
  const say = (problem: string) => void process.stderr.write(`${problem}\n`);
  try {
    const steps = new Steps(state, options.steps);
    const wanted = loading === undefined ? loadings : [loading];
    const costs = await tracerCosts(parsed.args, rounds, steps, say, wanted);
    for (const cost of costs) process.stdout.write(textOfCost(cost));
    if (costs.every(({ opening }) => opening === 0))
      process.stdout.write("the command used no GPU: CUPTI was never opened\n");
    if (json !== undefined) writeFileSync(json, `${JSON.stringify(costs, undefined, 1)}\n`);
  } catch (cause) {
    if (!(cause instanceof Unfinished)) throw cause;
    say(cause.message);
    process.exitCode = unfinished;
  }
}
