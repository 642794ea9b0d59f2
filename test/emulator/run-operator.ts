// Runs an operator on small data, with its kernel's image exchanged, and prints a hash of what it
// writes. A process of its own: the device of a kernel that failed is lost to its process.
import { readFileSync } from "node:fs";
import { Device } from "../../src/device/device.ts";
import { Module } from "../../src/device/kernel.ts";
import { operatorKernels } from "../../src/jit/operators.ts";
import { argmax } from "../../src/ops/argmax.ts";
import { verifyDrafts } from "../../src/ops/drafts.ts";
import { layerNorm } from "../../src/ops/norm.ts";
import { matmul } from "../../src/ops/matmul.ts";
import type { MatmulOptions } from "../../src/ops/matmul-options.ts";
import { quantize } from "../../src/ops/quantize.ts";
import { routeExperts } from "../../src/ops/routing.ts";
import { renormalize, sample, softmax } from "../../src/ops/sample.ts";
import { logProbs, topK } from "../../src/ops/top-k.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { Weight } from "../../src/tensor/weight.ts";
import { indptrOf } from "../support/numbers.ts";
import { seeded } from "../support/random.ts";

/** What the child gets as JSON. */
export interface Job {
  /** Name of the kernel. */
  readonly kernel: string;
  /** File of the image that takes its place; none: the kernel stays. */
  readonly image?: string;
}

/** Rows of logits, many of which are equal; `scale` 100: too far apart for lists about a cut. */
function logits(device: Device, rows: number, length: number, scale = 1): Tensor {
  const random = seeded(length);
  const draw = () => (scale * Math.round(random.normal() * 8)) / 4;
  const values = Array.from({ length: rows * length }, draw);
  return Tensor.from(device, values, [rows, length], "f32");
}

function sampled(device: Device, rows: number, length: number): Tensor[] {
  const filters = { topK: Math.ceil(length / 3), topP: 0.8 };
  const cut = [1, 100].flatMap((scale) => {
    const x = logits(device, rows, length, scale);
    return [sample(x, { ...filters, seed: 5 }), renormalize(x, filters)];
  });
  // More than run at once. A tensor's k says nothing about the kernel.
  const x = logits(device, rows + 2, length);
  const ks = Tensor.from(device, new Array(rows + 2).fill(20), [rows + 2], "i32");
  const few = { topK: ks, topP: 0.8 };
  return [...cut, sample(x, few), renormalize(x, few), sample(x, { topP: 0.01, seed: 5 })];
}

/** The first few decide; of a row of one value all may be one of them. */
function sampledFew(device: Device, length: number): Tensor[] {
  const few = { topK: 20, topP: 0.8, seed: 5 };
  return [1, 0].map((scale) => sample(logits(device, 2, length, scale), few));
}

/** Without filters, with min-p, with top-p that is reached at the first try and later. */
function sampledPlain(device: Device, length: number): Tensor[] {
  const x = logits(device, 1, length);
  const odd = logits(device, 1, length);
  odd.slice(1, 9, 10).set([NaN]);
  const tried = [0, 1, 2].map((seed) => sample(x, { topP: 0.5, seed }));
  // So many races are run there that what is kept is looked for.
  const searched = sample(x, { topP: 0.02, seed: 5, position: 330 });
  return [sample(x), sample(x, { minP: 0.1 }), sample(odd), searched, ...tried];
}

function largest(device: Device, length: number, ks: readonly number[]): Tensor[] {
  using tokens = Tensor.from(device, [3], [1], "i32");
  return [1, 100].flatMap((scale) => {
    const x = logits(device, 1, length, scale);
    const { chosen } = logProbs(x, { tokens });
    return [chosen!, ...ks.flatMap((k) => Object.values(topK(x, k)))];
  });
}

function verified(device: Device): Tensor[] {
  const [rows, count, length] = [4, 3, 900];
  const probabilities = (nodes: number) =>
    renormalize(logits(device, rows * nodes, length)).reshape(rows, nodes, length);
  const drafts = Tensor.from(device, new Array(rows * count).fill(7), [rows, count], "i32");
  const parents = Tensor.zeros(device, [rows, count], "i32");
  const target = probabilities(count + 1);
  const got = verifyDrafts(drafts, target, probabilities(count), { parents, seed: 3 });
  return [got.tokens, got.accepted];
}

