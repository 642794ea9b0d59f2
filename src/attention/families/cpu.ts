import { type CostModel, defaultCosts } from "../../plan/cost.ts";
import { dtypeBytes } from "../../tensor/dtype.ts";
import { withProducts } from "../row-dims.ts";
import { variantProgram } from "../variant/program.ts";
import type { KernelClass, KernelFamily } from "./family.ts";

/**
 * The CPU's classes, by rising query tile. Threads take records from a shared counter in their
 * order, so the blocks of a processor are slack that evens out a slow core.
 */
export const cpuClasses: readonly KernelClass[] = [
  {
    name: "cpu.row",
    entry: "attention_row",
    queryTile: 16,
    kvTile: 64,
    cluster: 1,
    blocksPerProcessor: 4,
    schedule: "walk",
    take: "as-made",
  },
  {
    name: "cpu.tile",
    entry: "attention_tile",
    queryTile: 128,
    kvTile: 64,
    cluster: 1,
    blocksPerProcessor: 4,
    schedule: "share",
    take: "longest-first",
  },
];

/** The kernels of the library (zig/cpu/kernels/attention). */
export const cpu: KernelFamily = {
  name: "cpu",
  offer: (_, options) => ({
    classes: cpuClasses,
    merge: { entry: "attention_merge", shares: () => 1 },
    costs: withProducts(cpuCosts(dtypeBytes(options.kvDtype)), options, 1),
    bind(device, params) {
      const { variant } = options;
      if (variant === undefined) return undefined;
      const program = variantProgram(device, variant);
      params.variantProgram = program.address;
      params.variantProgramWords = program.byteLength / 4;
      return program;
    },
  }),
};

/**
 * Costs for keys and values of so many bytes per element. What a row of a shared level costs was
 * set from decode steps of 32 requests with 32/8 heads of 128 on two cores: a prefix as a level of
 * its own paid in f32 from 300 shared tokens for 2 sharers, 1000 for 8, 400 for 32; in f16 and bf16
 * from 1000 for 32, and up to 2048 never for 2 or 8. One number per width cannot follow that: it
 * leaves out prefixes that would pay a little.
 */
export function cpuCosts(kvElementBytes: number): CostModel {
  return kvElementBytes >= 4 ? defaultCosts : { ...defaultCosts, sharedRowKeys: 224 };
}
