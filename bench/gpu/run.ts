/** Measures attention on a GPU: `bun run bench:gpu`. */
import { writeFileSync } from "node:fs";
import type { DeviceKind } from "../../src/device/open.ts";
import { Device, FlashbunError } from "../../src/index.ts";
import { benchCommand } from "../command.ts";
import { Peer } from "../peers/peer.ts";
import { figure, namesOf, parseCount, parsePositive, parseRegex, Table } from "../table.ts";
import { type GpuBench, type GpuCase, type GpuRow, measureCeilings } from "./bench.ts";
import { cascadeCases } from "./cascade.ts";
import { decodeCases, moreDecodeCases } from "./decode.ts";
import { latentCases } from "./latent.ts";
import { machineLine } from "./machine.ts";
import { matmulCases } from "./matmul.ts";
import { modelCases } from "./model.ts";
import { operatorCases } from "./operators.ts";
import { mixedCases } from "./mixed.ts";
import { morePrefillCases, prefillCases } from "./prefill.ts";
import { ropeCases } from "./rope.ts";
import { samplingCases } from "./sampling.ts";
import { stepCases } from "./steps.ts";
import { variantCases } from "./variants.ts";

interface Options {
  json?: string;
  only: RegExp;
  device: DeviceKind;
  budget: number;
  seconds: number;
  quick: boolean;
  peer: boolean;
  backends?: string[];
}

/** In order of importance: a short budget leaves the end out. */
const cases: GpuCase[] = [
  ...decodeCases,
  ...prefillCases,
  ...latentCases,
  ...stepCases,
  ...modelCases,
  ...mixedCases,
  ...cascadeCases,
  ...variantCases,
  ...operatorCases,
  ...matmulCases,
  ...ropeCases,
  ...samplingCases,
  ...moreDecodeCases,
  ...morePrefillCases,
];

const command = benchCommand("bench:gpu")
  .description("Measures attention on a GPU against its ceilings and other libraries.")
  .option("--json <file>", "write the rows as JSON")
  .option("--only <regex>", "run the rows whose name matches", parseRegex, /./)
  .option("--device <name>", "device to measure", "cuda:0")
  .option("--budget <seconds>", "start no row that may end later", parseCount(1, 86_400), 86_400)
  .option("--seconds <seconds>", "to measure a figure for", parsePositive, 0.4)
  .option("--quick", "next to no data and work, to see that it works", false)
  .option("--no-peer", "do not run other libraries")
  .option("--backends <names>", "of the peer's implementations only these", (text) =>
    text.split(","),
  )
  .parse();

try {
  await main(command.opts<Options>());
} catch (error) {
  if (!(error instanceof FlashbunError)) throw error;
  process.stderr.write(`bench:gpu: ${error.message}\n`);
  process.exitCode = 1;
}

async function main(options: Options): Promise<void> {
  const started = performance.now();
  const chosen = cases.filter(({ name }) => options.only.test(name));
  if (chosen.length === 0) {
    process.stderr.write(`bench:gpu: no row matches ${options.only}; there are\n${namesOf(cases)}`);
    process.exitCode = 2;
    return;
  }
  await using device = await Device.open(options.device);
  const peer = options.peer ? await Peer.start("gpu.py") : undefined;
  // After the peer came up: its start would disturb them.
  const ceilings = await measureCeilings(device, peer, options.quick);
  const machine = machineLine(device);
  const { matmulTflops } = ceilings;
  const product = matmulTflops === null ? "" : `, ${figure(matmulTflops)} TFLOP/s matmul`;
  process.stdout.write(
    `device    ${machine}\n` +
      `ceilings  ${figure(ceilings.readGBs)} GB/s read, ` +
      `${figure(ceilings.copyGBs)} GB/s copied${product}\n` +
      `peer      ${peerLine(peer, options)}\n\n`,
  );
  const seconds = options.quick ? 0 : options.seconds;
  const backends = peer?.backends.filter((name) => options.backends?.includes(name) ?? true) ?? [];
  const bench: GpuBench = { device, ceilings, peer, backends, quick: options.quick, seconds };
  const budget = options.budget * 1000 - (performance.now() - started);
  const rows = await runCases(bench, chosen, budget);
  peer?.stop();
  process.stdout.write(`\ndevice    ${machineLine(device)}\n`);
  if (options.json === undefined) return;
  const report = { device: machine, peer: peer?.version ?? null, ceilings, rows };
  writeFileSync(options.json, `${JSON.stringify(report, jsonFields, 2)}\n`);
}

/**
 * Runs the cases in order until the milliseconds are used up; a failed one does not stop the next.
 */
async function runCases(
  bench: GpuBench,
  chosen: readonly GpuCase[],
  milliseconds: number,
): Promise<GpuRow[]> {
  const deadline = performance.now() + milliseconds;
  const rows: GpuRow[] = [];
  let longest = 0;
  const table = new Table(52);
  for (const [i, { name, run }] of chosen.entries()) {
    const started = performance.now();
    if (started + longest > deadline) {
      process.stdout.write(`the budget is used up: ${chosen.length - i} rows are left out\n`);
      break;
    }
    try {
      for (const row of await run(bench)) {
        rows.push({ ...row, name: row.name || name });
        table.row(rows.at(-1)!, peersLine(row));
      }
    } catch (error) {
      if (!(error instanceof FlashbunError)) throw error;
      process.stdout.write(`${name}: ${error.message}\n`);
      process.exitCode = 1;
      if (bench.device.failure() !== undefined) break;
    }
    longest = Math.max(longest, performance.now() - started);
  }
  return rows;
}

function peerLine(peer: Peer | undefined, wanted: Options): string {
  if (peer === undefined) return wanted.peer ? "none (torch cannot be imported)" : "none";
  return `${peer.version}: ${peer.backends.join(", ")}`;
}

/** All implementations of the peer that ran, with how many times as fast the row is. */
function peersLine({ peers }: GpuRow): string {
  return peers
    .map(({ backend, value, ratio }) => `${ratio.toFixed(2)}x ${backend} (${figure(value)})`)
    .join(", ");
}

/** Rounds to what a measurement can distinguish. */
function jsonFields(_: string, value: unknown): unknown {
  return typeof value === "number" ? Number(value.toPrecision(6)) : value;
}
