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
  beforeAll(async () => {
    device = await target!.open(2);
  });
  afterAll(() => device[Symbol.asyncDispose]());

  const replay = process.env["SEED"];
  const firsts = replay ? [Number(replay)] : Array.from({ length: 20 }, (_, i) => 1 + i * together);
  test.each(firsts)(
    "random ones from seed %p on",
    async (first) => {
      const seeds = Array.from({ length: replay ? 1 : together }, (_, i) => first + i);
      const made = seeds.map((seed) => randomExpression(seeded(seed)));
      const kernel = await probeOf(
        device,
        made.map(({ variant }) => variant),
      );
      made.forEach((each, i) => expectNear(runProbe(device, kernel, i, each), each, seeds[i]!));
      expect(made.length).toBe(seeds.length);
    },
    300_000,
  );
});
