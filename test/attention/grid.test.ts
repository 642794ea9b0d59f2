import { afterAll, beforeAll, describe, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import { gridCases, randomCase } from "../support/cases.ts";
import { forSeeds } from "../support/random.ts";
import { runCase } from "../support/rig.ts";
import { targetsHere } from "../support/targets.ts";

describe.each(await targetsHere())("attention on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  test.each(gridCases().map((c) => [c.name, c] as const))("%s", (_, c) => {
    runCase(device, c);
  });

  test("random cases over every option", () => {
    forSeeds(300, (random) => {
      const c = randomCase(random);
      try {
        runCase(device, c);
      } catch (cause) {
        throw new Error(`${(cause as Error).message} in ${JSON.stringify(c)}`, { cause });
      }
    });
  }, 120_000);
});
