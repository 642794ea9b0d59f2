/**
 * What ranks on GPUs of this machine reach: the 8B shape on one GPU and on all, the 70B shape on
 * all, and of each the share of all-reduces in the time between tokens. NVLink multicast is off.
 *
 * Usage: bun run bench:ranks; --help lists the options
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { table } from "../../src/cli/table.ts";
import { namedShapes } from "../../src/weights/shapes.ts";
import { benchCommand, setUp } from "../command.ts";
import { parseCount, parseRegex } from "../table.ts";

/** Runs a program of bench; what it printed. Throws with its exit code. */
async function run(program: string, ...args: string[]): Promise<string> {
  const command = [process.execPath, join(import.meta.dir, "..", program), ...args];
  const env = { NCCL_NVLS_ENABLE: "0", ...process.env };
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "inherit", env });
  const text = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) throw new Error(`${program} ended with ${child.exitCode}`);
  return text;
}

/** Microseconds in a graph by bytes, of what bench/ranks/all-reduce.ts prints. */
export function reducesOf(text: string): [bytes: number, us: number][] {
  const lines = text.matchAll(/(\d+) (KB|MB): .*? ([\d.]+) us in a graph/g);
  return [...lines].map(([, size, unit, us]) => [
    Number(size) * (unit === "KB" ? 2 ** 10 : 2 ** 20),
    Number(us),
  ]);
}

/** The part of the time between tokens that a step's all-reduces take, two in each layer. */
export function reduceShare(
  shape: string,
  rows: number,
  itlMs: number,
  reduces: readonly (readonly [number, number])[],
): number {
  const fields = namedShapes[shape] as Record<string, number>;
  const bytes = 2 * rows * fields["hidden_size"];
  const [, us] = reduces.find(([size]) => size >= bytes) ?? reduces.at(-1)!;
  return (2 * fields["num_hidden_layers"] * us) / 1000 / itlMs;
}

interface Served {
  readonly rows: readonly {
    readonly name: string;
    readonly clients?: number;
    readonly itlMs: { readonly p50: number; readonly p99: number };
    readonly outputTokensPerSecond: number;
  }[];
}

if (import.meta.main) {
  const command = benchCommand("bench:ranks")
    .description("Measures the 8B and the 70B shape on ranks, and what their all-reduces take.")
    .option("--tp <ranks>", "ranks, each a GPU of this machine", parseCount(2, 64), 2)
    .option("--quick", "short loads, to see that it works", false)
    .option("--only <regex>", "run the rows whose name matches", parseRegex, /clients?,/)
    .parse();
  const options = command.opts<{ tp: number; quick: boolean; only: RegExp }>();
  await setUp();
  const ranks = options.tp;
  const folder = mkdtempSync(join(tmpdir(), "flashbun-bench-ranks-"));
  try {
    const reduces = reducesOf(await run("ranks/run.ts", "--ranks", String(ranks)));
    const lines = [["shape, ranks, load", "tokens/s", "ITL p50", "p99", "of it all-reduces"]];
    for (const [shape, tp] of [
      ["llama-8b", 1],
      ["llama-8b", ranks],
      ["llama-70b", ranks],
    ] as const) {
      const json = join(folder, `${shape}-${tp}.json`);
      const only = ["--only", options.only.source, ...(options.quick ? ["--quick"] : [])];
      await run("serving/run.ts", "--shape", shape, "--tp", String(tp), "--json", json, ...only);
      for (const row of ((await Bun.file(json).json()) as Served).rows) {
        const { name, clients = 1, itlMs, outputTokensPerSecond } = row;
        const share = tp === 1 ? 0 : reduceShare(shape, clients, itlMs.p50, reduces);
        const times = [itlMs.p50, itlMs.p99].map((ms) => `${ms.toFixed(2)} ms`);
        const cells = [outputTokensPerSecond.toFixed(1), ...times, `${(100 * share).toFixed(1)} %`];
        lines.push([`${shape}, ${tp}, ${name}`, ...cells]);
      }
    }
    process.stdout.write(table(lines));
  } finally {
    rmSync(folder, { recursive: true });
  }
}
