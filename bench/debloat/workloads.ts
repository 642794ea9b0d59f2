/**
 * The paper's evaluation: ten workloads of four frameworks on a GPU, and wheels that need none to
 * be shrunk by architecture. Where no GPU is, rows say so with the command that measures them.
 */
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { must, root } from "../../scripts/toolchain.ts";
import { inspectLibrary, Pool, slimTree } from "../../src/debloat/index.ts";
import { benchFolder } from "./install.ts";
import { unfinished } from "./steps.ts";

/** A program that gpu.ts runs with the originals and with shrunk libraries. */
interface Workload {
  readonly name: string;
  /** Packages of PyPI that it needs; their names are those of the modules, up to a version. */
  readonly packages: readonly string[];
  readonly command: readonly string[];
  /** Whether only the tracer's cost is measured, by tracer.ts. */
  readonly isTraced?: boolean;
}

const torch = ["torch==2.11.0", "numpy"];
const jax = ["jax[cuda13]"];
const cupy = ["cupy-cuda13x[ctk]"];

const workloads: readonly Workload[] = [
  ...["mobilenet", "transformer"].flatMap((model) =>
    ["infer", "train"].map((way) => ({
      name: `PyTorch ${model} ${way}`,
      packages: torch,
      command: ["torch_model.py", model, way],
    })),
  ),
  ...["generate", "train"].flatMap((way) => [
    {
      name: `Transformers Llama ${way}`,
      packages: [...torch, "transformers"],
      command: ["llama.py", way],
    },
    { name: `JAX Llama ${way}`, packages: jax, command: ["jax_model.py", way] },
  ]),
  ...["linalg", "fft"].map((way) => ({
    name: `CuPy ${way}`,
    packages: cupy,
    command: ["cupy_math.py", way],
  })),
  { name: "tracer", packages: torch, command: ["../gpu_program.py"], isTraced: true },
];

/** Wheels whose libraries are shrunk by architecture alone. */
const wheels = ["onnxruntime-gpu", "tensorflow", "vllm"];

/** What is left of a wheel. */
export interface WheelRow {
  readonly name: string;
  readonly libraries: number;
  readonly shrunk: number;
  readonly files: readonly [before: number, after: number];
  readonly deviceCode: readonly [before: number, after: number];
  readonly hostCode: number;
  readonly seconds: number;
}

/** How much of the workloads one command does. */
export interface WorkloadOptions {
  /** Workloads and wheels whose name matches. */
  readonly only: RegExp;
  /** Steps of workloads at most; the same command goes on. */
  readonly steps?: number;
  /** Whether packages come from what python3 imports, not from PyPI. */
  readonly isInstalled: boolean;
}

/** Runs what can be run here; returns the rows of the wheels. */
export async function runWorkloads(options: WorkloadOptions): Promise<WheelRow[]> {
  const hasGpu = existsSync("/dev/nvidia0");
  for (const workload of workloads.filter(({ name }) => options.only.test(name))) {
    const { name, packages } = workload;
    const site = join(folder, packages.join("+").replace(/[^\w.+-]/g, "_"));
    const line = lineOf(workload, site, options);
    if (!hasGpu) {
      const shown = line.join(" ").replaceAll(`${root}/`, "");
      process.stdout.write(`${name}: not measured, bun ${shown}\n`);
      continue;
    }
    process.stdout.write(`\n${name}\n`);
    const missing = options.isInstalled ? packages.filter(isMissing) : [];
    if (missing.length > 0) {
      const names = missing.join(", ");
      process.stdout.write(`${name}: not measured, python3 imports no ${names}\n`);
      continue;
    }
    if (!options.isInstalled) await install(site, packages);
    const child = Bun.spawn([process.execPath, ...line], { stdout: "inherit", stderr: "inherit" });
    const code = await child.exited;
    if (code === unfinished) continue;
    process.stdout.write(`${name}: ${code === 0 ? "done" : "FAILED"}\n`);
  }
  const rows: WheelRow[] = [];
  for (const name of wheels) if (options.only.test(name)) rows.push(await shrinkWheel(name));
  return rows;
}

const folder = join(benchFolder, "workloads");

