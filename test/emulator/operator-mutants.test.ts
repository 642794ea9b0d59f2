import { afterAll, describe, expect } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { operatorKernels } from "../../src/jit/operators.ts";
import { expand } from "../../src/jit/specialization.ts";
import { sweep } from "../support/deep.ts";
import { emulatedLibrary } from "../support/targets.ts";
import { someOf, unexplained } from "./attention-mutants.ts";
import {
  each,
  imageOf,
  outcomeOf,
  patienceMs,
  schedules,
  withoutEachWait,
  wrong,
} from "./mutants.ts";
import type { Mutant } from "./mutants.ts";
import type { Job } from "./run-operator.ts";

/** Kernels of which blocks, and clusters, work on rows together. */
const kernels = [
  "matmul_32",
  "matmul_128",
  "matmul_thin_8_x1",
  "matmul_thin_32_x4",
  "matmul_thin_e4m3_32_x2",
  "matmul_flat_64_x2",
  "matmul_flat_128_x1",
  "matmul_flat_e4m3_64_x1",
  "matmul_gathered_16_x1",
  "matmul_gathered_64_x1",
  "matmul_coded_bf16_u8_8_x2",
  "matmul_wide_bf16",
  "matmul_wide_f16",
  "matmul_wide_e4m3",
  "moe_route",
  "argmax_long",
  "norm_long",
  "norm_even_few",
  "norm_even_long",
  "norm_even_wide",
  "quantize_even_long",
  "sample_rows",
  "sample_rows_cluster",
  "sample_few_cluster",
  "sample_plain_cluster",
  "sample_softmax_cluster",
  "top_k_rows",
  "top_k_rows_cluster",
  "verify_drafts",
];

/** Where what they wait for is. */
const folders = ["sampling/", "matmul/", "moe/", "argmax/", "norm/", "quantize/", "common/rows.h"];

/** Mutants that run right here, and why. */
const harmless: Record<string, string> = {
  "route.cu, moe_route: __syncthreads() #1": "blocks run one after the other, so all have written",
  "select.h, find_cut: team.sync() #1":
    "after a list the first histogram of digits begins where no other block reads any more",
  "held.h, begin: fence_mbarrier_init() #1": "the barrier that follows is enough here",
  "held.h, start: fence_proxy_async_shared() #1":
    "what threads write and what copies do lie apart, and rows follow after barriers",
  "row.h, clean: fence_proxy_async_shared() #1":
    "it orders proxies; what the emulated copies write waits for a barrier anyway",
  "held.h, wait: __syncthreads() #1":
    "copies land when no thread can go on here, so that all have written",
  "few.h, reached_by: __syncthreads() #2":
    "what a histogram misses makes the bound lower, and more is listed than is needed",
  "walk.h, rows: __syncthreads() #1": "no thread that still reads the turn is so far behind here",
  "gather.h, tell: fence_proxy_async_shared() #1":
    "it orders proxies; what lies in shared memory is there for all here",
  "flat.h, store_shared: fence_proxy_async_shared() #1":
    "it orders proxies; what the emulated copies write waits for a barrier anyway",
  "thin.h, begin_thin: fence_mbarrier_init() #1": "the barrier that follows is enough here",
  "wide.cu, start_wide: fence_mbarrier_init() #1": "likewise",
  "coded.cu, multiply_coded: __syncwarp() #1":
    "lanes meet in the last product, behind all that they read",
  "light.h, each_light_row: team.sync() #1": "what blocks send has come before any ends here",
  "sample_plain_cluster.cu, draw: __syncthreads() #1":
    "copies land when no thread can go on here, so that all have read",
  "sample_plain_cluster.cu, search: fence_proxy_async_shared() #1": "likewise",
  "sample_plain_cluster.cu, search: __syncthreads() #2": "likewise",
};

const folder = mkdtempSync(join(tmpdir(), "flashbun-operator-mutants-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(kernel: string, order: string, image?: string): Promise<string> {
  if (image === undefined) return outcomeOf("run-operator.ts", { kernel } satisfies Job, order, 4);
  return outcomeOf("run-operator.ts", { kernel, image } satisfies Job, order, 4, patienceMs);
}

/** Even norms have teams of other sizes: what orders them has to be needed in each. */
function nameOf(kernel: string, { name }: Mutant): string {
  return kernel.startsWith("norm_even_") ? `${kernel}: ${name}` : name;
}

/** The text without the source's other kernels: a mutant is then compiled sooner. */
function alone(entry: string, text: string): string {
  return text.replace(/^FB_(?:SPLIT_)?OPERATOR\((\w+)[^]*?^}$/gm, (whole, name) =>
    name === entry ? whole : "",
  );
}

const skipped = !existsSync(emulatedLibrary) || process.env["FLASHBUN_EMULATOR"] !== undefined;

describe.skipIf(skipped)("a kernel that shares rows", () => {
  sweep("is wrong without any of its barriers", { slice: 16, whole: 1000 }, async (seed, count) => {
    const originals = await each(kernels, async (kernel) => {
      const { source, entry } = operatorKernels().get(kernel)!;
      const expected = await run(kernel, "fifo");
      expect(expected).toStartWith("{");
      return { kernel, expected, text: alone(entry, expand({ source, constants: {} })) };
    });
    const all = originals.flatMap((of) =>
      folders
        .flatMap((folder) => withoutEachWait(of.text, folder))
        // Kernels of a stream run one after the other here.
        .filter(({ name }) => !name.includes("pdl_wait"))
        .map((mutant) => ({ of, mutant })),
    );
    const byName = Map.groupBy(all, ({ of, mutant }) => nameOf(of.kernel, mutant));
    expect(byName.size).toBeGreaterThan(40);
    const found = await each([...someOf(byName, seed, count, harmless)], async ([name, some]) => {
      for (const { of, mutant } of some) {
        const image = await imageOf(mutant.text, folder);
        for (const order of schedules) {
          const outcome = await run(of.kernel, order, image.path);
          if (outcome === of.expected) continue;
          expect(outcome).toMatch(wrong);
          return [name, order] as const;
        }
      }
      return [name, undefined] as const;
    });
    expect(unexplained(new Map(found), harmless)).toEqual([]);
  });
});
