import { afterAll, beforeAll, describe, expect } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Case, caseOf } from "../support/cases.ts";
import { sweep } from "../support/deep.ts";
import { emulatedLibrary } from "../support/targets.ts";
import {
  catchAll,
  faultsOf,
  mutantsOf,
  originalsOf,
  someOf,
  type Subject,
  unexplained,
} from "./attention-mutants.ts";

const common: Partial<Case> = { dtype: "bf16", headDim: 128, valueDim: 128, queryHeads: 2 };
/** A few tiles of each request, one of them at a prompt's end. */
const prompts: Partial<Case> = { queryLengths: [150, 130, 140], kvLengths: [420, 130, 300] };

const wide: Partial<Case> = {
  headDim: 512,
  valueDim: 512,
  kvHeads: 1,
  queryLengths: [150, 70, 40],
  kvLengths: [190, 70, 100],
};

function hopper(over: Partial<Case>, kernel = "hopper.tile256"): Subject {
  return { kernel, c: caseOf(kernel, { ...common, ...prompts, ...over }), sms: 2 };
}

/** Together they hold every wait of the Hopper kernels. */
const hopperSubjects: Record<string, Subject> = {
  // Beside a decode, without which these prompts have a class of their own.
  boxes: hopper({
    pageSize: 64,
    queryLengths: [150, 130, 140, 1],
    kvLengths: [420, 130, 300, 9],
  }),
  // Keys are gathered, hooks look at bits and slopes.
  rows: hopper({ pageSize: 5, mask: "all", alibi: true }),
  // Three warpgroups compute.
  "kept rows": {
    ...hopper(
      { pageSize: 16, headDim: 64, valueDim: 64, kvLengths: [1040, 130, 300] },
      "hopper.tile192",
    ),
    kept: [400, 0, 299],
  },
  // Two warps change the elements of keys and values.
  changed: hopper({ pageSize: 16, kvDtype: "f8e4m3", scales: "token" }),
  "changed, turned": hopper({
    pageSize: 16,
    kvDtype: "f8e4m3",
    rope: { dim: 64, interleaved: false, theta: 1e4 },
  }),
  // A warpgroup turns keys in their place.
  turned: hopper({ pageSize: 16, rope: { dim: 64, interleaved: false, theta: 1e4 } }),
  fp8: hopper({ pageSize: 16, dtype: "f8e4m3", kvDtype: "f8e4m3" }, "hopper.fp8.tile256"),
  split: { ...hopper({ pageSize: 16, queryLengths: [140], kvLengths: [3000] }), sms: 32 },
  // One warpgroup scores, two multiply values.
  wide: { ...hopper({ ...wide, pageSize: 16 }), sms: 4 },
  "wide rows": { ...hopper({ ...wide, pageSize: 5, mask: "all", alibi: true }), sms: 4 },
  // Blocks on their own, two on a processor.
  "short prompts": hopper(
    { pageSize: 16, headDim: 64, valueDim: 64, queryLengths: [140, 70], kvLengths: [220, 100] },
    "hopper.tile128",
  ),
  "short prompts on their own": hopper(
    { pageSize: 16, queryLengths: [150, 140], kvLengths: [220, 140] },
    "hopper.short128",
  ),
  // Pairs share the keys of few requests; the longest is cut, and a pair takes two records.
  "few requests": {
    ...hopper(
      { pageSize: 16, queryHeads: 80, queryLengths: [1, 1], kvLengths: [700, 200] },
      "hopper.tile64",
    ),
    few: true,
    sms: 4,
  },
  // In pairs, a prefix that requests share and their own keys.
  together: {
    ...hopper(
      {
        pageSize: 16,
        queryHeads: 32,
        queryLengths: [1, 1, 1, 1, 1],
        kvLengths: [301, 310, 400, 333, 305],
      },
      "hopper.cascade64",
    ),
    prefix: 300,
  },
};

const latent: Partial<Case> = {
  dtype: "bf16",
  kvHeads: 1,
  headDim: 576,
  valueDim: 512,
  latent: true,
  scale: 0.07,
  queryLengths: [1, 1, 1],
  kvLengths: [420, 65, 300],
};

function mla(kernel: string, over: Partial<Case>): Subject {
  return { kernel, c: caseOf(kernel, { ...latent, ...over }), sms: 2 };
}

