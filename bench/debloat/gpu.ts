/**
 * Traces a PyTorch program on a GPU, shrinks what it loads and runs it with the original and the
 * shrunk libraries in turn, device code loaded lazily and eagerly: results, times and memory.
 *
 * Usage: bun bench/debloat/gpu.ts [--site <folder>] [--rounds <n>] [--traced <n>] [--json <file>]
 *                                 [--program <file> [words...]]
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { type Profile, runShrunk, traceCommand } from "../../src/debloat/index.ts";
import { median } from "../bench.ts";
import { parseCount } from "../table.ts";
import { benchFolder } from "./install.ts";
import { loadings, textOfCost, tracerCosts } from "./tracer.ts";

/** What gpu_program.py says of itself, and the wall time of its process. */
interface Report {
  hash: string;
  importSeconds: number;
  firstUseSeconds: number;
  loopSeconds: number;
  peakHostBytes: number;
  gpuBytes: number;
  seconds: number;
}

const figures = [
  ["process", "seconds", "s"],
  ["import", "importSeconds", "s"],
  ["first use", "firstUseSeconds", "s"],
  ["20 steps", "loopSeconds", "s"],
  ["host memory, peak", "peakHostBytes", "MB"],
  ["GPU memory", "gpuBytes", "MB"],
] as const;

const parsed = new Command("bench:debloat:gpu")
  .description("Runs a PyTorch program on a GPU with its original and with shrunk libraries.")
  .option("--site <folder>", "PYTHONPATH of PyTorch; default: what python3 imports")
  .option("--rounds <n>", "runs of each kind", parseCount(1, 100), 3)
  .option("--traced <n>", "runs with the tracer, to see its cost", parseCount(0, 100), 3)
  .option("--json <file>", "write everything as JSON")
  .option("--program <file>", "another program, which writes its report to its last argument")
  .argument("[words...]", "arguments of the program")
  .parse();
const options = parsed.opts<{
  site?: string;
  rounds: number;
  traced: number;
  json?: string;
  program?: string;
}>();

const answer = join(benchFolder, "gpu.json");
const program = options.program ?? join(import.meta.dir, "gpu_program.py");
const command = ["python3", program, ...parsed.args, answer];
const folders = { cache: join(benchFolder, "gpu-cache") };
const choices = { level: "kernel", host: "pages", strip: true, dropRel: true } as const;

process.exitCode = await main();

async function main(): Promise<number> {
  if (options.site !== undefined) process.env["PYTHONPATH"] = options.site;
  mkdirSync(benchFolder, { recursive: true });
  rmSync(folders.cache, { recursive: true, force: true });
  const profile = await traced();
  const began = performance.now();
  const shrunk = await runOnce(profile, "LAZY");
  const { libraries, bytesBefore, bytesAfter } = shrunk.run;
  const shrinkSeconds = (performance.now() - began) / 1000 - shrunk.report.seconds;
  process.stdout.write(
    `${libraries} libraries, ${megabytes(bytesBefore)} -> ${megabytes(bytesAfter)} MB ` +
      `(${(100 * (bytesAfter / bytesBefore - 1)).toFixed(1)} %) ` +
      `in ${shrinkSeconds.toFixed(1)} s\n`,
  );
  const overhead = options.traced === 0 ? [] : await tracerCosts(command, options.traced, say);
  for (const cost of overhead) process.stdout.write(textOfCost(cost));
  const runs: Record<string, Report[]> = {};
  const back: Record<string, number> = {};
  for (let round = 0; round < options.rounds; round++) {
    for (const loading of loadings) {
      (runs[`original ${loading}`] ??= []).push(await plain(loading));
      const { report, run } = await runOnce(profile, loading);
      (runs[`shrunk ${loading}`] ??= []).push(report);
      back[loading] = [...run.pagesBack.values()].reduce((sum, pages) => sum + pages, 0);
    }
  }
  const cold = await coldStarts(profile);
  print(runs);
  for (const loading of loadings) {
    process.stdout.write(`pages of host code that came back, ${loading}: ${back[loading]}\n`);
  }
  const all = [...Object.values(runs).flat(), ...(cold?.reports ?? [])];
  const isEqual = new Set(all.map(({ hash }) => hash)).size === 1;
  process.stdout.write(
    `results: ${isEqual ? "every bit equal" : "DIFFERENT"} in ${all.length} runs\n`,
  );
  if (options.json !== undefined) {
    const sizes = { libraries, bytesBefore, bytesAfter, shrinkSeconds };
    const report = { sizes, overhead, runs, back, cold, isEqual, ran: profile.runs };
    writeFileSync(options.json, `${JSON.stringify(report, undefined, 1)}\n`);
  }
  return isEqual ? 0 : 1;
}

