import { afterAll, beforeAll, describe, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import { gridCases, randomCase } from "../support/cases.ts";
import { sweepSeeds } from "../support/deep.ts";
import { seeded } from "../support/random.ts";
import { optionsOf } from "../support/rig.ts";
import { caseOn, targetsHere } from "../support/targets.ts";
import { warmUp } from "../support/warm.ts";
import { runCase } from "../support/world.ts";

describe.each(await targetsHere())("attention on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
    await warmUp(
      device,
      gridCases().map((c) => optionsOf(caseOn(device, c))),
    );
  }, 1_200_000);
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  test.each(gridCases().map((c) => [c.name, c] as const))("%s", (_, c) => {
    runCase(device, c);
  });

  // Scores of near keys, and of far ones that ALiBi leaves behind, are each sums of 552 products.
  test.if(target.kind === "cpu")("equal scores of large products", () => {
    runCase(device, randomCase(seeded(1432)));
  });

  // On a GPU a case compiles kernels of its own: a few seconds each on the emulated one.
  const sizes = target.kind === "cpu" ? { slice: 150, whole: 300 } : { slice: 6, whole: 12 };
  sweepSeeds("random cases over every option", sizes, (random) => {
    const c = randomCase(random);
    try {
      runCase(device, c);
    } catch (cause) {
      throw new Error(`${(cause as Error).message} in ${JSON.stringify(c)}`, { cause });
    }
  });
});
