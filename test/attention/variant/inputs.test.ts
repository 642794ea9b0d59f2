import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { attend } from "../../../src/attention/attend.ts";
import { Attention } from "../../../src/attention/attention.ts";
import { PagedCache } from "../../../src/cache/paged-cache.ts";
import { Device } from "../../../src/device/device.ts";
import { DisposedError, OptionError } from "../../../src/errors.ts";
import { createBatch } from "../../../src/kv/batch.ts";
import { raggedLayout } from "../../../src/kv/layout.ts";
import { Tensor } from "../../../src/tensor/tensor.ts";
import { defineVariant } from "../../../src/variant/define.ts";
import type { Node, TensorSpec } from "../../../src/variant/expression.ts";
import { madeVariant, type Variant } from "../../../src/variant/variant.ts";

const shape = { queryHeads: 4, kvHeads: 2, headDim: 16, dtype: "f32" } as const;

let device: Device;
beforeAll(async () => {
  device = await Device.open("cpu", { threads: 1 });
});
afterAll(() => device[Symbol.asyncDispose]());

/** A variant of declarations alone. */
function variantOf(tensors: TensorSpec[], over: Partial<Variant> = {}): Variant {
  const nothing = { hooks: {}, softmax: true, visible: undefined, cuda: undefined };
  return madeVariant({ name: "tested", tensors, scalars: [], ...nothing, ...over });
}

const bias: TensorSpec = { name: "bias", dtype: "f32", shape: ["queryHeads", "any"] };
const scalars = [
  { name: "cap", type: "f32", fallback: undefined },
  { name: "left", type: "i32", fallback: 7 },
] as const;

/** Three queries over five ragged keys. */
function step() {
  const layout = raggedLayout([0, 2, 3], [0, 4, 5]);
  const batch = createBatch({ queryLengths: [2, 1], kvLengths: [4, 1], layout });
  const tensors = {
    q: Tensor.zeros(device, [3, 4, 16], "f32"),
    k: Tensor.zeros(device, [5, 2, 16], "f32"),
    v: Tensor.zeros(device, [5, 2, 16], "f32"),
    out: Tensor.zeros(device, [3, 4, 16], "f32"),
  };
  return { batch, tensors };
}

/** Runs a step with inputs. */
function runWith(variant: Variant | undefined, variantInputs: unknown): void {
  using attention = Attention.createSync(device, { ...shape, variant });
  const { batch, tensors } = step();
  attention.plan(batch);
  attention.run({ ...tensors, variantInputs: variantInputs as never });
}

const zeros = (...dims: number[]) => Tensor.zeros(device, dims, "f32");

describe("inputs are refused before anything is launched", () => {
  test.each<[string, TensorSpec, () => unknown, string]>([
    ["missing", bias, () => ({}), "variantInputs.bias must be a f32 tensor [queryHeads, any]"],
    ["a number", bias, () => ({ bias: 3 }), "(got 3)"],
    ["null", bias, () => ({ bias: null }), "(got null)"],
    ["of another name", bias, () => ({ bias: zeros(4, 1), Bias: 1 }), "Bias must be one of bias"],
    ["dtype", bias, () => ({ bias: Tensor.zeros(device, [4, 1], "f16") }), "f32 tensor"],
    ["axes", bias, () => ({ bias: zeros(4, 1, 1) }), "(4 queryHeads)"],
    ["extent", bias, () => ({ bias: zeros(5, 1) }), "(4 queryHeads)"],
    ["empty", bias, () => ({ bias: zeros(4, 0) }), "not empty"],
    [
      "requests",
      { ...bias, shape: ["requests"] },
      () => ({ bias: zeros(1) }),
      "2 requests or more",
    ],
    [
      "tokens",
      { ...bias, shape: ["tokens", 2] },
      () => ({ bias: zeros(2, 2) }),
      "3 tokens or more",
    ],
    ["slots", { ...bias, shape: ["slots"] }, () => ({ bias: zeros(4) }), "5 slots or more"],
    [
      "number",
      { ...bias, shape: ["slots", 2] },
      () => ({ bias: zeros(5, 3) }),
      "tensor [slots, 2]",
    ],
    ["valueDim", { ...bias, shape: ["valueDim"] }, () => ({ bias: zeros(17) }), "(16 valueDim)"],
  ])("%s", (_, spec, inputs, message) => {
    const run = () => runWith(variantOf([spec]), inputs());
    expect(run).toThrow(OptionError);
    expect(run).toThrow(message);
  });

  test("elements beyond 2^31", () => {
    const small = zeros(8);
    const far = Tensor.fromPointer(device, small.address, [4, 2], "f32", {
      strides: [2 ** 30, 1],
      keep: small,
    });
    const run = () => runWith(variantOf([bias]), { bias: far });
    expect(run).toThrow("within 2147483648 elements of its first");
  });

  test("scalars", () => {
    const variant = variantOf([], { scalars });
    runWith(variant, { cap: 2.5 });
    runWith(variant, { cap: Infinity, left: -(2 ** 31) });
    for (const [inputs, message] of [
      [{}, "variantInputs.cap must be a number (got undefined)"],
      [{ cap: NaN }, "cap must be a number (got NaN)"],
      [{ cap: zeros(1) }, "cap must be a number (got Tensor)"],
      [{ cap: 1, left: 0.5 }, "left must be an integer of 32 bits (got 0.5)"],
      [{ cap: 1, left: 2 ** 31 }, "left must be an integer of 32 bits"],
      [{ cap: 1, right: 1 }, "right must be one of cap, left"],
    ] as const)
      expect(() => runWith(variant, inputs)).toThrow(message);
  });

  test("disposed tensors, other devices, and inputs without a variant", async () => {
    const gone = zeros(4, 1);
    gone[Symbol.dispose]();
    expect(() => runWith(variantOf([bias]), { bias: gone })).toThrow(DisposedError);
    await using other = await Device.open("cpu", { threads: 1 });
    const elsewhere = Tensor.zeros(other, [4, 1], "f32");
    expect(() => runWith(variantOf([bias]), { bias: elsewhere })).toThrow("on cpu");
    expect(() => runWith(undefined, { bias: 1 })).toThrow("the attention has no variant");
  });
});

