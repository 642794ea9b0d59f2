/**
 * Starts as many ranks as wanted of bench/ranks/all-reduce.ts.
 *
 * Usage: bun bench/ranks/run.ts [--ranks 2] [--device cuda|cpu]
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startRanks } from "../../src/cli/model/ranks.ts";

const { values: options } = parseArgs({
  options: {
    ranks: { type: "string", default: "2" },
    device: { type: "string", default: "cuda" },
  },
});
const { ranks, device } = options;
const program = join(import.meta.dir, "all-reduce.ts");
process.exitCode = await startRanks([process.execPath, program, device], Number(ranks), device);
