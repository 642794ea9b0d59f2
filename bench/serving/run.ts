/**
 * The serving tables of the FlashInfer paper and of issue lists, on the engine: Llama 3.1 8B's
 * shape with random weights in bf16 on a GPU, SmolLM2 on the CPU.
 *
 * Usage: bun run bench:serving; --help lists the options. node-llama-cpp is no dependency; in a
 * folder apart from this one: npm install --ignore-scripts --omit=optional
 * node-llama-cpp@3.22.1 @node-llama-cpp/linux-x64@3.22.1
 */
import { availableParallelism } from "node:os";
import { type Figures, figuresOf } from "../../src/cli/bench/figures.ts";
import { lengthsOf } from "../../src/cli/bench/lengths.ts";
import { table } from "../../src/cli/table.ts";
import { isAlone, startRanks } from "../../src/cli/model/ranks.ts";
import { Engine, fetchSmolLm2 } from "../../src/engine/index.ts";
import { Device } from "../../src/index.ts";
import { benchCommand, setUp } from "../command.ts";
import { parseCount, parseRegex } from "../table.ts";
import { Llama } from "./llama.ts";
import { measure, put } from "./measure.ts";
import { type Row, rowsFor } from "./rows.ts";
import { warmStartSeconds } from "./start.ts";

const command = benchCommand("bench:serving")
  .description("Measures the serving tables of the FlashInfer paper and of issue lists.")
  .option("--only <regex>", "run the rows whose name matches", parseRegex)
  .option("--quick", "short loads, to see that it works", false)
  .option("--apart", "read a prefix that requests share for each of them", false)
  .option("--json <file>", "write the rows as JSON")
  .option("--shape <name>", "of the model with random weights on a GPU", "llama-8b")
  .option("--tp <ranks>", "ranks, each a GPU of this machine", parseCount(1, 64), 1)
  .option("--llama <folder>", "of node-llama-cpp: rows of clients on the CPU beside it")
  .option("--threads <count>", "threads of both", parseCount(1, 1024), availableParallelism())
  .parse();
const options = command.opts<{
  only?: RegExp;
  quick: boolean;
  apart: boolean;
  json?: string;
  shape: string;
  tp: number;
  llama?: string;
  threads: number;
}>();
await setUp();
const { tp } = options;
process.env["FLASHBUN_THREADS"] ??= String(options.threads);
if (tp > 1 && isAlone())
  process.exit(await startRanks([process.execPath, ...process.argv.slice(1)], tp, "cuda"));

/** The model of the device that is here. */
async function open(): Promise<Engine> {
  const { shape } = options;
  const cascade = !options.apart;
  const random = { device: "cuda:0", randomWeights: true, cascade } as const;
  if (tp > 1) return await Engine.load(shape, { ...random, tp });
  const probe = await Device.open();
  const { kind } = probe;
  await probe[Symbol.asyncDispose]();
  if (kind === "cpu") return await Engine.load(await fetchSmolLm2(), { cascade });
  return await Engine.load(shape, random);
}

/** The peer's figures of a closed loop; undefined for rows that it does not know. */
async function measurePeer(llama: Llama, row: Row, vocabulary: number) {
  const { clients, samples, again, prompt, output } = row;
  if (clients === undefined || samples !== undefined || again) return undefined;
  const tokens = lengthsOf("prompt", "prompt", prompt).most;
  await using target = await llama.target(
    clients,
    tokens + lengthsOf("output", "output", output).most,
  );
  return figuresOf(await put(target, row, { vocabulary, quick: options.quick }));
}

const engine = await open();
if (engine.rank > 0) {
  await engine.follow();
  await engine[Symbol.asyncDispose]();
  process.exit(0);
}
process.stdout.write(`${engine.summary()}\n\n`);
const llama =
  options.llama === undefined || engine.device.kind !== "cpu"
    ? undefined
    : await Llama.open(options.llama, await fetchSmolLm2(), options.threads);
if (llama !== undefined) process.stdout.write(`peer: node-llama-cpp ${llama.version}\n\n`);
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
  ...(engine.device.kind === "cuda" ? ["requests", "TensorRT-LLM, FP8"] : []),
  ...(llama ? ["peer's TTFT", "of it", "its tok/s", "times it"] : []),
];
/** Of loads of the same lengths, the highest rate that the peer reached. */
const peerRates = new Map<string, number>();

function besidePeer(row: Row, ours: Figures, theirs: Figures | undefined): string[] {
  if (theirs === undefined) return [];
  const lengths = `${row.prompt} ${row.output}`;
  const best = Math.max(theirs.outputTokensPerSecond, peerRates.get(lengths) ?? 0);
  peerRates.set(lengths, best);
  const [own, other] = [ours.ttftMs.p50!, theirs.ttftMs.p50!];
  const rates = [theirs.outputTokensPerSecond.toFixed(1)];
  rates.push((ours.outputTokensPerSecond / best).toFixed(2));
  return [other.toFixed(2), (own / other).toFixed(2), ...rates];
}

const lines: string[][] = [heads];
const results: object[] = [];
for (const row of rowsFor(engine.device.kind)) {
  if (options.only?.test(row.name) === false) continue;
  const figures = await measure(engine, row, options.quick);
  const theirs = llama && (await measurePeer(llama, row, engine.model.shape.vocabulary));
  const { ttftMs, itlMs, promptTokens, cachedTokens, hostShare } = figures;
  const ms = (value: number | null) => value?.toFixed(2) ?? "-";
  const cells = [ttftMs.p50, ttftMs.p99, itlMs.p50, itlMs.p99].map(ms);
  const rates = [figures.outputTokensPerSecond, figures.promptTokensPerSecond];
  const shares = [cachedTokens / promptTokens, hostShare].map((x) => `${(100 * x).toFixed(1)} %`);
  const late = `${ms(figures.lagMs)} ms`;
  lines.push([row.name, ...cells, ...rates.map((each) => each.toFixed(1)), ...shares, late]);
  if (engine.device.kind === "cuda")
    lines.at(-1)!.push(String(figures.answers), String(row.tensorRt ?? ""));
  lines.at(-1)!.push(...besidePeer(row, figures, theirs));
  results.push({ ...row, ...figures, ...(theirs && { peer: theirs }) });
  process.stderr.write(`${lines.at(-1)!.join("  ")}\n`);
}
process.stdout.write(table(lines));
await llama?.[Symbol.asyncDispose]();
if (options.json !== undefined) {
  const said = { model: engine.summary(), rows: results };
  await Bun.write(options.json, `${JSON.stringify(said, null, 2)}\n`);
}
const { kind } = engine.device;
await engine[Symbol.asyncDispose]();
if (kind === "cpu" && options.only?.test("warm start") !== false)
  process.stdout.write(`warm start: ${(await warmStartSeconds()).toFixed(2)} s to a first token\n`);
