/**
 * Traces a program on a GPU, shrinks what it loads and runs it with the original and the shrunk
 * libraries in turn, device code loaded lazily and eagerly: results, times and memory. Each step
 * leaves a file in a folder, so that a command that was cut off goes on where it was.
 *
 * Usage: bun bench/debloat/gpu.ts [--site <folder>] [--rounds <n>] [--traced <n>] [--cold <n>]
 *   [--state <folder>] [--steps <n>] [--only <regex>] [--json <file>] [--program <file> [words...]]
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  formatProfile,
  parseProfile,
  type Profile,
  runShrunk,
  traceCommand,
} from "../../src/debloat/index.ts";
import { shrunkLibraries } from "../../src/debloat/run.ts";
import { median } from "../bench.ts";
import { benchCommand } from "../command.ts";
import { parseCount } from "../table.ts";
import { benchFolder } from "./install.ts";
import { Steps, Unfinished, unfinished } from "./steps.ts";
import { type Loading, loadings, textOfCost, tracerCosts } from "./tracer.ts";

/** What a program says of itself, and the wall time of its process. */
interface Report {
  hash: string;
  importSeconds: number;
  firstUseSeconds: number;
  loopSeconds: number;
  peakHostBytes: number;
  gpuBytes: number;
  seconds: number;
  /** Removed pages that came back. */
  pagesBack: number;
}

const figures = [
  ["process", "seconds", "s"],
  ["import", "importSeconds", "s"],
  ["first use", "firstUseSeconds", "s"],
  ["20 steps", "loopSeconds", "s"],
  ["host memory, peak", "peakHostBytes", "MB"],
  ["GPU memory", "gpuBytes", "MB"],
] as const;

const kinds = ["original", "shrunk"] as const;
type Kind = (typeof kinds)[number];

const parsed = benchCommand("bench:debloat:gpu")
  .description("Runs a program on a GPU with its original and with shrunk libraries.")
  .option("--site <folder>", "PYTHONPATH of its packages; default: what python3 imports")
  .option("--rounds <n>", "runs of each kind", parseCount(1, 100), 3)
  .option("--traced <n>", "runs with the tracer, to see its cost", parseCount(0, 100), 3)
  .option("--cold <n>", "runs of each kind with no file in memory", parseCount(0, 100), 3)
  .option("--state <folder>", "what was measured; default: a new folder")
  .option("--steps <n>", "do at most so many steps; the same command goes on", parseCount(1, 1000))
  .option("--only <regex>", "leave out the runs whose names do not match, such as LAZY")
  .option("--json <file>", "write everything as JSON")
  .option("--program <file>", "another program, which writes its report to its last argument")
  .argument("[words...]", "arguments of the program")
  .parse();
const options = parsed.opts<{
  site?: string;
  rounds: number;
  traced: number;
  cold: number;
  state?: string;
  steps?: number;
  only?: string;
  json?: string;
  program?: string;
}>();

const state = options.state ?? join(benchFolder, "gpu");
if (options.state === undefined) rmSync(state, { recursive: true, force: true });
mkdirSync(state, { recursive: true });
const answer = join(state, "answer");
const profilePath = join(state, "profile.json");
const program = options.program ?? join(import.meta.dir, "gpu_program.py");
const command = ["python3", program, ...parsed.args, answer];
const choices = {
  level: "kernel",
  host: "pages",
  strip: true,
  dropRel: true,
  cache: join(state, "cache"),
} as const;
const steps = new Steps(join(state, "steps"), options.steps);
const only = new RegExp(options.only ?? "");

try {
  process.exitCode = await main();
} catch (cause) {
  if (!(cause instanceof Unfinished)) throw cause;
  say(cause.message);
  process.exitCode = unfinished;
}

async function main(): Promise<number> {
  if (options.site !== undefined) process.env["PYTHONPATH"] = options.site;
  const traced = await steps.take("trace", trace);
  const profile = parseProfile(readFileSync(profilePath, "utf8"), profilePath);
  const sizes = await shrink(profile);
  const overhead =
    options.traced === 0 ? [] : await tracerCosts(command, options.traced, steps, say);
  for (const cost of overhead) process.stdout.write(textOfCost(cost));
  const runs: Record<string, Report[]> = {};
  for (let round = 0; round < options.rounds; round++)
    for (const loading of loadings)
      for (const kind of kinds) {
        const name = `${kind} ${loading}`;
        if (!only.test(name)) continue;
        const report = await steps.take(`${name} ${round}`, () => run(kind, loading, profile));
        (runs[name] ??= []).push(report);
      }
  const cold = await coldStarts(profile);
  print(runs);
  const all = [...Object.values(runs), ...Object.values(cold)].flat();
  const isEqual = new Set(all.map(({ hash }) => hash)).size === 1;
  process.stdout.write(
    `pages that came back: ${Math.max(...all.map(({ pagesBack }) => pagesBack))} at most\n` +
      `results: ${isEqual ? "every bit equal" : "DIFFERENT"} in ${all.length} runs\n`,
  );
  if (options.json !== undefined) {
    const report = { traced, sizes, overhead, runs, cold, isEqual, ran: profile.runs };
    writeFileSync(options.json, `${JSON.stringify(report, undefined, 1)}\n`);
  }
  return isEqual ? 0 : 1;
}

