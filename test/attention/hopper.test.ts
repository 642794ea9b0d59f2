import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { offerOf } from "../../src/attention/families/resolve.ts";
import { families } from "../../src/attention/families/table.ts";
import { resolveOptions } from "../../src/attention/options.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { optionsOf } from "../support/rig.ts";
import { gpuTarget } from "../support/targets.ts";
import { warmUp } from "../support/warm.ts";
import { poisoned } from "../support/numbers.ts";
import { runCase, World } from "../support/world.ts";

/** Tiles of 256 rows and their rests, beside requests that go to smaller tiles. */
const lengths = { queryLengths: [150, 1, 70, 0, 40], kvLengths: [150, 60, 333, 9, 40] };
const shape = { ...lengths, headDim: 128, dtype: "bf16", pageSize: 0, queryHeads: 4 } as const;

function many(name: string, over: Partial<Case>): Case {
  return caseOf(name, { ...shape, ...over });
}

/** Each varies one thing around a batch whose rows fill tiles, end within them and begin in one. */
function cases(): Case[] {
  const dims = [64, 96, 128].flatMap((headDim) =>
    (["bf16", "f16"] as const).map((dtype) => many(`${dtype}, dim ${headDim}`, { headDim, dtype })),
  );
  const groups = [1, 3, 5, 8, 16].map((group) =>
    many(`group ${group}`, {
      queryHeads: 2 * group,
      pageSize: 16,
      seed: group,
      queryLengths: [Math.ceil(400 / group), 3],
      kvLengths: [Math.ceil(900 / group), 300],
    }),
  );
  const pages = [1, 5, 8, 16, 24, 64, 128].flatMap((pageSize) =>
    [true, false].map((causal) =>
      many(`pages of ${pageSize}, ${causal ? "causal" : "full"}`, {
        pageSize,
        causal,
        seed: pageSize,
        storage: pageSize === 16 ? "HND" : pageSize === 64 ? "strided" : "NHD",
      }),
    ),
  );
  const options: [string, Partial<Case>][] = [
    ["not causal", { causal: false }],
    ["window 0", { windowLeft: 0 }],
    ["window 10", { windowLeft: 10, pageSize: 16 }],
    ["window 150", { windowLeft: 150, pageSize: 64 }],
    ["window 100, not causal", { windowLeft: 100, causal: false }],
    ["sinks", { sinks: true }],
    ["raw state of base 2", { sinks: true, finalize: false, lseBase: "2" }],
    ["a negative scale", { scale: -0.05 }],
    ["a scale of large logits", { scale: 3, causal: false }],
    ["large logits in f16", { scale: 3, dtype: "f16", kvDtype: "f16", outDtype: "f16" }],
    ["f32 out", { outDtype: "f32" }],
    ["scales by head", { scales: "head" }],
    ["scales by request", { scales: "request", pageSize: 16 }],
    ["more queries than keys", { queryLengths: [300, 90], kvLengths: [100, 0] }],
    ["split rows", { queryHeads: 2, queryLengths: [90], kvLengths: [3000], pageSize: 16 }],
    ["split rows of a window", { queryLengths: [100], kvLengths: [2000], windowLeft: 1500 }],
    ["keys of 192, values of 128", { headDim: 192, valueDim: 128 }],
    ["dim 192", { headDim: 192, pageSize: 16 }],
    ["dim 256", { headDim: 256, pageSize: 64 }],
    ["dim 256 in f16", { headDim: 256, dtype: "f16" }],
  ];
  return [...dims, ...groups, ...pages, ...options.map(([name, over]) => many(name, over))];
}

const wanted = new RegExp(process.env["FLASHBUN_TEST_CASES"] ?? "");
const chosen = cases().filter(({ name }) => wanted.test(name));
const target = gpuTarget();
const opened = await target?.open(1);
const able = opened !== undefined && opened.properties.computeMajor === 9;

describe.if(able)(`Hopper attention on ${target?.name}`, () => {
  const device = opened!;
  beforeAll(() => warmUp(device, chosen.map(optionsOf)), 600_000);
  afterAll(() => device[Symbol.asyncDispose]());

  test.each(chosen.map((c) => [c.name, c] as const))(
    "%s",
    (_, c) => {
      const { classes } = offerOf(families.cuda, device.properties, resolveOptions(optionsOf(c)));
      expect(classes.at(-1)!.name).toBe("hopper.tile256");
      runCase(device, c);
    },
    60_000,
  );

  test("values before a window may be anything", () => {
    const c = many("window", {
      queryLengths: [70],
      kvLengths: [333],
      windowLeft: 100,
      pageSize: 16,
    });
    using world = new World(device, c, { pages: 30 });
    const sequence = world.create();
    world.grow([sequence], [263]);
    const queries = [world.rig.queries(70)];
    const batch = world.grow([sequence], [70], queries);
    const hidden = 263 - 100;
    for (const [i, page] of sequence.pages().entries()) {
      const tokens = Math.min(c.pageSize, hidden - i * c.pageSize);
      if (tokens <= 0) break;
      const values = world.cache.plane(0, "value").select(0, page).slice(0, 0, tokens);
      using nan = poisoned(device, [...values.shape], c.kvDtype);
      values.copyFrom(nan);
    }
    world.rig.check(batch, world.requests([sequence], queries), { cache: world.cache });
    const { launches } = world.rig.attention.lastPlan!;
    expect(launches.at(-1)!.grid).toBeGreaterThan(0);
  });
});

if (opened !== undefined && !able) await opened[Symbol.asyncDispose]();
