/** Variants that multiply queries and outputs by matrices. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { attend } from "../../src/attention/attend.ts";
import { Attention } from "../../src/attention/attention.ts";
import type { AttentionOptions } from "../../src/attention/options.ts";
import { rowDims } from "../../src/attention/row-dims.ts";
import { Device } from "../../src/device/device.ts";
import { OptionError } from "../../src/errors.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import { matmul } from "../../src/ops/matmul.ts";
import { defaultCosts, startCost } from "../../src/plan/cost.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { Weight } from "../../src/tensor/weight.ts";
import { defineVariant } from "../../src/variant/define.ts";
import type { VariantMatrix } from "../../src/variant/value.ts";
import type { F32 } from "../../src/variant/values.ts";
import { normals } from "../support/numbers.ts";
import { seeded } from "../support/random.ts";
import { deviceTargets } from "../support/targets.ts";

/** Sizes of an MLA: heads, elements without and with positions, of the latent, of a value. */
const [heads, plain, turned, latent, value] = [4, 32, 16, 64, 24];

for (const target of await deviceTargets()) {
  describe(`projections on ${target.name}`, () => {
    let device: Device;
    beforeAll(async () => {
      device = await target.open(2);
    });
    afterAll(() => device[Symbol.asyncDispose]());

    /** Matrices of f32 whose elements bf16 holds. */
    const matrices = (seed: number, shape: number[], factor = 1) => {
      using rounded = made(seed, shape, "bf16", factor);
      return rounded.to("f32");
    };

    /** A tensor of normals, times `factor`. */
    const made = (seed: number, shape: number[], dtype: "f32" | "bf16", factor = 1) => {
      const count = shape.reduce((product, size) => product * size);
      const numbers = normals(seeded(seed), count, "f32").map((x) => x * factor);
      return Tensor.from(device, numbers, shape, dtype);
    };

    test("MLA's absorbed projections are those of products of matrices outside", () => {
      const dtype = device.kind === "cpu" ? "f32" : "bf16";
      const [queries, keys] = [9, 150];
      using q = made(1, [queries, heads, plain + turned], dtype);
      using k = made(2, [keys, 1, latent + turned], dtype);
      using v = k.slice(2, 0, latent);
      using queryUp = matrices(3, [heads, plain, latent], plain ** -0.5);
      using valueUp = matrices(4, [heads, latent, value], latent ** -0.5);
      const options = { causal: true, scale: (plain + turned) ** -0.5 };
      const variantInputs = { queryUp, valueUp };
      const fused = attend(q, k, v, { ...options, variant: absorbed, variantInputs });
      expect(fused.out.shape).toEqual([queries, heads, value]);
      using wide = Tensor.empty(device, [queries, heads, latent + turned], dtype);
      wide.slice(2, latent, latent + turned).copyFrom(q.slice(2, plain, plain + turned));
      productsInto(wide.slice(2, 0, latent), q.slice(2, 0, plain), queryUp);
      const apart = attend(wide, k, v, options);
      using expected = Tensor.empty(device, [queries, heads, value], dtype);
      productsInto(expected, apart.out, valueUp);
      const [limit, lseLimit] = device.kind === "cpu" ? [1e-5, 1e-5] : [0.02, 0.005];
      expect(farthest(fused.out, expected)).toBeLessThan(limit);
      expect(farthest(fused.lse, apart.lse)).toBeLessThan(lseLimit);
      for (const { out, lse } of [fused, apart]) {
        out[Symbol.dispose]();
        lse[Symbol.dispose]();
      }
    });

    test("what does not fit is refused, and nothing is written", () => {
      const dtype = device.kind === "cpu" ? "f32" : "bf16";
      using q = made(1, [3, heads, plain + turned], dtype);
      using k = made(2, [20, 1, latent + turned], dtype);
      using v = k.slice(2, 0, latent);
      using queryUp = matrices(3, [heads, plain, latent]);
      using valueUp = matrices(4, [heads, latent, value]);
      using out = Tensor.from(
        device,
        new Float64Array(3 * heads * value),
        [3, heads, value],
        dtype,
      );
      const run = (over: Record<string, unknown>) => {
        const { variantInputs, ...more } = over;
        const inputs = { queryUp, valueUp, ...(variantInputs as object) };
        attend(q, k, v, { variant: absorbed, out, ...more, variantInputs: inputs });
      };
      const refused = (over: Record<string, unknown>, message: RegExp) => {
        expect(() => run(over)).toThrow(OptionError);
        expect(() => run(over)).toThrow(message);
      };
      using narrow = matrices(3, [heads, plain, latent - 8]);
      using few = matrices(3, [heads - 1, plain, latent]);
      using other = made(3, [heads, plain, latent], "bf16");
      refused({ variantInputs: { queryUp: narrow } }, /variantInputs.queryUp must be.*Fix: /s);
      refused({ variantInputs: { queryUp: few } }, /variantInputs.queryUp must be.*Fix: /s);
      refused({ variantInputs: { queryUp: other } }, /variantInputs.queryUp must be.*Fix: /s);
      refused({ variantInputs: { queryUp: 3 } }, /variantInputs.queryUp must be.*Fix: /s);
      using asWide = Tensor.empty(device, [3, heads, latent], dtype);
      refused({ out: asWide }, new RegExp(`out must be .*, ${value}\\].*Fix: `, "s"));
      // Rows of outputs in the place of a matrix that later rows are multiplied by.
      const within = valueUp.reshape(heads * latent * value).slice(0, 0, 3 * heads * value);
      refused(
        { out: within.reshape(3, heads, value) },
        /out must be memory apart from .*valueUp.*Fix: /s,
      );
      expect(() =>
        attend(k, k, v, { variant: absorbed, variantInputs: { queryUp, valueUp } }),
      ).toThrow(/q must be .*, 48\].*Fix: /s);
      expect(out.toFloat64Array().every((x) => x === 0)).toBe(true);
      const wrong = valueUp.toFloat64Array();
      expect(wrong.some((x) => x === 0)).toBe(false);
    });
  });
}

