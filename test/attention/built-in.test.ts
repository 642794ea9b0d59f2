import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { attend, type AttendOptions } from "../../src/attention/attend.ts";
import { alibiSlopes } from "../../src/attention/attention.ts";
import type { VariantInputs } from "../../src/attention/variant/inputs.ts";
import type { Device } from "../../src/device/device.ts";
import { ropeFrequencies } from "../../src/ops/rope.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { builtinVariant } from "../../src/variant/builtin.ts";
import { defineVariant } from "../../src/variant/define.ts";
import type { Variant } from "../../src/variant/variant.ts";
import { targetsHere } from "../support/targets.ts";

const [heads, dim, positions] = [4, 64, 300];

/** A native option, and the same in the language. */
interface Pair {
  native: (device: Device) => AttendOptions;
  variant: Variant;
  inputs?: (device: Device) => VariantInputs;
}

const slopes = (device: Device) => Tensor.from(device, alibiSlopes(heads), [heads], "f32");

function ropeTable(device: Device): Tensor {
  const frequencies = ropeFrequencies({}, dim);
  const table = new Float32Array(positions * dim);
  for (let i = 0; i < table.length; i++) {
    const angle = Math.floor(i / dim) * frequencies[(i >> 1) % (dim / 2)];
    table[i] = i % 2 === 0 ? Math.cos(angle) : Math.sin(angle);
  }
  return Tensor.from(device, table, [positions, dim / 2, 2], "f32");
}

const off = { softCap: false, alibi: false, rope: undefined };
const pairs: Record<string, Pair> = {
  "soft cap": {
    native: () => ({ softCap: 4 }),
    variant: builtinVariant({ ...off, softCap: true }),
    inputs: () => ({ softCap: 4 }),
  },
  ALiBi: {
    native: (device) => ({ alibi: true, alibiSlopes: slopes(device) }),
    variant: builtinVariant({ ...off, alibi: true }),
    inputs: (device) => ({ alibiSlopes: slopes(device) }),
  },
  "rope of halves": {
    native: () => ({ rope: {} }),
    variant: builtinVariant({ ...off, rope: { dim } }),
    inputs: (device) => ({ ropeTable: ropeTable(device) }),
  },
  "rope of neighbours": {
    native: () => ({ rope: { interleaved: true } }),
    variant: builtinVariant({ ...off, rope: { dim, interleaved: true } }),
    inputs: (device) => ({ ropeTable: ropeTable(device) }),
  },
  "all of them": {
    native: (device) => ({ softCap: 9, alibi: true, alibiSlopes: slopes(device), rope: {} }),
    variant: builtinVariant({ softCap: true, alibi: true, rope: { dim } }),
    inputs: (device) => ({
      softCap: 9,
      alibiSlopes: slopes(device),
      ropeTable: ropeTable(device),
    }),
  },
  causal: {
    native: () => ({ causal: true }),
    variant: defineVariant({ name: "causal", mask: ({ query, key }) => key.le(query) }),
  },
  "causal that is planned": {
    native: () => ({ causal: true }),
    variant: defineVariant({
      name: "causal",
      mask: ({ query, key }) => key.le(query),
      visible({ queryStart, queryEnd }, ranges) {
        ranges.add(0, queryStart + 1, true);
        ranges.add(queryStart + 1, queryEnd, false);
      },
    }),
  },
  window: {
    native: () => ({ windowLeft: 40 }),
    variant: defineVariant({ name: "window", mask: ({ query, key }) => key.ge(query.sub(40)) }),
  },
  "window, causal": {
    native: () => ({ causal: true, windowLeft: 40 }),
    variant: defineVariant({
      name: "window",
      mask: ({ query, key }) => key.ge(query.sub(40)).and(key.le(query)),
    }),
  },
};

for (const target of (await targetsHere()).filter(({ kind }) => kind === "cpu")) {
  describe(`built in and in the language on ${target.name}`, () => {
    let device: Device;
    beforeAll(async () => {
      device = await target.open(2);
    });
    afterAll(() => device[Symbol.asyncDispose]());

    test.each(Object.keys(pairs))("%s", (name) => {
      const { native, variant, inputs } = pairs[name];
      for (const [queries, keys] of [
        [1, 257],
        [70, 133],
      ]) {
        const noise = (tokens: number, count: number, seed: number) =>
          Tensor.randomNormal(device, [tokens, count, dim], "f32", { seed });
        const [q, k, v] = [noise(queries, heads, 1), noise(keys, 2, 2), noise(keys, 2, 3)];
        const one = attend(q, k, v, native(device));
        const other = attend(q, k, v, { variant, variantInputs: inputs?.(device) });
        for (const [a, b] of [
          [one.out, other.out],
          [one.lse, other.lse],
        ]) {
          const [expected, actual] = [a.toFloat64Array(), b.toFloat64Array()];
          const most = expected.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
          const worst = expected.reduce((max, x, i) => Math.max(max, Math.abs(x - actual[i])), 0);
          expect(worst / most).toBeLessThan(2e-6);
        }
      }
    });
  });
}
