/**
 * Shrinks PyTorch's CUDA libraries by each option and prints what is left beside the paper's
 * figures; then runs a program of the CPU with the original and with the shrunk libraries.
 *
 * Usage: bun run bench:debloat [--site <folder>] [--only <regex>] [--json <file>]
 *                              [--workloads [--steps <n>] [--installed]]
 */
import { existsSync, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, join } from "node:path";
import { root } from "../../scripts/toolchain.ts";
import { benchCommand, setUp } from "../command.ts";
import { parseCount, parseRegex } from "../table.ts";
import { benchFolder, type Installed, installed, namesOf, torchVersion } from "./install.ts";
import type { StepRequest, StepSums } from "./step.ts";
import { runWorkloads } from "./workloads.ts";

/** A row: one way of shrinking. */
interface Row {
  readonly name: string;
  readonly shrink?: Omit<NonNullable<StepRequest["shrink"]>, "output">;
  /** Least savings in percent, and whether time and memory have a goal. */
  readonly goal?: { readonly files?: number; readonly fatbins?: number };
  readonly isTimed?: boolean;
  /** Names of the libraries that it is about; absent: all. */
  readonly libraries?: RegExp;
}

/** A measured row. */
interface Measured {
  readonly name: string;
  readonly seconds: number;
  /** Of all its threads together. */
  readonly cpuSeconds: number;
  readonly peakBytes: number;
  readonly sums: StepSums;
  readonly missed: readonly string[];
}

const profilePath = join(benchFolder, "cpu.json");
const program = join(import.meta.dir, "program.py");
const sidecars = join(benchFolder, "sidecars");
const output = join(benchFolder, "shrunk");
const secondsMax = 12;
const peakBytesMax = 1e9;

const arch = ["sm_90"];
const listed = { arch, kernels: true } as const;
const rest = { strip: true, dropRel: true } as const;

const rows: readonly Row[] = [
  { name: "inspect" },
  { name: "sm_90", shrink: { arch, level: "arch" }, goal: { fatbins: 80 }, isTimed: true },
  {
    name: "sm_90, strip, drop-rel",
    shrink: { arch, level: "arch", ...rest },
    goal: { files: 45 },
    isTimed: true,
  },
  { name: "images with listed kernels", shrink: { ...listed, level: "cubin" }, isTimed: true },
  {
    name: "listed kernels",
    shrink: { ...listed, level: "kernel" },
    goal: { fatbins: 98 },
    isTimed: true,
  },
  {
    name: "listed kernels, strip, drop-rel",
    shrink: { ...listed, level: "kernel", ...rest },
    goal: { fatbins: 98 },
    isTimed: true,
  },
  {
    name: "the same, host pages of the CPU program",
    shrink: { ...listed, level: "kernel", ...rest, host: "pages", profilePath, sidecars },
    goal: { fatbins: 98, files: 60 },
    isTimed: true,
  },
  // What zstd has packed already gets no smaller: only these hold images that nothing has packed.
  {
    name: "sm_90, recompress 19: curand, cusolver",
    shrink: { arch, level: "arch", recompress: 19 },
    libraries: /cu(rand|solver)\./,
  },
];

const command = benchCommand("bench:debloat")
  .description("Shrinks PyTorch's CUDA libraries by each option and checks what is left.")
  .option("--site <folder>", `use PyTorch ${torchVersion} of this folder; nothing is fetched`)
  .option("--only <regex>", "run the rows whose name matches", parseRegex, /./)
  .option("--json <file>", "write the rows as JSON")
  .option("--workloads", "run the paper's workloads instead, as far as this machine can")
  .option("--steps <n>", "of each workload, then stop: the same goes on", parseCount(1, 1000))
  .option("--installed", "workloads import what python3 has; nothing is fetched")
  .parse();

const options = command.opts<{
  site?: string;
  only: RegExp;
  json?: string;
  workloads?: boolean;
  steps?: number;
  installed?: boolean;
}>();
await setUp();
if (options.workloads) {
  const { only, steps, installed: isInstalled = false } = options;
  const found = await runWorkloads({ only, steps, isInstalled });
  if (options.json !== undefined)
    writeFileSync(options.json, `${JSON.stringify(found, undefined, 1)}\n`);
} else process.exitCode = await main(options);

async function main(options: { site?: string; only: RegExp; json?: string }): Promise<number> {
  const libraries = await installed(options.site);
  mkdirSync(benchFolder, { recursive: true });
  const bytes = libraries.cuda.reduce((sum, path) => sum + statSync(path).size, 0);
  const count = `${libraries.cuda.length} libraries with device code, ${megabytes(bytes)}`;
  process.stdout.write(
    `PyTorch ${torchVersion}: ${count}\n${namesOf(libraries.cuda)}\n` +
      `${availableParallelism()} cores; listed kernels: ` +
      "bench/debloat/kernels.ts, in place of a profile from a GPU\n" +
      "paper: device code -75 %, host code -72 %, files -55 % at most, " +
      "on average of a workload\n\n",
  );
  const measured: Measured[] = [];
  printRow([
    "row",
    "files",
    "",
    "fat binaries",
    "",
    "host code",
    "",
    "time",
    "of CPU",
    "peak",
    "goal",
  ]);
  for (const row of rows) {
    if (!options.only.test(row.name)) continue;
    if (row.shrink?.profilePath !== undefined) await trace(libraries);
    measured.push(await measure(row, libraries.cuda));
    print(measured.at(-1)!, row);
  }
  const ran = options.only.test("program") ? await runProgram(libraries) : undefined;
  process.stdout.write(
    "not measured here: outputs, memory, first use and start on a GPU, with device code " +
      "loaded lazily and eagerly; bench/debloat/gpu.ts does that\n",
  );
  if (options.json !== undefined)
    writeFileSync(
      options.json,
      `${JSON.stringify({ rows: measured, program: ran }, undefined, 1)}\n`,
    );
  return measured.some(({ missed }) => missed.length > 0) || ran?.isRight === false ? 1 : 0;
}