/** Three numbers of a row are joined, one after the other: mean, squares, largest result. */
function normalized(device: Device, dtype: DType, rows: number, dim = 3000): Tensor[] {
  const x = logits(device, rows, dim).to(dtype);
  using weight = logits(device, 1, dim).reshape(dim);
  const tokenScales = Tensor.zeros(device, [rows], "f32");
  return [layerNorm(x, weight, { dtype: "i8", tokenScales }), tokenScales];
}

/** Rows that have a scale each, of their largest number. */
function quantizedRows(device: Device, dim: number): Tensor[] {
  const { values, scales } = quantize(logits(device, 3, dim).to("bf16"), "token");
  return [values, scales];
}

/** Several steps of all slices or rounds of stages, and rows and outputs that fill no tile. */
function multiplied(
  device: Device,
  rows: number,
  options: MatmulOptions = {},
  [outputs, inputs] = [136, 1032],
): Tensor[] {
  const x = Tensor.randomNormal(device, [rows, inputs], "bf16", { seed: 1 });
  const weight = Tensor.randomNormal(device, [outputs, inputs], "bf16", { seed: 2 });
  return [matmul(x, Weight.dense(weight), options)];
}

/** Experts whose rows lie anywhere in x. */
function multipliedGroups(device: Device, dtype: DType, counts: readonly number[]): Tensor[] {
  const [inputs, outputs] = [520, 136];
  const list = indptrOf(counts);
  const [experts, count] = [counts.length, list.at(-1)!];
  const normal = (shape: number[], seed: number) =>
    Tensor.randomNormal(device, shape, dtype, { seed });
  const starts = Tensor.from(device, list, [experts + 1], "i32");
  const places = Array.from({ length: count }, (_, i) => ((i * 7) % 90) - 1);
  const rows = Tensor.from(device, places, [count], "i32");
  const weight = Weight.dense(normal([experts, outputs, inputs], 2));
  return [matmul(normal([89, inputs], 1), weight, { groups: { starts, rows } })];
}

/** Rows and a weight of fp8, with a scale for each 128 inputs of both, or for each row. */
function multipliedFp8(device: Device, rows: number, outputs: number, blocks = true): Tensor[] {
  const inputs = 1040;
  const codes = (count: number, seed: number) =>
    Tensor.randomNormal(device, [count, inputs], "f32", { seed }).to("f8e4m3");
  const scalesOf = (rows: number, high: number) => {
    const shape = blocks ? [Math.ceil(rows / high), Math.ceil(inputs / 128)] : [rows];
    return Tensor.randomNormal(device, shape, "f32", { seed: 3 });
  };
  const weight = Weight.fp8(codes(outputs, 2), scalesOf(outputs, 128));
  return [matmul(codes(rows, 1), weight, { scales: scalesOf(rows, 1) })];
}

/**
 * 16-bit rows with a weight of four bits, in groups that have scales and minimums. So many inputs
 * that each stage of the ring is used again.
 */
function multipliedCodes(device: Device, rows: number): Tensor[] {
  const [outputs, inputs] = [120, 8192];
  const random = seeded(7);
  const bytes = Uint8Array.from({ length: (outputs * inputs) / 2 }, () => random.integer(0, 255));
  const values = Tensor.fromBits(device, bytes, [outputs, inputs / 2], "u8");
  const of = (seed: number) =>
    Tensor.randomNormal(device, [outputs, inputs / 32], "f32", { seed }).to("f16");
  const x = Tensor.randomNormal(device, [rows, inputs], "bf16", { seed: 1 });
  return [matmul(x, Weight.grouped(values, of(2), of(3)))];
}

function routed(device: Device): Tensor[] {
  const bias = logits(device, 1, 40).reshape(40);
  const groups = { count: 4, kept: 2, best: 2 } as const;
  const grouped = { topK: 6, scoring: "sigmoid", bias, groups } as const;
  return [{ topK: 6 }, grouped].flatMap((options) => {
    const routing = routeExperts(logits(device, 70, 40), options);
    return [routing.weights, routing.experts, routing.starts, routing.rows, routing.places];
  });
}

