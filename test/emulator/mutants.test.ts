import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Case, caseOf } from "../support/cases.ts";
import { sweep } from "../support/deep.ts";
import { emulatedLibrary } from "../support/targets.ts";
import {
  catchAll,
  faultsOf,
  type LooseBound,
  mutantsOf,
  originalsOf,
  someOf,
  type Subject,
  unexplained,
} from "./attention-mutants.ts";
import { withoutEachWait } from "./mutants.ts";

const common: Partial<Case> = { dtype: "bf16", outDtype: "f32", pageSize: 16, headDim: 32 };
const narrow: Partial<Case> = { ...common, valueDim: 24 };
const changed: Partial<Case> = {
  ...narrow,
  kvDtype: "f8e4m3",
  scales: "token",
  rope: { dim: 16, interleaved: false, theta: 1e4 },
};
const decode: Partial<Case> = {
  queryLengths: [1, 2, 1, 1, 1, 3],
  kvLengths: [800, 20, 400, 1, 600, 304],
};

/** Together they hold every wait of the attention kernels. */
const subjects: Record<string, Subject> = {
  // Queries are copied while keys are; rows are described late.
  decode: {
    kernel: "cuda.decode8",
    c: caseOf("decode", { ...narrow, ...decode }),
    sms: 1,
  },
  // Elements change on their way; rows are trimmed, two of them to nothing.
  "changed decode": {
    kernel: "cuda.decode8",
    c: caseOf("changed decode", { ...changed, ...decode }),
    kept: [790, 20, 0, 1, 0, 250],
    sms: 1,
  },
  // Elements are widened, and queries with them; rows are split and merge in the kernel.
  "split decode": {
    kernel: "cuda.decode8",
    c: caseOf("split decode", {
      ...common,
      kvDtype: "f8e4m3",
      scales: "token",
      queryLengths: [3, 1, 1, 1, 1, 1, 1, 1, 1],
      kvLengths: [4000, 90, 1, 16, 17, 40, 50, 60, 70],
    }),
    sms: 32,
  },
  // The blocks of clusters share the keys of a few requests, which are short.
  "short requests": {
    kernel: "cuda.short8",
    c: caseOf("short requests", {
      ...common,
      headDim: 64,
      valueDim: 64,
      kvHeads: 1,
      queryLengths: [1, 2],
      kvLengths: [2100, 40],
    }),
    sms: 32,
  },
  // Elements change, tiles have two stages.
  prefill: {
    kernel: "cuda.tile64",
    c: caseOf("prefill", {
      ...changed,
      windowLeft: 150,
      queryLengths: [24, 17, 28],
      kvLengths: [144, 130, 208],
    }),
    sms: 1,
  },
  // Tiles have one stage; rows are trimmed, and some are attended again.
  "wide decode": {
    kernel: "cuda.wide16",
    c: caseOf("wide decode", {
      ...common,
      headDim: 512,
      valueDim: 512,
      notFinite: true,
      queryLengths: [1, 2, 1, 1],
      kvLengths: [144, 20, 208, 1],
    }),
    kept: [140, 20, 130, 1],
    // Room for the cluster of the class beside it.
    sms: 4,
  },
  // Queries are multiplied in shared memory before keys come, outputs after.
  projected: {
    kernel: "cuda.decode8",
    c: caseOf("projected", { ...common, ...decode }),
    projection: "projections",
    sms: 1,
  },
  "projected prefill": {
    kernel: "cuda.tile64",
    c: caseOf("projected prefill", {
      ...common,
      queryLengths: [24, 17, 28],
      kvLengths: [144, 130, 208],
    }),
    projection: "projections",
    sms: 1,
  },
  // Several warps merge a row of few parts, and then read it for its product.
  "projected merge": {
    kernel: "cuda.decode8",
    c: caseOf("projected merge", {
      ...common,
      valueDim: 136,
      queryLengths: [3, 1],
      kvLengths: [4000, 3000],
    }),
    projection: "relu and projection",
    sms: 4,
  },
  // Blocks merge more than one piece of rows and columns, of few parts or of many.
  merge: {
    kernel: "merge",
    c: caseOf("merge", {
      ...common,
      valueDim: 264,
      queryLengths: [20, 1],
      kvLengths: [4000, 90],
    }),
    sms: 8,
  },
  "merge of many parts": {
    kernel: "merge",
    c: caseOf("merge of many parts", {
      ...common,
      valueDim: 264,
      queryLengths: [20, 1],
      kvLengths: [4000, 90],
    }),
    sms: 32,
  },
};