/** Runs a row in a process of its own, whose time and memory count. */
async function measure(row: Row, files: readonly string[]): Promise<Measured> {
  const { name, shrink, goal, isTimed, libraries = /./ } = row;
  // A file that takes the place of another is written to the disk first, and that would count.
  for (const made of [output, sidecars]) rmSync(made, { recursive: true, force: true });
  const request: StepRequest = {
    files: files.filter((path) => libraries.test(basename(path))),
    ...(shrink !== undefined && { shrink: { ...shrink, output } }),
  };
  const script = join(import.meta.dir, "step.ts");
  const started = performance.now();
  const child = Bun.spawn([process.execPath, script, JSON.stringify(request)], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const text = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) throw new Error(`${name} failed`);
  const seconds = (performance.now() - started) / 1000;
  const { maxRSS: peakBytes, cpuTime } = child.resourceUsage()!;
  const cpuSeconds = Number(cpuTime.total) / 1e6;
  const sums = JSON.parse(text) as StepSums;
  const missed = [
    ...(["files", "fatbins"] as const).flatMap((part) => {
      const saved = -change(sums[part]);
      const least = goal?.[part] ?? 0;
      return saved >= least ? [] : [`${part} -${least} %`];
    }),
    ...(isTimed && seconds >= secondsMax ? [`under ${secondsMax} s`] : []),
    ...(peakBytes >= peakBytesMax ? [`under ${megabytes(peakBytesMax)}`] : []),
  ];
  return { name, seconds, cpuSeconds, peakBytes, sums, missed };
}

function print(measured: Measured, { goal, isTimed }: Row): void {
  const { name, seconds, cpuSeconds, peakBytes, sums, missed } = measured;
  const parts = [sums.files, sums.fatbins, sums.hostCode].flatMap((pair) =>
    pair[0] === 0 ? ["", ""] : [megabytes(pair[1]), `${change(pair).toFixed(1)} %`],
  );
  const goals = [
    ...(goal?.files === undefined ? [] : [`files -${goal.files} %`]),
    ...(goal?.fatbins === undefined ? [] : [`fat binaries -${goal.fatbins} %`]),
    ...(isTimed ? [`${secondsMax} s`] : []),
    megabytes(peakBytesMax),
  ].join(", ");
  const verdict = missed.length === 0 ? `met: ${goals}` : `MISSED: ${missed.join(", ")}`;
  const times = [seconds, cpuSeconds].map((time) => `${time.toFixed(1)} s`);
  printRow([name, ...parts, ...times, megabytes(peakBytes), verdict]);
}

function printRow(cells: readonly string[]): void {
  const widths = [39, 8, 7, 12, 7, 9, 7, 8, 8, 8, 0];
  const padded = cells.map((cell, at) => {
    return at === 0 || at === 10 ? cell.padEnd(widths[at]) : cell.padStart(widths[at]);
  });
  process.stdout.write(`${padded.join("  ").trimEnd()}\n`);
}

function change([before, after]: readonly [number, number]): number {
  return before === 0 ? 0 : (100 * (after - before)) / before;
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 1e8 ? 1 : 0)} MB`;
}

/** The command line, as people call it. */
function flashbun(...args: string[]): string[] {
  return [process.execPath, join(root, "src", "cli", "main.ts"), "debloat", ...args];
}

function environment({ site }: Installed): Record<string, string | undefined> {
  return { ...process.env, PYTHONPATH: site };
}

/** What of the host code the program touches, once for all rows. */
async function trace(libraries: Installed): Promise<void> {
  if (existsSync(profilePath)) return;
  const traced = flashbun(
    "trace",
    "--host",
    "functions",
    "-o",
    profilePath,
    "--",
    "python3",
    program,
  );
  const child = Bun.spawn(traced, { env: environment(libraries), stderr: "inherit" });
  if ((await child.exited) !== 0) throw new Error("the program does not run under the tracer");
}

/** Shrinks the CPU's library too, then has verify run the program with both. */
async function runProgram(libraries: Installed): Promise<{ isRight: boolean; checks: unknown }> {
  await trace(libraries);
  const row = rows.find(({ shrink }) => shrink?.profilePath !== undefined)!;
  const all = [...libraries.cuda, libraries.cpu];
  const { sums } = await measure(row, all);
  process.stdout.write(
    `\nthe CPU program with ${all.length} libraries of "${row.name}", ${basename(libraries.cpu)} ` +
      `among them: files ${megabytes(sums.files[0])} -> ${megabytes(sums.files[1])}, ` +
      `${change(sums.files).toFixed(1)} %, host code ${change(sums.hostCode).toFixed(1)} %\n`,
  );
  const json = join(benchFolder, "verify.json");
  const run = `python3 '${program}'`;
  const options = ["--sidecar", sidecars, "--run", run, "--json", json];
  const child = Bun.spawn(flashbun("verify", ...options, ...all, output), {
    env: environment(libraries),
    stdout: "inherit",
    stderr: "inherit",
  });
  const isRight = (await child.exited) === 0;
  return { isRight, checks: await Bun.file(json).json() };
}