const subjects: Readonly<Record<string, (device: Device) => Tensor[]>> = {
  argmax_long: (device) => [argmax(logits(device, 3, 3000))],
  norm_long: (device) => normalized(device, "f32", 3),
  norm_even_few: (device) => normalized(device, "bf16", 3),
  // More than few.
  norm_even_long: (device) => normalized(device, "bf16", 65),
  norm_even_wide: (device) => normalized(device, "bf16", 65, 5000),
  quantize_even_long: (device) => quantizedRows(device, 3000),
  matmul_32: (device) => multiplied(device, 20, { invariant: true }),
  matmul_128: (device) => multiplied(device, 140, { invariant: true }),
  // Also more items than clusters.
  matmul_thin_32_x4: (device) => [
    ...multiplied(device, 20, { settled: true }, [120, 1032]),
    ...multiplied(device, 20, {}, [300, 520]),
  ],
  // More items than clusters, gated ones too.
  matmul_flat_64_x2: (device) => [
    ...multiplied(device, 60, {}, [600, 1032]),
    ...multiplied(device, 60, { gated: true }, [120, 1032]),
  ],
  matmul_flat_128_x1: (device) => multiplied(device, 100, {}, [600, 1032]),
  // Steps one by one, and two at a time; the ring comes round.
  matmul_flat_e4m3_64_x1: (device) => [
    ...multipliedFp8(device, 60, 600),
    ...multipliedFp8(device, 60, 600, false),
  ],
  // More items than blocks.
  matmul_thin_8_x1: (device) => multiplied(device, 5, {}, [1300, 456]),
  // Steps one by one, and two at a time.
  matmul_thin_e4m3_32_x2: (device) => [
    ...multipliedFp8(device, 20, 120),
    ...multipliedFp8(device, 20, 120, false),
  ],
  matmul_coded_bf16_u8_8_x2: (device) => multipliedCodes(device, 5),
  matmul_wide_bf16: (device) => [
    ...multiplied(device, 1000),
    ...multiplied(device, 1000, { gated: true }),
  ],
  matmul_gathered_16_x1: (device) => multipliedGroups(device, "bf16", [20, 5]),
  matmul_gathered_64_x1: (device) => multipliedGroups(device, "bf16", [70, 50]),
  matmul_wide_f16: (device) => multipliedGroups(device, "f16", [700, 500]),
  // Steps one by one, and two at a time.
  matmul_wide_e4m3: (device) => [
    ...multipliedFp8(device, 1000, 136),
    ...multipliedFp8(device, 1000, 136, false),
  ],
  moe_route: routed,
  sample_rows: (device) => sampled(device, 2, 3000),
  sample_rows_cluster: (device) => sampled(device, 1, 16_500),
  sample_few_cluster: (device) => sampledFew(device, 16_500),
  sample_plain_cluster: (device) => sampledPlain(device, 16_500),
  sample_softmax_cluster: (device) => [softmax(logits(device, 2, 16_500))],
  top_k_rows: (device) => largest(device, 1500, [33, 1100]),
  top_k_rows_cluster: (device) => largest(device, 16_500, [20, 600]),
  verify_drafts: verified,
};

const { kernel, image } = JSON.parse(process.argv[2]) as Job;
await using device = await Device.open("cuda:0");
const found = device.kernel.bind(device);
let subject = found(kernel);
if (image !== undefined) {
  const facts = operatorKernels().get(kernel)!;
  subject = new Module(device, readFileSync(image), "mutant").kernel(facts.entry, facts);
}
let isLaunched = false;
// What clusters of another size would take is its work as well: it may then have more items.
const alone = (name: string) => name.replace(/_x\d$/, "");
device.kernel = (name) => {
  if (alone(name) !== alone(kernel)) return found(name);
  isLaunched = true;
  return subject;
};
const bytes = subjects[kernel](device).map((tensor) => tensor.toBytes());
if (!isLaunched) throw new Error(`the work of ${kernel} takes other kernels`);
console.log(`{${bytes.map((each) => Bun.hash(each).toString(16)).join()}}`);
