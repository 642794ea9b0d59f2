import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import type { CudaKernel } from "../../src/device/kernel.ts";
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
    const allowed = error[at]! + 1e-6 + Math.abs(expected[at]!) * 1e-6;
    if (Math.abs(value - expected[at]!) <= allowed) return;
    throw new Error(
      `SEED=${seed}: point ${at} is ${value}, expected ${expected[at]} to within ${allowed}`,
    );
  });
}

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
        expectNear(runProbe(device, probe, i, each), each, seeds[i]!);
      });
      expect(expressions.length).toBe(replay ? 1 : together);
    },
    300_000,
  );
});
