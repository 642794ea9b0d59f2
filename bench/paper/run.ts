/** Measures the FlashInfer paper's kernel tables on a GPU and writes docs/paper.md. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { DeviceKind } from "../../src/device/open.ts";
import { Device, FlashbunError } from "../../src/index.ts";
import { type GpuBench, measureCeilings } from "../gpu/bench.ts";
import { machineLine } from "../gpu/machine.ts";
import { benchCommand } from "../command.ts";
import { Peer } from "../peers/peer.ts";
import { parseRegex } from "../table.ts";
import { decodeTable, prefillTable } from "./dynamism.ts";
import { flexTable } from "./flex.ts";
import { cellsOf, headingsOf, pageOf, type PaperResult } from "./page.ts";
import { prefixTable } from "./prefix.ts";
import { ropeTable } from "./rope.ts";
import { measureServing } from "./serving.ts";
import { servingOf } from "./serving-page.ts";
import { sparseTable } from "./sparse.ts";
import { streamingTable } from "./streaming.ts";
import type { PaperTable } from "./table.ts";

const tables = [
  decodeTable,
  prefillTable,
  ropeTable,
  streamingTable,
  flexTable,
  prefixTable,
  sparseTable,
];
const page = join(import.meta.dir, "..", "..", "docs", "paper.md");

interface Options {
  only: RegExp;
  device: DeviceKind;
  quick: boolean;
  peer: boolean;
  page?: string;
  serving: boolean;
  rows: string;
  seconds: number;
  search: number;
  budget: number;
  shape: string;
}

const command = benchCommand("bench:paper")
  .description("Measures the kernel tables of the FlashInfer paper on a GPU.")
  .option("--only <regex>", "only the tables whose name matches", parseRegex, /./)
  .option("--device <name>", "device to measure", "cuda:0")
  .option("--quick", "next to no data and work, to see that it works", false)
  .option("--no-peer", "do not run other libraries")
  .option("--page <file>", "where to write the page (default: docs/paper.md, of a whole run)")
  .option("--serving", "the serving tables instead, on an engine", false)
  .option(
    "--rows <file>",
    "their results as JSON: what it has is not measured again",
    "serving.json",
  )
  .option("--seconds <seconds>", "for how long a row of --serving lasts", Number, 20)
  .option("--search <count>", "how many rates are tried for the highest one", Number, 5)
  .option("--budget <seconds>", "no row is begun after so long", Number, Infinity)
  .option("--shape <name>", "of the model with random weights", "llama-8b")
  .addHelpText("after", `\nTables: ${tables.map(({ id }) => id).join(", ")}`)
  .parse();

try {
  await main(command.opts<Options>());
} catch (error) {
  if (!(error instanceof FlashbunError)) throw error;
  process.stderr.write(`bench:paper: ${error.message}\n`);
  process.exitCode = 1;
}

async function main(options: Options): Promise<void> {
  if (options.serving) return await measureServing(options);
  const chosen = tables.filter(({ id }) => options.only.test(id));
  if (chosen.length === 0) {
    const names = tables.map(({ id }) => id).join(", ");
    process.stderr.write(`bench:paper: no table matches ${options.only}; there are ${names}\n`);
    process.exitCode = 2;
    return;
  }
  await using device = await Device.open(options.device);
  const peer = options.peer ? await Peer.start("gpu.py") : undefined;
  const { quick } = options;
  const ceilings = await measureCeilings(device, peer, quick);
  const seconds = quick ? 0 : 0.2;
  const bench = { device, ceilings, peer, backends: peer?.backends ?? [], quick, seconds };
  const machine = `${machineLine(device)}; beside ${peer?.version ?? "no other library"}`;
  process.stdout.write(`${machine}\n`);
  const results: { table: PaperTable; rows: PaperResult[] }[] = [];
  for (const table of chosen) results.push({ table, rows: await rowsOf(bench, table) });
  peer?.stop();
  const whole = !quick && chosen.length === tables.length && process.exitCode === undefined;
  const target = options.page ?? (whole ? page : undefined);
  if (target === undefined) return;
  const day = new Date().toISOString().slice(0, 10);
  const serving = existsSync(target) ? servingOf(readFileSync(target, "utf8")) : "";
  writeFileSync(target, [pageOf(machine, day, results), serving].filter(Boolean).join("\n"));
  process.stdout.write(`\nwritten: ${target}\n`);
}

/** Measures a table's rows and prints each as it comes; a failed one does not stop the next. */
async function rowsOf(bench: GpuBench, table: PaperTable): Promise<PaperResult[]> {
  process.stdout.write(`\n${table.title} (${table.unit})\n`);
  const here = table.asksFlashInfer === true && bench.backends.includes("flashinfer");
  print(headingsOf(table, here));
  const results: PaperResult[] = [];
  for (const row of table.rows) {
    try {
      const result = { row, measured: await row.measure(bench) };
      results.push(result);
      print(cellsOf(table, result, here));
    } catch (error) {
      if (!(error instanceof FlashbunError)) throw error;
      process.stdout.write(`${row.shape}: ${error.message}\n`);
      process.exitCode = 1;
      if (bench.device.failure() !== undefined) throw error;
    }
  }
  return results;
}

function print([shape, ...cells]: string[]): void {
  const line = [shape.padEnd(28), ...cells.map((cell) => cell.padStart(11))].join("  ");
  process.stdout.write(`${line.trimEnd()}\n`);
}
