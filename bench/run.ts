import { writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { Device } from "../src/index.ts";
import { attentionCases } from "./attention.ts";
import { type Bench, type Ceilings, type Measured, measureCeilings } from "./bench.ts";
import { benchCommand, setUp } from "./command.ts";
import { demoCases } from "./demo.ts";
import { hostCases } from "./host.ts";
import { matmulCases } from "./matmul.ts";
import { operatorCases } from "./operators.ts";
import { Peer } from "./peers/peer.ts";
import { ropeCases } from "./rope.ts";
import { samplingCases } from "./sampling.ts";
import { namesOf, parseCount, parseRegex, Table } from "./table.ts";
import { textCases } from "./texts.ts";
import { variantCases } from "./variants.ts";

interface Options {
  json?: string;
  only: RegExp;
  threads: number;
  quick: boolean;
  peer: boolean;
}

const command = benchCommand("bench")
  .description("Measures attention against this machine's ceilings and PyTorch, and host costs.")
  .option("--json <file>", "write the rows as JSON")
  .option("--only <regex>", "run the rows whose name matches", parseRegex, /./)
  .option("--threads <count>", "threads of the device", parseCount(1, 1024), availableParallelism())
  .option("--quick", "small data and short runs, to see that it works", false)
  .option("--no-peer", "do not run PyTorch")
  .parse();

await setUp();
await main(command.opts<Options>());

async function main(options: Options): Promise<void> {
  const all = [
    hostCases,
    demoCases,
    textCases,
    attentionCases,
    operatorCases,
    ropeCases,
    matmulCases,
    samplingCases,
    variantCases,
  ].flat();
  const cases = all.filter(({ name }) => options.only.test(name));
  if (cases.length === 0) {
    process.stderr.write(`bench: no row matches ${options.only}; there are\n${namesOf(all)}`);
    process.exitCode = 2;
    return;
  }
  await using device = await Device.open("cpu", { threads: options.threads });
  const peer = options.peer ? await Peer.start("cpu.py", [String(options.threads)]) : undefined;
  const ceilings = await measureCeilings(device, options.quick);
  const peerName =
    peer === undefined ? "none (torch cannot be imported)" : `PyTorch ${peer.version}`;
  process.stdout.write(
    `device    ${device.name}, CPU level ${device.level}\n` +
      `ceilings  ${ceilings.readGBs.toFixed(1)} GB/s read, ` +
      `${ceilings.fmaGflops.toFixed(0)} GFLOP/s multiply-add (f32)\n` +
      `peer      ${peerName}\n\n`,
  );
  const bench: Bench = { device, peer, quick: options.quick, seconds: 1.5 };
  if (options.quick) bench.seconds = 0.05;
  const rows: Measured[] = [];
  const table = new Table(42);
  for (const { name, run } of cases) {
    if (process.stderr.isTTY) process.stderr.write(`${name} ...\r`);
    const measured = await run(bench);
    for (const row of Array.isArray(measured) ? measured : [measured]) {
      rows.push({ ...row, name: row.name || name });
      table.row(rows.at(-1)!, row.more);
    }
  }
  peer?.stop();
  if (options.json !== undefined) writeJson(options.json, device, ceilings, rows);
}

function writeJson(file: string, device: Device, ceilings: Ceilings, measured: Measured[]): void {
  const rows = measured.map(({ name, value, unit, ofRoofline, peer, ofPeer }) => {
    return { name, value, unit, ofRoofline, peer, ofPeer };
  });
  const report = { device: device.name, level: device.level, ceilings, rows };
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
}
