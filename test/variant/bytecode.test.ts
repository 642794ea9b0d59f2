import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { emitBytecode } from "../../src/variant/emit-bytecode.ts";
import type { EvaluationTensor } from "../../src/variant/evaluate.ts";
import type { TensorSpec } from "../../src/variant/expression.ts";
import { stage } from "../../src/variant/stages.ts";
import { randomExpression } from "../support/expressions.ts";
import { forSeeds } from "../support/random.ts";
import { levelsHere } from "../support/targets.ts";
import { VariantProbe } from "../support/variant-probe.ts";

/** Tensors on the device, where the probe finds them. */
function upload(device: Device, specs: readonly TensorSpec[], tensors: EvaluationTensor[]) {
  return specs.map(({ dtype }, i) => {
    return Tensor.from(device, Float64Array.from(tensors[i].data), [...tensors[i].sizes], dtype);
  });
}

const levels = await levelsHere();
describe.each(levels)("bytecode on %s", (level) => {
  let device: Device;
  let probe: VariantProbe;
  beforeAll(async () => {
    device = await Device.open("cpu", { level, threads: 1 });
    probe = new VariantProbe(device);
  });
  afterAll(async () => {
    probe[Symbol.dispose]();
    await device[Symbol.asyncDispose]();
  });

  test("2,000 random expressions give what they mean, in both layouts", () => {
    forSeeds(2000, (random) => {
      const made = randomExpression(random);
      const { variant, grid, scalars } = made;
      const tensors = upload(device, variant.tensors, made.tensors);
      const given = tensors.map(({ address, shape: sizes, strides }) => {
        return { address, sizes, strides };
      });
      const whole = variant.scalars.map(({ type }) => type === "i32");
      const program = emitBytecode(stage(variant));
      const common = {
        ...grid,
        program,
        section: "logits",
        tensors: given,
        scalars,
        whole,
      } as const;
      const rowsInside = probe.run({ ...common });
      const keysInside = probe.run({ ...common, keysInside: true });
      expect(keysInside).toEqual(rowsInside);
      made.expected.forEach((expected, at) => {
        if (!(Math.abs(rowsInside[at] - expected) <= made.error[at]))
          throw new Error(
            `pair ${at} is ${rowsInside[at]}, expected ${expected} to within ${made.error[at]}`,
          );
      });
      for (const tensor of tensors) tensor[Symbol.dispose]();
    });
  });
});
