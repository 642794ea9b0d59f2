/**
 * Starts as many ranks as wanted of bench/ranks/all-reduce.ts.
 *
 * Usage: bun bench/ranks/run.ts [--ranks 2] [--device cuda|cpu]
 */
import { join } from "node:path";
import { startRanks } from "../../src/cli/model/ranks.ts";
import { benchCommand } from "../command.ts";
import { parseCount } from "../table.ts";

const command = benchCommand("bench/ranks/run.ts")
  .description("Measures all-reduces of ranks on this machine.")
  .option("--ranks <count>", "ranks", parseCount(1, 64), 2)
  .option("--device <kind>", "cuda or cpu", "cuda")
  .parse();
const { ranks, device } = command.opts<{ ranks: number; device: string }>();
const program = join(import.meta.dir, "all-reduce.ts");
process.exitCode = await startRanks([process.execPath, program, device], ranks, device);