/** Together they hold every wait of the MLA kernels. */
const mlaSubjects: Record<string, Subject> = {
  boxes: mla("mla.rows128", { pageSize: 64, queryHeads: 128 }),
  gathered: mla("mla.rows128", { pageSize: 5, queryHeads: 128 }),
  "64 rows": mla("mla.rows64", { pageSize: 16, queryHeads: 40 }),
  narrow: mla("mla.rows16", { pageSize: 64, queryHeads: 12 }),
  // Two slots for rope pieces: with three, the wait for a half says that the piece is free, too.
  "32 rows": mla("mla.rows32", { pageSize: 64, queryHeads: 20 }),
  "32 rows, gathered": mla("mla.rows32", { pageSize: 5, queryHeads: 20 }),
  "8 bits": mla("mla.rows16", { pageSize: 64, queryHeads: 12, kvDtype: "f8e4m3" }),
  // Scores differ so much that later tiles raise bases: factors of two tiles ago may be unread.
  "8 bits, raised": mla("mla.rows16", {
    pageSize: 64,
    queryHeads: 12,
    kvDtype: "f8e4m3",
    scale: 1,
  }),
  "8 bits, 64 rows, gathered": mla("mla.rows64", {
    pageSize: 16,
    queryHeads: 40,
    kvDtype: "f8e4m3",
  }),
};

/** Mutants that run right here, and why. */
const harmlessHopper: Record<string, string> = {
  ...Object.fromEntries(
    ["values.h", "compute.h"].map((file) => [
      `${file}, clear_tail: fence_proxy_async_shared() #1`,
      "products see ordinary writes here, and the race detector does not report these",
    ]),
  ),
  "change.h, turn_queries: fence_proxy_async_shared() #1":
    "the fence after the keys of the first tile covers it, and no product is issued before that",
  "values.h, run: __syncwarp() #1": "lanes have voted since they read the task, and meet there",
  "take.h, release_rows: __syncwarp() #1":
    "lanes have met since they read the rows: in a shuffle, a vote or a product",
  "load.h, load_tasks: wait(barriers.task_wanted, n - 1 & 1) #1":
    "tickets are drawn earlier then: blocks get other records, and results stay",
  "load.h, load_tiles: __syncwarp() #1":
    "lanes meet at the end of a tile's copies; of a task without tiles each knows before another " +
    "takes its place, since lanes take turns at waits here",
  "load.h, load_queries: __syncwarp() #1":
    "lanes have met since they wrote the rows: in the shuffles that join their bounds",
  "load.h, load_box: __syncwarp() #1":
    "a tile of one box goes through a stage without this warp, but lanes take turns at waits here",
};
const harmlessMla: Record<string, string> = {
  "memory.h, init_barriers: fence_mbarrier_init() #1":
    "the cluster's barrier that follows is enough here",
  "score.h, keep_queries: fence_proxy_async_shared() #1":
    "copies begin after the release that follows, and here they see all that came before it",
  "share.h, share_sums: fence_proxy_async_shared() #1":
    "copies begin after the release that follows, and here they see all that came before it",
  "score.h, keep_queries: __syncwarp() #1": "lanes meet at the ldmatrix before it, and read there",
  ...Object.fromEntries(
    ["score_tile: wgmma_wait<1>() #1", "score_tile: wgmma_wait<1>() #2"]
      .concat("multiply_tile: wgmma_wait<1>() #1")
      .map((wait) => [`bytes.h, ${wait}`, "registers are read here when a product is issued"]),
  ),
};

const folder = mkdtempSync(join(tmpdir(), "flashbun-hopper-mutants-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const skipped = !existsSync(emulatedLibrary) || process.env["FLASHBUN_EMULATOR"] !== undefined;

describe.skipIf(skipped).each([
  { family: "hopper", subjects: hopperSubjects, harmless: harmlessHopper },
  { family: "mla", subjects: mlaSubjects, harmless: harmlessMla },
])("the kernels of $family", ({ family, subjects, harmless }) => {
  let originals: Awaited<ReturnType<typeof originalsOf>> = [];

  beforeAll(async () => {
    originals = await originalsOf(subjects, folder);
  }, 600_000);

  const right = "are right under every schedule, without races";
  sweep(right, { slice: 4, whole: 1000 }, async (seed, count) => {
    expect(await faultsOf(originals, seed, count, folder)).toEqual([]);
  });

  sweep("are wrong without any of their waits", { slice: 8, whole: 1000 }, async (seed, count) => {
    const all = mutantsOf(originals, `attention/${family}/`);
    expect(all.size).toBeGreaterThan(40);
    const found = await catchAll(someOf(all, seed, count, harmless), folder);
    expect(unexplained(found, harmless)).toEqual([]);
  });
});