/** What the program uses; entered functions, which no other way of watching knows as exactly. */
async function traced(): Promise<Profile> {
  const { profile, ended, functions } = await traceCommand(command, {
    host: "functions",
    onProblem: say,
  });
  if (ended.exitCode !== 0) throw new Error("the program does not run under the tracer");
  const all = Object.values(profile.libraries);
  const kernels = all.reduce((sum, library) => sum + library.kernels.length, 0);
  process.stdout.write(
    `traced in ${ended.seconds.toFixed(1)} s: ${all.length} libraries, ${kernels} kernels, ` +
      `${functions} functions\n`,
  );
  return profile;
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

async function plain(loading: string): Promise<Report> {
  const started = performance.now();
  const env = { ...process.env, CUDA_MODULE_LOADING: loading };
  const child = Bun.spawn(command, { env, stdout: "inherit", stderr: "inherit" });
  if ((await child.exited) !== 0) throw new Error("the program failed");
  return reportOf((performance.now() - started) / 1000);
}

async function runOnce(profile: Profile, loading: string) {
  process.env["CUDA_MODULE_LOADING"] = loading;
  const run = await runShrunk(command, { ...choices, ...folders, profile, onProblem: say });
  delete process.env["CUDA_MODULE_LOADING"];
  if (run.ended.exitCode !== 0) throw new Error("the program failed with shrunk libraries");
  return { report: reportOf(run.ended.seconds), run };
}

function reportOf(seconds: number): Report {
  const report = JSON.parse(readFileSync(answer, "utf8")) as Report;
  rmSync(answer);
  return { ...report, seconds };
}

/** First runs after the system forgot all files, where it lets us. */
async function coldStarts(profile: Profile) {
  const reports: Report[] = [];
  const seconds: Record<string, number[]> = { original: [], shrunk: [] };
  for (let round = 0; round < options.rounds; round++) {
    for (const kind of ["original", "shrunk"]) {
      if (!forgetFiles()) return undefined;
      const report =
        kind === "original" ? await plain("LAZY") : (await runOnce(profile, "LAZY")).report;
      seconds[kind].push(report.seconds);
      reports.push(report);
    }
  }
  process.stdout.write(
    `cold start, LAZY: ${median(seconds["original"]).toFixed(2)} s -> ` +
      `${median(seconds["shrunk"]).toFixed(2)} s\n`,
  );
  return { seconds, reports };
}

function forgetFiles(): boolean {
  try {
    Bun.spawnSync(["sync"]);
    writeFileSync("/proc/sys/vm/drop_caches", "3");
    return true;
  } catch {
    say("cold starts are left out: only root may drop the system's caches");
    return false;
  }
}

function print(runs: Record<string, Report[]>): void {
  for (const loading of loadings) {
    process.stdout.write(`\n${loading}\n`);
    for (const [name, field, unit] of figures) {
      const [before, after] = [`original ${loading}`, `shrunk ${loading}`].map((kind) =>
        median(runs[kind].map((report) => report[field])),
      );
      const [x, y] = [before, after].map((value) =>
        unit === "s" ? value.toFixed(2) : megabytes(value),
      );
      const change = ((100 * (after - before)) / before).toFixed(1);
      process.stdout.write(`${name.padEnd(20)} ${x} -> ${y} ${unit} (${change} %)\n`);
    }
  }
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(0);
}
