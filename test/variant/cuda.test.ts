import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import type { CudaKernel } from "../../src/device/kernel.ts";
import { defineCudaVariant, defineVariant } from "../../src/variant/define.ts";
import { emitCuda } from "../../src/variant/emit-cuda.ts";
import { randomExpression, type RandomExpression } from "../support/expressions.ts";
import { seeded } from "../support/random.ts";
import { gpuTarget } from "../support/targets.ts";
import { probeOf, runProbe } from "./cuda-probe.ts";

const target = gpuTarget();
const together = 100;

interface Made {
  seeds: number[];
  expressions: RandomExpression[];
  kernel: Promise<CudaKernel>;
}

function expectNear(got: Float64Array, { expected, error }: RandomExpression, seed: number): void {
  got.forEach((value, at) => {
    const allowed = error[at] + 1e-6 + Math.abs(expected[at]) * 1e-6;
    if (Math.abs(value - expected[at]) <= allowed) return;
    throw new Error(
      `SEED=${seed}: point ${at} is ${value}, expected ${expected[at]} to within ${allowed}`,
    );
  });
}

describe("a variant's text", () => {
  const slopes = { slopes: { dtype: "f32", shape: ["queryHeads"] } } as const;

  test("computes once per row what changes with rows, once per key what changes with keys", () => {
    const { attention, rowWords } = emitCuda(
      defineVariant({
        name: "words",
        tensors: slopes,
        logits: (x, { slopes, head, query, key }) =>
          x.add(slopes.at(head).exp().mul(key.sub(query).toF32())).add(key.toF32().sqrt()),
      }),
    );
    expect(rowWords).toBe(2);
    const logits = attention.slice(attention.indexOf("float logits("));
    expect(logits).toContain("row.w1");
    expect(logits).not.toMatch(/load_element|exp_f32|sqrt/);
  });

  test("splits bounds off the mask, and says what it has", () => {
    const { attention, hooks, merge } = emitCuda(
      defineVariant({
        name: "bounds",
        mask: ({ query, key }) => key.le(query).and(key.ge(query.sub(9))),
      }),
    );
    expect(attention).toContain("has_bounds = true");
    expect(attention).toContain("int32_t low(");
    expect(attention).toContain("int32_t high(");
    expect(attention).not.toContain("bool mask(");
    expect([...hooks]).toEqual([]);
    expect(merge).toBeUndefined();
    // The planner cuts records to such bounds; those that a tensor holds it does not know.
    expect(attention).not.toContain("trims");
    const ends = defineVariant({
      name: "ends",
      tensors: { ends: { dtype: "i32", shape: ["requests"] } },
      mask: ({ key, request, ends }) => key.lt(ends.at(request)),
    });
    expect(emitCuda(ends).attention).toContain("trims = true");
  });

  test("is the merge's business with an output hook, or without softmax", () => {
    const output = emitCuda(defineVariant({ name: "o", output: (x) => x.mul(2) })).merge!;
    expect(output).toContain("float output(");
    expect(output).not.toContain("softmax");
    const sums = emitCuda(
      defineVariant({ name: "s", softmax: false, logits: (x) => x.sigmoid() }),
    ).merge!;
    expect(sums).toContain("softmax = false");
    expect(sums).not.toContain("logits");
  });

  test("names the user's lines, and its own again behind them", () => {
    const source = "FB_DEVICE int one;\nFB_DEVICE int two;";
    const hooks = ["logits", "key", "output"] as const;
    const { attention, merge, rowWords } = emitCuda(
      defineCudaVariant({ name: "lines", source, hooks, tensors: slopes, scalars: { cap: "f32" } }),
    );
    expect(rowWords).toBe(8);
    for (const text of [attention, merge!]) {
      const lines = text.split("\n");
      expect(lines[lines.indexOf("FB_DEVICE int one;") - 1]).toBe('#line 1 "variant lines"');
      const back = [...lines.entries()].filter(([, line]) => line.endsWith('variant.h"'));
      expect(back.length).toBe(text === attention ? 4 : 2);
      for (const [at, line] of back) expect(line).toBe(`#line ${at + 2} "attention/variant.h"`);
    }
  });
});

describe.skipIf(target === undefined)(`expressions on ${target?.name}`, () => {
  let device: Device;
  const replay = process.env["SEED"];
  const firsts = replay ? [Number(replay)] : Array.from({ length: 20 }, (_, i) => 1 + i * together);
  const made = new Map<number, Made>();
  beforeAll(async () => {
    device = await target!.open(2);
    for (const first of firsts) made.set(first, make(first, replay ? 1 : together));
  });
  afterAll(() => device[Symbol.asyncDispose]());

  /** Starts to compile some expressions; a few compilers run at a time. */
  function make(first: number, count: number): Made {
    const seeds = Array.from({ length: count }, (_, i) => first + i);
    const expressions = seeds.map((seed) => randomExpression(seeded(seed)));
    const variants = expressions.map(({ variant }) => variant);
    return { seeds, expressions, kernel: probeOf(device, variants) };
  }

  test.each(firsts)(
    "random ones from seed %p on",
    async (first) => {
      const { seeds, expressions, kernel } = made.get(first)!;
      const probe = await kernel;
      expressions.forEach((each, i) => {
        expectNear(runProbe(device, probe, i, each), each, seeds[i]);
      });
      expect(expressions.length).toBe(replay ? 1 : together);
    },
    300_000,
  );
});