/** MLA's projections: to the latent before the products, to values behind them. */
const absorbed = defineVariant({
  name: "absorbed",
  tensors: {
    queryUp: { dtype: "f32", shape: ["queryHeads", plain, latent] },
    valueUp: { dtype: "f32", shape: ["queryHeads", "valueDim", value] },
  },
  query: (x, { queryUp }) => x.matmul(queryUp),
  output: (x, { valueUp }) => x.matmul(valueUp),
});

/** out = x times a matrix of each head, by the operator. */
function productsInto(out: Tensor, x: Tensor, matrices: Tensor): void {
  for (let head = 0; head < matrices.shape[0]; head++) {
    using transposed = matrices.select(0, head).permute(1, 0).to(x.dtype);
    using product = matmul(x.select(1, head), Weight.dense(transposed));
    out.select(1, head).copyFrom(product);
  }
}

function farthest(a: Tensor, b: Tensor): number {
  const other = b.toFloat64Array();
  return a.toFloat64Array().reduce((most, x, i) => Math.max(most, Math.abs(x - other[i])), 0);
}

test("a plan cuts rows whose products cost much into fewer pieces", async () => {
  await using device = await Device.open("cpu", { threads: 4 });
  const variant = defineVariant({
    name: "wide",
    tensors: { w: { dtype: "f32", shape: ["queryHeads", 576, 64] } },
    query: (x, { w }) => x.matmul(w),
  });
  const layout = raggedLayout([0, 1, 2], [0, 1000, 1300]);
  const batch = createBatch({ queryLengths: [1, 1], kvLengths: [1000, 300], layout });
  const shape = { queryHeads: 16, kvHeads: 1, headDim: 64, dtype: "f32" } as const;
  const pieces = [undefined, variant].map((each) => {
    using attention = Attention.createSync(device, { ...shape, variant: each });
    return attention.plan(batch).launches.reduce((sum, { grid }) => sum + grid, 0);
  });
  expect(pieces[1]).toBeLessThan(pieces[0]);
  expect(startCost({ ...defaultCosts, pieceRowKeys: 3 }, 4)).toBe(defaultCosts.pieceKeys + 12);
});

describe("widths of rows", () => {
  const variantOf = (query: [number, number] | undefined, output: [number, number] | undefined) =>
    defineVariant({
      name: "widths",
      tensors: {
        w: { dtype: "f32", shape: query ?? [8, 8] },
        u: { dtype: "f32", shape: output ?? [8, 8] },
      },
      ...(query && { query: (x: F32, { w }: { w: VariantMatrix }) => x.matmul(w) }),
      ...(output && { output: (x: F32, { u }: { u: VariantMatrix }) => x.matmul(u) }),
    });

  test("follow from what hooks multiply", () => {
    const dims = { headDim: 64, valueDim: 48 };
    expect(rowDims(dims)).toEqual({ queryDim: 64, outDim: 48 });
    const both = variantOf([128, 56], [40, 16]);
    expect(rowDims({ ...dims, variant: both })).toEqual({ queryDim: 136, outDim: 24 });
    // A raw state is what a merge elsewhere takes.
    expect(rowDims({ ...dims, variant: both, finalize: false }).outDim).toBe(48);
  });

  test.each([
    [variantOf([8, 72], undefined), /headDim must be 72 or more.*Fix: /s],
    [variantOf(undefined, [56, 8]), /valueDim must be 56 or more.*Fix: /s],
    [variantOf([600, 64], undefined), /w, which multiplies queries must be such .*600.*Fix: /s],
    [variantOf([60, 64], undefined), /w, which multiplies queries must be such .*60.*Fix: /s],
    [variantOf(undefined, [8, 544]), /u, which multiplies outputs must be such .*584.*Fix: /s],
  ])("that no kernel takes are refused %#", async (variant, message) => {
    await using device = await Device.open("cpu", { threads: 1 });
    const shape: AttentionOptions = {
      queryHeads: 2,
      kvHeads: 1,
      headDim: 64,
      valueDim: 48,
      dtype: "f32",
      variant,
    };
    expect(() => Attention.createSync(device, shape)).toThrow(message);
    expect(() => Attention.createSync(device, shape)).toThrow(OptionError);
  });
});
