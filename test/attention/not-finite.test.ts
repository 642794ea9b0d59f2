import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { attend } from "../../src/attention/attend.ts";
import type { Device } from "../../src/device/device.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { sweepCases } from "../support/deep.ts";
import { libraryCases } from "../support/library.ts";
import { targetsHere } from "../support/targets.ts";
import { runCase, World } from "../support/world.ts";

/** Every way in which pairs are hidden and scores and values changed. */
const ways: Record<string, Partial<Case>> = {
  causal: {},
  "not causal": { causal: false },
  window: { windowLeft: 5 },
  "mask over all keys": { mask: "all" },
  "mask over the tail": { mask: "tail", causal: false },
  "soft cap and ALiBi": { softCap: 8, alibi: true, seed: 2 },
  sinks: { sinks: true },
  "raw state": { finalize: false },
  "scales by token": { scales: "token", kvDtype: "f8e4m3" },
  "scales by head": { scales: "head", kvDtype: "f8e5m2", seed: 2 },
  rope: { rope: { dim: 32, interleaved: false, theta: 1e4 } },
};
const lengths: Record<string, Partial<Case>> = {
  decode: { queryLengths: [1, 4, 2], kvLengths: [37, 60, 3] },
  prefill: { queryLengths: [40, 3, 70], kvLengths: [40, 50, 75] },
  ragged: { queryLengths: [7, 33], kvLengths: [20, 40], pageSize: 0 },
  "split rows": { queryLengths: [3], kvLengths: [1500], kvHeads: 1 },
};

describe.each(await targetsHere())("NaN and infinities on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  const kinds: { name: string; over: Partial<Case> }[] = [
    ...Object.entries(ways).map(([name, over]) => ({ name, over })),
    ...libraryCases.map(({ over, ...variant }) => {
      return { name: `variant: ${variant.variant.name}`, over: { ...over, variant } };
    }),
  ];
  // A GPU compiles several kernels for each.
  const slice = target.kind === "cpu" ? kinds.length : 12;
  sweepCases("all lengths", kinds, slice, ({ over }, drawn) => {
    // Even seeds are f16 on a GPU, odd ones bf16.
    const seed = (over.seed ?? 1) + 2 * drawn;
    for (const [name, of] of Object.entries(lengths))
      runCase(device, caseOf(name, { notFinite: true, kvDtype: "f32", ...of, ...over, seed }));
  });

  test("a prefix that requests share", () => {
    for (let seed = 1; seed <= 8; seed += 2) {
      const c = caseOf("levels", { notFinite: true, kvDtype: "f32", pageSize: 16, seed });
      using world = new World(device, c, { pages: 64 });
      const first = world.create();
      world.step([first], [80]);
      const sequences = [first, world.fork(first), world.fork(first)];
      world.step(sequences, [1, 5, 20], { share: true });
      world.step(sequences, [1, 1, 1], { share: true });
    }
  });

  // Which families of a GPU run: tiled, for Hopper, latent.
  const shapes: Record<string, Partial<Case>> = {
    "few rows": { queryLengths: [3, 5], kvLengths: [2, 4] },
    "many rows": { headDim: 128, queryLengths: [150, 3], kvLengths: [100, 1] },
    latent: { kvHeads: 1, headDim: 576, valueDim: 512, latent: true, queryHeads: 16 },
  };
  test.each(Object.keys(shapes))(
    "scales of NaN and rows without keys: %s",
    (shape) => {
      for (let seed = 1; seed <= 16; seed += 2) {
        const over = { queryLengths: [3, 5], kvLengths: [2, 4], ...shapes[shape], pageSize: 0 };
        const c = caseOf(shape, {
          scales: "request",
          notFinite: true,
          dtype: "bf16",
          ...over,
          seed,
        });
        runCase(device, c);
      }
    },
    120_000,
  );

  const dtype = target.kind === "cpu" ? "f32" : "bf16";
  const [tokens, dim] = [40, 64];
  const filled = (value: number) =>
    Tensor.from(device, new Float32Array(tokens * dim).fill(value), [tokens, 1, dim], dtype);
  const values = () => Tensor.randomNormal(device, [tokens, 1, dim], dtype, { seed: 3 });

  test("scores far below zero are scores", () => {
    for (const factor of [1e10, 1e15, 1e18]) {
      using v = values();
      const [q, k] = [filled(factor), filled(-factor)];
      const { out, lse } = attend(q, k, v, { scale: 0.5 });
      const given = v.toFloat64Array();
      const got = out.toFloat64Array();
      for (let d = 0; d < dim; d++) {
        let mean = 0;
        for (let token = 0; token < tokens; token++) mean += given[token * dim + d] / tokens;
        for (let row = 0; row < tokens; row++)
          expect(Math.abs(got[row * dim + d] - mean)).toBeLessThan(dtype === "f32" ? 1e-6 : 2e-3);
      }
      const score = -0.5 * dim * q.toFloat64Array()[0] ** 2;
      for (const x of lse.toFloat64Array()) expect(x / score).toBeCloseTo(1, 5);
    }
  });

  test("keys without weight leave 0, as keys that are not there do", () => {
    using v = values();
    const { out, lse } = attend(filled(1), filled(-Infinity), v, {});
    expect(out.toFloat64Array().every((x) => x === 0)).toBe(true);
    expect(lse.toFloat64Array().every((x) => x === -Infinity)).toBe(true);
  }, 120_000);

  test("a NaN of any bits stays NaN", () => {
    const all = dtype === "f32" ? [0x7fc00000, 0x7f800001, -1, 0x7fffffff] : [0x7fc0, 0x7f81, -1];
    for (const bits of all) {
      const made = dtype === "f32" ? Int32Array.of(bits) : Int16Array.of(bits);
      const one = new Uint8Array(made.buffer);
      const bytes = Uint8Array.from({ length: tokens * dim * one.length }, (_, i) => {
        return one[i % one.length];
      });
      const q = Tensor.fromBits(device, bytes, [tokens, 1, dim], dtype);
      const { out, lse } = attend(q, values(), values(), { causal: true });
      expect(out.toFloat64Array().every(Number.isNaN)).toBe(true);
      expect(lse.toFloat64Array().every(Number.isNaN)).toBe(true);
    }
  }, 120_000);
});
