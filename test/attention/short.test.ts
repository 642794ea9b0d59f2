import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import type { KernelFamily } from "../../src/attention/families/family.ts";
import { tiled } from "../../src/attention/families/tiled.ts";
import { OptionError } from "../../src/errors.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { sweepCases } from "../support/deep.ts";
import { checkPair, pairs } from "../support/pairs.ts";
import { optionsOf } from "../support/rig.ts";
import { runBun } from "../support/run.ts";
import { gpuTarget } from "../support/targets.ts";
import { World } from "../support/world.ts";

const shape: Partial<Case> = {
  dtype: "bf16",
  headDim: 128,
  valueDim: 128,
  queryHeads: 4,
  kvHeads: 1,
  pageSize: 16,
};
function one(name: string, over: Partial<Case>, keys = 300): Case {
  return caseOf(name, { ...shape, queryLengths: [1], kvLengths: [keys], ...over });
}
const half = { headDim: 64, valueDim: 64 } as const;
const bytes = { dtype: "f8e4m3", kvDtype: "f8e4m3", tokenScales: false } as const;

/** Each varies one thing of a step that is one short request. */
const cases: Case[] = [
  // Around a warp's keys, all warps' of a block and of a cluster, and the most.
  ...[1, 7, 8, 63, 64, 255, 1024, 1025, 3071, 3072].map((keys) => one(`${keys} keys`, {}, keys)),
  ...[1, 31, 33, 1024, 2049].map((keys) => one(`${keys} keys of fp8`, bytes, keys)),
  ...[1, 31, 33, 1024, 2049].map((keys) => one(`${keys} keys of 64`, half, keys)),
  ...[1, 2, 3, 5, 7, 8].map((queryHeads) => one(`group ${queryHeads}`, { queryHeads })),
  one("f16, pages of 1", { dtype: "f16", kvDtype: "f16", outDtype: "f32", pageSize: 1 }),
  one("pages of 1 in HND", { pageSize: 1, storage: "HND" }),
  one("pages of 16 in HND", { storage: "HND", kvHeads: 2, queryHeads: 8 }),
  one("pages of 5, strided", { pageSize: 5, storage: "strided" }, 500),
  one("bf16 queries of fp8 keys", { kvDtype: "f8e4m3" }, 700),
  one("scales by token", { kvDtype: "f8e4m3", scales: "token" }, 700),
  one("fp8 of 64 elements", { ...bytes, ...half, qScales: "both" }, 700),
  one("f8e5m2", { ...bytes, kvDtype: "f8e5m2", outDtype: "f8e4m3", outScale: 0.02 }),
  one("several tokens", { queryHeads: 2, queryLengths: [4] }),
  one("several tokens, not causal", { queryHeads: 2, queryLengths: [3], causal: false }),
  one("two requests", { queryLengths: [1, 2], kvLengths: [1200, 40] }),
  one("two requests, one without keys", { queryLengths: [1, 1], kvLengths: [90, 1] }),
  one("a window", { windowLeft: 40 }, 5000),
  one("sinks", { sinks: true }),
  one("sinks, raw state of base 2", { sinks: true, finalize: false, lseBase: "2" }),
  one("scales by request", { scales: "request", scale: -0.1 }),
  one("large logits in f16", { scale: 3, dtype: "f16", kvDtype: "f16", outDtype: "f16" }),
  one("NaN and infinities", { notFinite: true }, 900),
  one("NaN and infinities in fp8", { ...bytes, notFinite: true }, 900),
];

/** Classes of few rows: others only take long to compile. Requests may have any number of keys. */
const fewRows: KernelFamily = {
  name: "few rows",
  offer(facts, options) {
    const offer = tiled.offer(facts, options);
    if (offer instanceof OptionError) return offer;
    const few = offer.classes.filter(({ queryTile }) => queryTile === 8);
    const every = { keysLeast: 0, keysMost: Infinity, oneClusterKeysMost: Infinity };
    const classes = few.map((row) => (row.shortRequests ? { ...row, shortRequests: every } : row));
    return { ...offer, classes };
  },
};

const processors = 64;
const wanted = new RegExp(process.env["FLASHBUN_TEST_CASES"] ?? "");
const chosen = cases.filter(({ name }) => wanted.test(name));
const sweepsPairs = process.env["FLASHBUN_TEST_CASES"] === undefined;
const target = gpuTarget();
const opened = await target?.open(1);
const able = opened !== undefined && opened.properties.computeMajor === 9;
const enough = able && opened.properties.processors >= processors;

// Clusters of eight blocks find no room on the emulated GPU as it is.
test.if(able && !enough)(
  `short requests on a GPU of ${processors} processors`,
  async () => {
    await opened![Symbol.asyncDispose]();
    const schedule = process.env["FLASHBUN_EMULATOR"];
    const env = { FLASHBUN_EMULATOR: `${schedule ? `${schedule},` : ""}sms=${processors}` };
    const run = await runBun(["test", "--timeout", "600000", import.meta.path], { env });
    expect(run.stderr).toContain(` ${chosen.length + (sweepsPairs ? 1 : 0)} pass`);
    expect(run.code).toBe(0);
  },
  600_000,
);

describe.if(enough)(`short requests on ${target?.name}`, () => {
  const device = opened!;
  beforeAll(async () => {
    const made = chosen.map((c) => Attention.create(device, optionsOf(c), [fewRows]));
    for (const attention of await Promise.all(made)) attention[Symbol.dispose]();
  }, 600_000);
  afterAll(() => device[Symbol.asyncDispose]());

  test.each(chosen.map((c) => [c.name, c] as const))("one launch: %s", (_, c) => {
    const pages = c.kvLengths.reduce((sum, keys) => sum + Math.ceil(keys / (c.pageSize || 1)), 0);
    using world = new World(device, c, { pages, families: [fewRows] });
    world.run();
    const { launches, mergeCount } = world.rig.attention.lastPlan!;
    const launched = launches.filter(({ recordCount }) => recordCount > 0);
    expect(launched.map(({ kernelClass }) => kernelClass)).toEqual(["cuda.short8"]);
    expect(mergeCount).toBe(0);
  });

  if (!sweepsPairs) return;
  const few = pairs().filter(({ c }) => c.headDim === 64 && Math.max(...c.queryLengths) < 3);
  sweepCases("pairs of options", few, 4, (pair, seed) => checkPair(device, pair, seed));
});
