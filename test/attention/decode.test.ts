import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { attend } from "../../src/attention/attend.ts";
import { offerOf } from "../../src/attention/families/resolve.ts";
import { families } from "../../src/attention/families/table.ts";
import { resolveOptions } from "../../src/attention/options.ts";
import { Device } from "../../src/device/device.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { normals } from "../support/numbers.ts";
import { seeded } from "../support/random.ts";
import { optionsOf } from "../support/rig.ts";
import { caseOn, targetsHere } from "../support/targets.ts";
import { warmUp } from "../support/warm.ts";
import { runCase, World } from "../support/world.ts";

const bf16 = { dtype: "bf16", outDtype: "f32", queryHeads: 8, kvHeads: 2, headDim: 128 } as const;
const decode: Partial<Case> = {
  ...bf16,
  queryLengths: [1, 2, 1, 4, 1],
  kvLengths: [800, 20, 1, 300, 64],
};
const wideDecode = { ...decode, kvDtype: "f8e4m3" } as const;
const rotated = { rope: { dim: 128, interleaved: false, theta: 1e4 } } as const;

/** What the kernels for few rows do in ways of their own. */
const cases: Case[] = [
  ...[64, 96, 128, 256].map((headDim) =>
    caseOf(`fp8 of ${headDim} elements`, { ...wideDecode, headDim, valueDim: headDim }),
  ),
  caseOf("keys of whole chunks, values of none", { ...wideDecode, headDim: 48, valueDim: 40 }),
  caseOf("keys of no whole chunk, values of some", { ...wideDecode, headDim: 40, valueDim: 48 }),
  caseOf("f8e5m2", { ...decode, kvDtype: "f8e5m2" }),
  caseOf("f16 queries of fp8 keys", { ...wideDecode, dtype: "f16" }),
  caseOf("scales by token", { ...wideDecode, scales: "token" }),
  caseOf("rotated keys in fp8", { ...wideDecode, ...rotated }),
  caseOf("16 to 32 rows", { ...decode, queryLengths: [8, 5, 1, 7, 6] }),
  caseOf("16 to 32 rows in fp8", { ...wideDecode, queryLengths: [8, 5, 1, 7, 6] }),
  caseOf("16 to 32 rows of 64", {
    ...decode,
    headDim: 64,
    valueDim: 64,
    queryLengths: [8, 5, 1, 7, 6],
  }),
  caseOf("split rows", { ...bf16, queryLengths: [1, 4], kvLengths: [9000, 4100] }),
  caseOf("split rows of 64", {
    ...bf16,
    headDim: 64,
    valueDim: 64,
    queryLengths: [6, 1],
    kvLengths: [5000, 6000],
  }),
  caseOf("split rows of 256 in fp8, raw", {
    ...bf16,
    headDim: 256,
    valueDim: 256,
    kvDtype: "f8e4m3",
    queryLengths: [2],
    kvLengths: [7000],
    finalize: false,
  }),
];

/** As many requests as processors, of equal keys, which are not cut, or one of more. */
const fewTiles: (Partial<Case> & { name: string; keys: readonly [each: number, one: number] })[] = [
  { name: "of equal keys", keys: [300, 300] },
  { name: "one is cut", keys: [40, 5000] },
  { name: "of equal keys in fp8", keys: [300, 300], kvDtype: "f8e4m3" },
  { name: "one is cut in fp8", keys: [40, 5000], kvDtype: "f8e4m3" },
  { name: "scales by token", keys: [300, 300], kvDtype: "f8e4m3", scales: "token" },
  { name: "rotated keys in fp8", keys: [40, 5000], ...rotated, kvDtype: "f8e4m3" },
];

const most = new RegExp(process.env["FLASHBUN_TEST_CASES"] ?? "");
const chosen = cases.filter(({ name }) => most.test(name));

describe.each((await targetsHere()).slice(-2))("decode on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
    await warmUp(
      device,
      chosen.map((c) => optionsOf(caseOn(device, c))),
    );
  }, 1_200_000);
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  test.each(chosen.map((c) => [c.name, c] as const))("%s", (_, c) => {
    runCase(device, c);
  });

  test.each(fewTiles)("few tiles take blocks of more warps: $name", ({ keys, ...over }) => {
    if (device.kind === "cpu" || device.properties.computeMajor < 8) return;
    const kvLengths = new Array<number>(device.processors).fill(keys[0]).with(0, keys[1]);
    const queryLengths = kvLengths.map(() => 1);
    const heads = { queryHeads: 4, kvHeads: 1, queryLengths, kvLengths };
    const c = caseOf("few tiles", { ...bf16, ...heads, ...over });
    const { classes } = offerOf(families.cuda, device.properties, resolveOptions(optionsOf(c)));
    // Where a processor has room for one block anyway, as before 8.0.
    if (classes[0].few === undefined) return;
    const pages = kvLengths.reduce((sum, length) => sum + Math.ceil(length / c.pageSize), 0);
    using world = new World(device, c, { pages });
    world.run();
    const plan = world.rig.attention.lastPlan!;
    const [{ kernelClass, few }] = plan.launches;
    expect({ kernelClass, few }).toEqual({ kernelClass: "cuda.decode8", few: true });
    expect(plan.mergeCount > 0).toBe(keys[0] < keys[1]);
  });

  test("bf16 queries of any size meet fp8 keys exactly", () => {
    if (device.kind === "cpu") return;
    const random = seeded(7);
    const [keys, dim] = [70, 64];
    const numbers = normals(random, 2 * dim, "bf16");
    using k = Tensor.from(device, normals(random, keys * dim, "f8e4m3"), [keys, 1, dim], "f8e4m3");
    const outputs = [0, 40, 80, -60, -110].map((power) => {
      // The second row's size is its own.
      const sized = numbers.map((x, i) => x * 2 ** (i < dim ? power : -power / 2));
      using q = Tensor.from(device, sized, [1, 2, dim], "bf16");
      const scale = 2 ** -power / 8;
      const { out, lse } = attend(q, k, k, { scale, tokenScales: false, outDtype: "f32" });
      const first = out.toFloat64Array().slice(0, dim);
      out[Symbol.dispose]();
      lse[Symbol.dispose]();
      return first;
    });
    for (const output of outputs) expect(output).toEqual(outputs[0]);
  });
});
