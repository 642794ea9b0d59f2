import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import type { Device } from "../../src/device/device.ts";
import type { Graph } from "../../src/device/graph.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import { userPages } from "../../src/kv/user-pages.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { caseOf } from "../support/cases.ts";
import { indptrOf, poisoned } from "../support/numbers.ts";
import { gpuTarget } from "../support/targets.ts";
import { World } from "../support/world.ts";

const [queryHeads, kvHeads, headDim] = [4, 2, 128];
const shape = { queryHeads, kvHeads, headDim, dtype: "bf16" } as const;

const target = gpuTarget();
const opened = await target?.open(1);
const able = opened !== undefined && opened.properties.computeMajor === 9;

/** The classes that the last plan launches. */
function launched(attention: Attention): string[] {
  const { launches } = attention.lastPlan!;
  return launches.filter(({ grid }) => grid > 0).map(({ kernelClass }) => kernelClass);
}

afterAll(() => opened?.[Symbol.asyncDispose]());

describe.skipIf(!able).each([
  ["hopper.short128", true],
  ["hopper.tile256", false],
] as const)(`steps of %s on ${target?.name}`, (kernelClass, causal) => {
  const device: Device = opened!;
  const options = { ...shape, causal };
  let attention: Attention;
  beforeAll(async () => {
    attention = await Attention.create(device, options);
  }, 600_000);
  afterAll(() => attention[Symbol.dispose]());

  const noise = (tokens: number, heads: number, seed: number) =>
    Tensor.randomNormal(device, [tokens, heads, headDim], "bf16", { seed });

  test("one kernel takes ragged keys, pages by boxes and pages by rows, with the same bits", () => {
    const [queryLengths, kvLengths] = [
      [96, 130],
      [96, 176],
    ];
    const [queryIndptr, indptr] = [indptrOf(queryLengths), indptrOf(kvLengths)];
    const [queries, keys] = [queryIndptr.at(-1)!, indptr.at(-1)!];
    using q = noise(queries, queryHeads, 1);
    using k = noise(keys, kvHeads, 2);
    using v = noise(keys, kvHeads, 3);
    const kernels = new Set<unknown>();
    const run = (pageSize: number) => {
      using out = poisoned(device, [queries, queryHeads, headDim], "bf16");
      using _ = device.observe({
        launching: ({ name, kernel }) => name === "attention_hopper" && kernels.add(kernel),
      });
      if (pageSize === 0) {
        const layout = raggedLayout(queryIndptr, indptr);
        attention.plan(createBatch({ queryLengths, kvLengths, layout }));
        attention.run({ q, k, v, out });
      } else {
        // The same memory, seen as pages in their order.
        const pageCount = keys / pageSize;
        const { table, stride, layout } = userPages({
          queryIndptr,
          lastPageLength: [pageSize, pageSize],
          indptr: indptr.map((first) => first / pageSize),
          indices: Int32Array.from({ length: pageCount }, (_, page) => page),
          pageSize,
          pageCount,
        });
        using pageTable = Tensor.from(device, table, [2, stride], "i32");
        attention.plan(createBatch({ queryLengths, kvLengths, layout }));
        const pagesOf = (x: Tensor) => x.reshape(pageCount, pageSize, kvHeads, headDim);
        attention.run({ q, k: pagesOf(k), v: pagesOf(v), pageTable, out });
      }
      expect(launched(attention)).toEqual([kernelClass]);
      return out.toBytes();
    };
    const ragged = run(0);
    for (const pageSize of [16, 8, 4, 1]) expect(run(pageSize), `${pageSize}`).toEqual(ragged);
    expect(kernels.size).toBe(1);
  }, 300_000);

  test("chunks of prompts that share a prefix are one launch of two levels", () => {
    const c = caseOf("levels", { ...options, valueDim: headDim, pageSize: 16 });
    using world = new World(device, c, { pages: 60 });
    const parent = world.create();
    world.step([parent], [150]);
    const all = [parent, world.fork(parent), world.fork(parent)];
    world.step(all, [70, 80, 90], { share: true });
    expect(launched(world.rig.attention)).toEqual([kernelClass]);
  }, 300_000);

  test("a captured graph of prompts gives the bits of the calls", () => {
    const graph = { maxBatch: 2, maxQueryTokens: 200, maxColumns: 40 };
    const c = caseOf("graph", { ...options, valueDim: headDim, pageSize: 16 });
    using world = new World(device, c, { pages: 60, attention: { graph } });
    const { cache } = world;
    const captured = world.rig.attention;
    const all = [world.create(), world.create()];
    using q = noise(200, queryHeads, 6);
    using out = poisoned(device, [...q.shape], "bf16");
    let recorded: Graph | undefined;
    for (const counts of [
      [100, 100],
      [130, 70],
      [70, 90],
    ]) {
      const batch = world.grow(all, counts);
      captured.plan(batch);
      expect(launched(captured)).toContain(kernelClass);
      if (recorded === undefined) {
        captured.run({ q, cache, out });
        recorded = device.capture(device.stream, () => captured.run({ q, cache, out }));
      }
      recorded.replay(device.stream);
      const tokens = counts[0] + counts[1];
      using direct = poisoned(device, [tokens, queryHeads, headDim], "bf16");
      attention.plan(batch);
      attention.run({ q: q.slice(0, 0, tokens), cache, out: direct });
      expect(out.slice(0, 0, tokens).toBytes()).toEqual(direct.toBytes());
    }
    recorded![Symbol.dispose]();
  }, 300_000);
});