/** What the program uses; entered functions, which no other way of watching knows as exactly. */
async function trace() {
  const { profile, ended, functions } = await traceCommand(command, {
    host: "functions",
    onProblem: say,
  });
  if (ended.exitCode !== 0)
    throw new Error(`the program ended with ${ended.exitCode} under the tracer`);
  writeFileSync(profilePath, formatProfile(profile));
  const all = Object.values(profile.libraries);
  const kernels = all.reduce((sum, library) => sum + library.kernels.length, 0);
  process.stdout.write(
    `traced in ${ended.seconds.toFixed(1)} s: ${all.length} libraries, ${kernels} kernels, ` +
      `${functions} functions\n`,
  );
  return { seconds: ended.seconds, libraries: all.length, kernels, functions };
}

/** Shrinks what the profile names; bytes before and after. Without its cache it is done again. */
async function shrink(profile: Profile) {
  if (!existsSync(choices.cache)) rmSync(join(state, "steps", "shrink.json"), { force: true });
  const sizes = await steps.take("shrink", async () => {
    rmSync(choices.cache, { recursive: true, force: true });
    const [device, host]: [number, number][] = [
      [0, 0],
      [0, 0],
    ];
    const began = performance.now();
    const found = await shrunkLibraries({ ...choices, profile, onProblem: say }, (report) => {
      [report.before, report.after].forEach((bytes, at) => {
        device[at] += bytes.fatbin + bytes.relocatable + bytes.loose;
        host[at] += bytes.text;
      });
    });
    const files = (["bytesBefore", "bytesAfter"] as const).map((when) =>
      found.reduce((sum, library) => sum + library[when], 0),
    );
    const seconds = (performance.now() - began) / 1000;
    return { libraries: found.length, files, device, host, seconds };
  });
  const change = ([before, after]: readonly number[]) =>
    `${megabytes(before)} -> ${megabytes(after)} MB (${share(before, after)} %)`;
  process.stdout.write(
    `${sizes.libraries} libraries, files ${change(sizes.files)}, device code ` +
      `${change(sizes.device)}, host code ${change(sizes.host)} in ${sizes.seconds.toFixed(1)} s\n`,
  );
  return sizes;
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

async function run(kind: Kind, loading: Loading, profile: Profile): Promise<Report> {
  rmSync(answer, { force: true });
  process.env["CUDA_MODULE_LOADING"] = loading;
  const started = performance.now();
  if (kind === "shrunk") {
    const { ended, pagesBack } = await runShrunk(command, { ...choices, profile, onProblem: say });
    if (ended.exitCode !== 0) throw new Error("the program failed with shrunk libraries");
    const back = [...pagesBack.values()].reduce((sum, pages) => sum + pages, 0);
    return reportOf(ended.seconds, back);
  }
  const child = Bun.spawn(command, { env: process.env, stdout: "inherit", stderr: "inherit" });
  if ((await child.exited) !== 0) throw new Error("the program failed");
  return reportOf((performance.now() - started) / 1000, 0);
}

function reportOf(seconds: number, pagesBack: number): Report {
  const report = JSON.parse(readFileSync(answer, "utf8")) as Report;
  rmSync(answer);
  return { ...report, seconds, pagesBack };
}

/** First runs after the system forgot all files, where it lets us. */
async function coldStarts(profile: Profile): Promise<Record<string, Report[]>> {
  const reports: Record<string, Report[]> = {};
  for (let round = 0; round < options.cold; round++)
    for (const kind of kinds) {
      const name = `cold ${kind} LAZY`;
      if (!only.test(name)) continue;
      const report = await steps.take(`${name} ${round}`, async () =>
        forgetFiles() ? await run(kind, "LAZY", profile) : null,
      );
      if (report !== null) (reports[name] ??= []).push(report);
    }
  for (const [name, runs] of Object.entries(reports))
    process.stdout.write(`${name}: ${median(runs.map(({ seconds }) => seconds)).toFixed(2)} s\n`);
  return reports;
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
    const [original, shrunk] = kinds.map((kind) => runs[`${kind} ${loading}`]);
    if (original === undefined || shrunk === undefined) continue;
    process.stdout.write(`\n${loading}\n`);
    for (const [name, field, unit] of figures) {
      const [before, after] = [original, shrunk].map((reports) =>
        median(reports.map((report) => report[field])),
      );
      const [x, y] = [before, after].map((value) =>
        unit === "s" ? value.toFixed(2) : megabytes(value),
      );
      const line = `${name.padEnd(20)} ${x} -> ${y} ${unit} (${share(before, after)} %)\n`;
      process.stdout.write(line);
    }
  }
}

function share(before: number, after: number): string {
  return (before === 0 ? 0 : 100 * (after / before - 1)).toFixed(1);
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(0);
}