const looseBounds: LooseBound[] = [
  ["prefill", "a column of the page table too far", "pages + column", "pages + column + 1"],
  ["decode", "a column of the page table too far", "pages + column", "pages + column + 1"],
  // At the end of a part: one at a row's end is hidden by its place, whatever it does to sums.
  ["split decode", "one token too many", "if (token >= end)", "if (token > end)"],
  ["prefill", "stores a column too many", "column < FB_VALUE_DIM", "column <= FB_VALUE_DIM"],
  [
    "decode",
    "stores a column too many",
    "i < piece_columns; i += 64) {",
    "i <= piece_columns; i += 64) {",
  ],
  ["prefill", "stores a row too many", "row >= r.row_count ||", "row > r.row_count ||"],
  ["decode", "stores a row too many", "row_in(turn) < r.row_count", "row_in(turn) <= r.row_count"],
  ["merge", "one part too many", "min(flight, part_count", "1 + min(flight, part_count"],
  [
    "merge",
    "stores columns too many",
    "if (piece.column >= p.value_dim)",
    "if (piece.column > p.value_dim)",
  ],
  ["merge", "merges a row too many", "i < count; i += stride", "i <= count; i += stride"],
  [
    "merge of many parts",
    "one part too many",
    "min(together, m.part_",
    "1 + min(together, m.part_",
  ],
  [
    "merge of many parts",
    "merges a row too many",
    "i < pieces; i += stride",
    "i <= pieces; i += stride",
  ],
];

/** Mutants that run right here, and why: docs/emulator.md lists them too. */
const harmless: Record<string, string> = {
  "warps.h, attend: cp_async_wait<0>() #1": "each copy is waited for at the step that reads it",
  "pieces.h, begin_sending: fence_mbarrier_init() #1":
    "the cluster's barrier that follows is enough here",
  "block.h, begin_sums: __syncwarp() #1": "a barrier of the block stands before the first read",
  "project.h, project_queries: __syncthreads() #3":
    "all rows fit at once, and a barrier stands before the tile's first read",
  "arrive.h, merge_rows: __syncthreads() #1":
    "blocks run one after another, so that none reads what a warp of another has yet to write",
};

const folder = mkdtempSync(join(tmpdir(), "flashbun-mutants-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("what orders is found by its calls, one mutant each", () => {
  const lines = [
    '#line 1 "ptx/a.h"',
    "FB_DEVICE void elsewhere() { __syncwarp(); }",
    '#line 1 "attention/b.h"',
    "template <int N> FB_DEVICE void f(int x) {",
    "    if (x) __syncthreads(); // __syncwarp();",
    "    cp_async_wait<N - 1>();",
    "    cp_async_16(x, x, 16);",
    "    x = __shfl_sync(~0u, x, 1);",
    "    __syncthreads();",
  ];
  const mutants = withoutEachWait(lines.join("\n"), "attention/");
  expect(mutants.map(({ name }) => name)).toEqual([
    "b.h, f: __syncthreads() #1",
    "b.h, f: cp_async_wait<N - 1>() #1",
    "b.h, f: __syncthreads() #2",
  ]);
  expect(mutants[1].text).toBe(lines.with(5, "    ;").join("\n"));
});

const skipped = !existsSync(emulatedLibrary) || process.env["FLASHBUN_EMULATOR"] !== undefined;

describe.skipIf(skipped)("an attention kernel", () => {
  let originals: Awaited<ReturnType<typeof originalsOf>> = [];

  beforeAll(async () => {
    originals = await originalsOf(subjects, folder);
  }, 600_000);

  sweep("is right under every schedule", { slice: 4, whole: 1000 }, async (seed, count) => {
    // Two warps may mark one row as wrong there, by the same number.
    expect(await faultsOf(originals, seed, count, folder, ["wide decode"])).toEqual([]);
  });

  const title = "is wrong without any of its waits, and with loose bounds";
  sweep(title, { slice: 8, whole: 1000 }, async (seed, count) => {
    const all = mutantsOf(originals, "attention/", looseBounds);
    expect(all.size).toBeGreaterThan(40);
    const found = await catchAll(someOf(all, seed, count, harmless), folder);
    expect(unexplained(found, harmless)).toEqual([]);
  });
});
