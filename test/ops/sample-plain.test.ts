import { expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { sample, type SampleOptions, sampleStatus, softmax } from "../../src/ops/sample.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { seeded } from "../support/random.ts";
import { gpuTarget } from "../support/targets.ts";

const target = gpuTarget();
const testOnGpu = test.skipIf(target === undefined);

/** A device, one whose rows are each a block's, and the names of the kernels of the first. */
async function devices() {
  const [device, other] = [await target!.open(2), await target!.open(2)];
  const launched: string[] = [];
  const [found, kernel] = [device.kernel.bind(device), other.kernel.bind(other)];
  device.kernel = (name) => (launched.push(name), found(name));
  other.kernel = (name) => kernel(name.replace(/^sample_.*/, "sample_rows"));
  return { both: [device, other], launched, [Symbol.asyncDispose]: () => close(device, other) };
}

async function close(...all: Device[]): Promise<void> {
  for (const device of all) await device[Symbol.asyncDispose]();
}

const filters: SampleOptions[] = [
  {},
  { temperature: 0.02 },
  { temperature: 0 },
  { minP: 0.1 },
  { topP: 0.5 },
  { topP: 0.9, minP: 0.05 },
  { topP: 0.7, minP: 0.05, order: "joint" },
];

/** Rows of one value and of two; a peak; others; what is no number; nothing likely; infinities. */
const kinds: ((at: number, x: number) => number)[] = [
  () => 1.5,
  (at) => at % 2,
  (at, x) => (at === 7777 ? 30 : x),
  (_, x) => x,
  (at, x) => (at % 5 === 0 ? NaN : x),
  () => -Infinity,
  (at, x) => (at === 9000 ? Infinity : x),
  (at, x) => (at === 9000 || at === 16_390 ? Infinity : x),
];

testOnGpu("what a cluster holds is drawn from as by a block", async () => {
  await using on = await devices();
  const random = seeded(31);
  const compare = (rows: number, length: number, at: number, options: SampleOptions) => {
    const dtype = (["f32", "bf16", "f16"] as const)[at % 3];
    const values = Array.from({ length: rows * length }, (_, i) => {
      return kinds[Math.floor(i / length) % kinds.length](i % length, random.normal());
    });
    const results = on.both.map((device) => {
      using x = Tensor.from(device, values, [rows, length], dtype);
      using status = Tensor.zeros(device, [rows], "i32");
      const tokens = sample(x, { ...options, seed: at, status });
      return [...tokens.toFloat64Array(), ...status.toFloat64Array()];
    });
    expect({ options, results: results[0] }).toEqual({ options, results: results[1] });
    return results[0].slice(rows);
  };
  for (const [at, options] of filters.entries()) {
    const status = compare(kinds.length, 16_391, at, options);
    expect(status[4] & sampleStatus.nan).toBe(sampleStatus.nan);
    expect(status[5] & sampleStatus.noMass).toBe(sampleStatus.noMass);
  }
  // More than the blocks hold.
  compare(1, 161_001, 0, { topP: 0.6 });
  expect(new Set(on.launched)).toEqual(new Set(["sample_plain_cluster"]));
});

testOnGpu("what top-p keeps is looked for where tries fail", async () => {
  await using on = await devices();
  const random = seeded(32);
  const values = Float64Array.from({ length: 16_400 }, () => random.normal() / 2);
  // At these places nine and ten races are run until the winner is kept; eight are tried.
  const draws = on.both.map((device) => {
    using x = Tensor.from(device, values, [1, values.length], "f32");
    const tokens = [4, 6].map((position) => sample(x, { topP: 0.02, seed: 5, position }));
    return tokens.map((token) => token.toFloat64Array()[0]);
  });
  expect(draws[0]).toEqual(draws[1]);
});

testOnGpu("softmax of what a cluster holds is that of a block", async () => {
  await using on = await devices();
  const random = seeded(33);
  const compare = (rows: number, length: number, dtype: "f32" | "bf16", temperature: number) => {
    const values = Array.from({ length: rows * length }, (_, i) =>
      kinds[Math.floor(i / length)](i % length, random.normal()),
    );
    const results = on.both.map((device) => {
      using x = Tensor.from(device, values, [rows, length], dtype);
      using status = Tensor.zeros(device, [rows], "i32");
      return [softmax(x, { temperature, status }), status].map((tensor) => tensor.toBytes());
    });
    for (const [i, bytes] of results[0].entries())
      expect(Buffer.from(bytes).equals(results[1][i])).toBe(true);
  };
  compare(kinds.length, 16_391, "bf16", 0.7);
  compare(1, 161_001, "f32", 1);
  expect(new Set(on.launched)).toEqual(new Set(["sample_softmax_cluster"]));
});