/** The command line of a workload, which goes on where it was cut off. */
function lineOf(workload: Workload, site: string, options: WorkloadOptions): string[] {
  const { name, command, isTraced } = workload;
  const state = join(folder, "states", name.replaceAll(" ", "-"));
  const steps = options.steps === undefined ? [] : ["--steps", String(options.steps)];
  const kept = ["--state", state, ...steps, "--json", `${state}.json`];
  const program = [join("bench", "debloat", "workloads", command[0]), ...command.slice(1)];
  if (isTraced) {
    const python = options.isInstalled ? ["python3"] : ["env", `PYTHONPATH=${site}`, "python3"];
    const answer = `${state}.answer`;
    return ["bench/debloat/tracer.ts", "--rounds", "5", ...kept, ...python, ...program, answer];
  }
  const once = ["--rounds", "1", "--traced", "0", "--cold", "0"];
  const where = options.isInstalled ? [] : ["--site", site];
  return ["bench/debloat/gpu.ts", ...kept, ...once, ...where, "--program", ...program];
}

/** Whether python3 does not find the module of a package. */
function isMissing(name: string): boolean {
  const module = name.replace(/\W.*$/, "");
  const script = "import sys, importlib.util as u; sys.exit(u.find_spec(sys.argv[1]) is None)";
  return Bun.spawnSync(["python3", "-c", script, module]).exitCode !== 0;
}

async function install(site: string, packages: readonly string[]): Promise<void> {
  if (existsSync(site)) return;
  const part = `${site}.part`;
  rmSync(part, { recursive: true, force: true });
  const python = Bun.which("python3") ?? "python3";
  const pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"];
  const options = ["--only-binary=:all:", "--target", part];
  await must(`fetching ${packages.join(", ")}`, [...pip, ...options, ...packages], "run it again.");
  renameSync(part, site);
}

async function shrinkWheel(name: string): Promise<WheelRow> {
  const site = join(benchFolder, "wheels-of", name);
  await install(site, ["--no-deps", name]);
  const slim = `${site}.slim`;
  rmSync(slim, { recursive: true, force: true });
  mkdirSync(benchFolder, { recursive: true });
  const started = performance.now();
  const report = await slimTree(site, slim, { arch: ["sm_90"], strip: true, dropRel: true });
  const seconds = (performance.now() - started) / 1000;
  const before = await codeOf(site, report.libraries);
  const after = await codeOf(slim, report.libraries);
  rmSync(slim, { recursive: true });
  const row: WheelRow = {
    name,
    libraries: before.libraries,
    shrunk: report.libraries.length,
    files: [report.bytesBefore, report.bytesAfter],
    deviceCode: [before.device, after.device],
    hostCode: before.host,
    seconds,
  };
  process.stdout.write(`${textOf(row)}\n`);
  return row;
}

/** Bytes of code of the libraries that were shrunk, and how many libraries there are at all. */
async function codeOf(site: string, shrunk: readonly { readonly name: string }[]) {
  const libraries = [...new Bun.Glob("**/*.so*").scanSync({ cwd: site })].length;
  const sums = { libraries, device: 0, host: 0 };
  using pool = new Pool();
  for (const { name } of shrunk) {
    const { sections } = await inspectLibrary(join(site, name), pool);
    for (const { part, bytes } of sections) {
      if (part.includes("fat binaries")) sums.device += bytes;
      if (part === "host code") sums.host += bytes;
    }
  }
  return sums;
}

function textOf({ name, libraries, shrunk, files, deviceCode, hostCode, seconds }: WheelRow) {
  const change = ([before, after]: readonly [number, number]) => {
    const share = before === 0 ? 0 : (100 * (after - before)) / before;
    return `${(before / 1e6).toFixed(0)} -> ${(after / 1e6).toFixed(0)} MB (${share.toFixed(1)} %)`;
  };
  return (
    `${name}, sm_90, strip, drop-rel: ${shrunk} of ${libraries} libraries, files ` +
    `${change(files)}, device code ${change(deviceCode)}, host code ` +
    `${(hostCode / 1e6).toFixed(0)} MB; ${seconds.toFixed(1)} s`
  );
}
