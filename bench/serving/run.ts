/**
 * The serving tables of the FlashInfer paper and of issue lists, on the engine: Llama 3.1 8B's
 * shape with random weights in bf16 on a GPU, SmolLM2 on the CPU.
 *
 * Usage: bun run bench:serving [--only <regex>] [--quick] [--apart] [--json <file>]
 *   [--shape llama-70b] [--tp <ranks, each a GPU of this machine>]
 * With --apart a prefix that requests share is read for each of them.
 */
import { parseArgs } from "node:util";
import { drive } from "../../src/cli/bench/drive.ts";
import { EngineTarget } from "../../src/cli/bench/engine-target.ts";
import {
  type EngineFigures,
  engineFigures,
  type Figures,
  figuresOf,
} from "../../src/cli/bench/figures.ts";
import { LoopLag } from "../../src/cli/bench/lag.ts";
import { lengthsOf } from "../../src/cli/bench/lengths.ts";
import { afterWarmUp, generatedLoad } from "../../src/cli/bench/load.ts";
import { table } from "../../src/cli/table.ts";
import { startRanks } from "../../src/cli/model/ranks.ts";
import { Engine, fetchSmolLm2, ranksOf } from "../../src/engine/index.ts";
import { type Row, rowsFor } from "./rows.ts";

const { values: options } = parseArgs({
  options: {
    only: { type: "string" },
    quick: { type: "boolean" },
    apart: { type: "boolean" },
    json: { type: "string" },
    shape: { type: "string", default: "llama-8b" },
    tp: { type: "string", default: "1" },
  },
});
const tp = Number(options.tp);
if (tp > 1 && ranksOf() === undefined)
  process.exit(await startRanks([process.execPath, ...process.argv.slice(1)], tp, "cuda"));

/** The model of the device that is here. */
async function open(): Promise<Engine> {
  const { shape } = options;
  const cascade = options.apart !== true;
  const random = { device: "cuda:0", randomWeights: true, cascade } as const;
  if (tp > 1) return await Engine.load(shape, { ...random, tp });
  const probe = await Engine.load("smollm2-135m", {
    device: "auto",
    randomWeights: true,
    pages: 64,
  });
  const { kind } = probe.device;
  await probe[Symbol.asyncDispose]();
  if (kind === "cpu") return await Engine.load(await fetchSmolLm2(), { cascade });
  return await Engine.load(shape, random);
}

/** A row's figures, with how late the event loop's timers were (p99). */
type Measured = Figures & EngineFigures & { lagMs: number | null };

async function measure(engine: Engine, row: Row): Promise<Measured> {
  const { vocabulary } = engine.model.shape;
  const { clients, rate, samples = 1 } = row;
  const requests = options.quick ? Math.ceil(row.requests / 8) : row.requests;
  const warmUp = Math.min(clients ?? 16, 2 * requests);
  const load = generatedLoad({
    requests: requests + warmUp,
    prompt: lengthsOf("prompt", "prompt", row.prompt),
    output: lengthsOf("output", "output", row.output),
    sharedTokens: 0,
    rate,
    seed: 1,
    vocabulary,
  });
  const driving = { samples, temperature: 0, signal: new AbortController().signal };
  const target = new EngineTarget(engine);
  const { warming, measured } = afterWarmUp(load, warmUp);
  const short = warming.map((request) => ({ ...request, outputTokens: 8 }));
  await drive(target, short, { ...driving, clients: clients ?? 16 });
  const before = engine.stats();
  using lag = new LoopLag();
  const asked = await drive(target, measured, { ...driving, clients });
  const ofEngine = engineFigures(before, engine.stats());
  return { ...figuresOf(asked), ...ofEngine, lagMs: lag.figures.p99 };
}

const engine = await open();
if (engine.rank > 0) {
  await engine.follow();
  await engine[Symbol.asyncDispose]();
  process.exit(0);
}
process.stdout.write(`${engine.summary()}\n\n`);
const heads = [
  "load",
  "TTFT p50",
  "p99",
  "ITL p50",
  "p99",
  "out tok/s",
  "in tok/s",
  "cached",
  "host",
  "loop late p99",
];
const lines: string[][] = [heads];
const results: object[] = [];
for (const row of rowsFor(engine.device.kind)) {
  if (options.only !== undefined && !new RegExp(options.only).test(row.name)) continue;
  const figures = await measure(engine, row);
  const { ttftMs, itlMs, promptTokens, cachedTokens, hostShare } = figures;
  const ms = (value: number | null) => value?.toFixed(2) ?? "-";
  const cells = [ttftMs.p50, ttftMs.p99, itlMs.p50, itlMs.p99].map(ms);
  const rates = [figures.outputTokensPerSecond, figures.promptTokensPerSecond];
  const shares = [cachedTokens / promptTokens, hostShare].map((x) => `${(100 * x).toFixed(1)} %`);
  const late = `${ms(figures.lagMs)} ms`;
  lines.push([row.name, ...cells, ...rates.map((each) => each.toFixed(1)), ...shares, late]);
  results.push({ ...row, ...figures });
  process.stderr.write(`${lines.at(-1)!.join("  ")}\n`);
}
process.stdout.write(table(lines));
if (options.json !== undefined) {
  const said = { model: engine.summary(), rows: results };
  await Bun.write(options.json, `${JSON.stringify(said, null, 2)}\n`);
}
await engine[Symbol.asyncDispose]();