describe("options that say what a hook says", () => {
  const hook = { op: "constant" } as Node;
  const cuda = { source: "", hooks: ["logits"], place: undefined } as const;
  test.each<[object, Partial<Variant>, string]>([
    [{ softCap: 3 }, { hooks: { logits: hook } }, "softCap must be left out: variant tested has a"],
    [{ alibi: true }, { hooks: { logits: hook } }, "alibi must be left out"],
    [{ rope: {} }, { hooks: { key: hook } }, "has a key hook of its own"],
    [{ softCap: 1 }, { cuda }, "has a logits hook of its own"],
    [{ sinks: true }, { softmax: false }, "sinks must be left out: variant tested has no softmax"],
    [{ softCap: 1 }, { softmax: false }, "softCap must be left out"],
  ])("%j", (options, over, message) => {
    const create = () =>
      Attention.createSync(device, { ...shape, ...options, variant: variantOf([], over) });
    expect(create).toThrow(OptionError);
    expect(create).toThrow(message);
  });

  test("a rotation of more elements than a head has", () => {
    const variant = defineVariant({
      name: "wide",
      key: (x, { key }) => x.rotate({ dim: 32 }, () => [key.toF32().cos(), key.toF32().sin()]),
    });
    const create = (over: object) => () => {
      Attention.createSync(device, { ...shape, ...over, variant })[Symbol.dispose]();
    };
    expect(create({})).toThrow("headDim must be 32 or more: the key hook of variant wide turns");
    create({ headDim: 32 })();
  });

  test("visible() without a mask", () => {
    const create = () =>
      Attention.createSync(device, { ...shape, variant: variantOf([], { visible: () => {} }) });
    expect(create).toThrow("variant must be with a mask hook where it has visible()");
  });

  test("hooks in CUDA on a CPU", () => {
    const variant = variantOf([], { cuda });
    const create = () => Attention.createSync(device, { ...shape, variant });
    expect(create).toThrow("variant must be without CUDA source on the CPU");
  });

  test("what is no variant", () => {
    for (const variant of [null, 3, {}, { hooks: {} }])
      expect(() => Attention.createSync(device, { ...shape, variant: variant as never })).toThrow(
        "variant must be a variant, as defineVariant makes it",
      );
  });

  test("a log-sum-exp without a softmax", () => {
    using attention = Attention.createSync(device, {
      ...shape,
      variant: variantOf([], { softmax: false }),
    });
    const { batch, tensors } = step();
    attention.plan(batch);
    expect(() => attention.run({ ...tensors, lse: zeros(3, 4) })).toThrow("has no softmax");
  });
});

test("attend takes a variant and its inputs", () => {
  const { tensors } = step();
  const { q, k, v } = tensors;
  const variant = variantOf([bias]);
  const { lse } = attend(q, k, v, { variant, variantInputs: { bias: zeros(4, 9) } });
  expect(lse.toFloat64Array().every(Number.isFinite)).toBe(true);
  expect(() => attend(q, k, v, { variant })).toThrow("variantInputs.bias must be");
  const none = variantOf([], { softmax: false });
  expect(attend(q, k, v, { variant: none }).lse.toFloat64Array().every(Number.isNaN)).toBe(true);
});

test("variants of one name are two variants", () => {
  const q = Tensor.randomNormal(device, [1, 4, 16], "f32", { seed: 1 });
  const k = Tensor.randomNormal(device, [30, 2, 16], "f32", { seed: 2 });
  const outs = [1, 2].map((factor) => {
    const variant = defineVariant({ name: "twins", logits: (x) => x.mul(factor) });
    return attend(q, k, k, { variant }).out.toFloat64Array();
  });
  expect(outs[0]).toEqual(attend(q, k, k).out.toFloat64Array());
  expect(outs[1]).not.toEqual(outs[0]);
});

test("a captured run keeps its inputs: it needs the graph's sizes, and refuses freed ones", () => {
  using cache = PagedCache.create(device, { ...shape, layers: 1, pages: 8, pageSize: 4 });
  const graph = { maxBatch: 2, maxQueryTokens: 2, maxColumns: 4 };
  const byToken: TensorSpec = { ...bias, shape: ["tokens"] };
  using attention = Attention.createSync(device, {
    ...shape,
    graph,
    variant: variantOf([byToken]),
  });
  const batch = cache.reserve([cache.sequence()], [1]);
  if (!batch.ok) throw batch.error;
  attention.plan(batch);
  cache.markWritten(batch);
  const [q, out] = [zeros(2, 4, 16), zeros(2, 4, 16)];
  const variantInputs = { bias: zeros(1) };
  const run = () => attention.run({ q, out, cache, variantInputs });
  run();
  expect(() => device.capture(device.stream, run)).toThrow("2 tokens or more");
  variantInputs.bias = zeros(2);
  run();
  using captured = device.capture(device.stream, run);
  captured.replay(device.stream);
  variantInputs.bias[Symbol.dispose]();
  expect(() => captured.replay(device.stream)).toThrow(DisposedError);
});
