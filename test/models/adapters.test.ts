/** Which adapters are loaded beside one moves none of its bits in a deterministic engine. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Device } from "../../src/device/device.ts";
import { Adapters } from "../../src/models/adapters.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { Weight } from "../../src/tensor/weight.ts";
import { openAdapter } from "../../src/weights/adapter.ts";
import { gpuTarget } from "../support/targets.ts";
import { smallShape, tinyModel } from "../support/tiny-llama.ts";
import { tinyAdapter, writeAdapter } from "../support/tiny-lora.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-adapter-bits-"));
afterAll(() => rmSync(folder, { recursive: true }));
const model = tinyModel(1, { ...smallShape, layers: 1, headDim: 16, context: 64 });
const targets = ["q_proj", "k_proj", "v_proj"];
const module = "model.layers.0.self_attn";
const adapterOf = (id: number, rank: number, of = targets) => {
  const made = tinyAdapter(id, model, of, { rank });
  return { id, file: openAdapter(writeAdapter(join(folder, `${id}`), made)) };
};
const one = adapterOf(1, 21);
/** Of other ranks, which lie before those of the first one's keys and values. */
const others = [adapterOf(2, 24), adapterOf(3, 40), adapterOf(4, 70, ["q_proj"])];

async function bitsOf(device: Device, dtype: DType, deterministic: boolean): Promise<string[]> {
  const sizes = targets.map((target): [string, number] => {
    const name = `${module}.${target}`;
    return [name, model.tensors.get(`${name}.weight`)!.shape[0]];
  });
  const outputs = sizes.reduce((sum, [, size]) => sum + size, 0);
  const inputs = model.tensors.get(`${module}.q_proj.weight`)!.shape[1];
  using weight = Tensor.zeros(device, [outputs, inputs], dtype);
  using x = Tensor.randomNormal(device, [3, inputs], dtype, { seed: 4 });
  const linear = { weight: Weight.dense(weight), parts: sizes };
  const bits: string[] = [];
  for (const beside of [[], ...others.map((other) => [other]), others]) {
    const how = { dtype, tokenBudget: 8, deterministic };
    using adapters = new Adapters(device, [linear], [one, ...beside], how);
    adapters.begin([{ adapter: 1, scheduled: 3 }]);
    using out = Tensor.zeros(device, [3, outputs], "f32");
    adapters.add(linear.weight, x, out);
    bits.push(Bun.hash(out.toBytes()).toString(16));
  }
  return bits;
}

const targetsOf: [string, DType][] = [
  ["cpu", "f32"],
  ["cpu", "bf16"],
];
const gpu = gpuTarget();
if (gpu !== undefined) targetsOf.push(["cuda:0", "f16"], ["cuda:0", "bf16"]);
test.each(targetsOf)(
  "on %s in %s",
  async (kind, dtype) => {
    await using device = await Device.open(kind as "cpu");
    const bits = await bitsOf(device, dtype, true);
    expect(new Set(bits).size).toBe(1);
  },
  100_000,
);
