import { Attention, createBatch, type Device, raggedLayout, Tensor } from "../src/index.ts";
import { defineVariant } from "../src/variant/define.ts";
import { alibi, flashSigmoid, softCap } from "../src/variant/library.ts";
import type { Variant } from "../src/variant/variant.ts";
import { type Bench, type Case, deviceMs, type Measured, median } from "./bench.ts";

const heads = 8;
const dim = 128;

interface Subject {
  name: string;
  variant: Variant;
  /** Most times the plain kernel's time. */
  most: number;
  inputs?: (device: Device) => Record<string, Tensor>;
}

/** Every second key, which no planner knows of: the mask is asked for each pair. */
const dilated = defineVariant({
  name: "dilated",
  mask: ({ query, key }) => query.sub(key).and(1).eq(0),
});

const slopes = (device: Device) => ({
  slopes: Tensor.from(
    device,
    Array.from({ length: heads }, (_, head) => 2 ** -head),
    [heads],
    "f32",
  ),
});

const subjects: Subject[] = [
  { name: "mask", variant: dilated, most: 1.3 },
  { name: "alibi", variant: alibi(), most: 1.3, inputs: slopes },
  { name: "soft_cap", variant: softCap({ cap: 30 }), most: 2 },
  { name: "sigmoid", variant: flashSigmoid({ bias: -7 }), most: 2 },
];

/** Traced variants against the plain kernel, in turn, over ragged K/V. */
export const variantCases: Case[] = (["f32", "bf16"] as const).flatMap((dtype) =>
  subjects.map((subject) => ({
    name: `variant/${dtype}/${subject.name}_b1_h${heads}_d${dim}_s1024`,
    run: (bench: Bench) => besidePlain(bench, dtype, subject),
  })),
);

async function besidePlain(
  bench: Bench,
  dtype: "f32" | "bf16",
  { variant, most, inputs }: Subject,
): Promise<Measured> {
  const { device } = bench;
  const tokens = bench.quick ? 128 : 1024;
  const shape = { queryHeads: heads, kvHeads: heads, headDim: dim, dtype };
  using plain = Attention.createSync(device, shape);
  using traced = Attention.createSync(device, { ...shape, variant });
  const noise = (seed: number) =>
    Tensor.randomNormal(device, [tokens, heads, dim], dtype, { seed });
  using q = noise(1);
  using k = noise(2);
  using v = noise(3);
  using out = Tensor.empty(device, [tokens, heads, dim], dtype);
  const layout = raggedLayout([0, tokens], [0, tokens]);
  const batch = createBatch({ queryLengths: [tokens], kvLengths: [tokens], layout });
  const variantInputs = inputs?.(device);
  plain.plan(batch);
  traced.plan(batch);
  const times: Record<"plain" | "traced", number[]> = { plain: [], traced: [] };
  const ratios: number[] = [];
  const deadline = performance.now() + bench.seconds * 2000;
  for (let round = 0; round < 3 || performance.now() < deadline; round++) {
    const runPlain = () => plain.run({ q, k, v, out });
    const runTraced = () => traced.run({ q, k, v, out, variantInputs });
    times.plain.push(await deviceMs(device, bench.seconds / 16, runPlain));
    times.traced.push(await deviceMs(device, bench.seconds / 16, runTraced));
    ratios.push(times.traced.at(-1)! / times.plain.at(-1)!);
  }
  for (const tensor of Object.values(variantInputs ?? {})) tensor[Symbol.dispose]();
  const gflops = (ms: number[]) => (4 * heads * dim * tokens * tokens) / median(ms) / 1e6;
  const ratio = median(ratios);
  return {
    name: "",
    value: gflops(times.traced),
    unit: "GFLOP/s",
    ofRoofline: null,
    peer: gflops(times.plain),
    ofPeer: 1 / ratio,
    target: `at most ${most}x the plain kernel's time`,
    met: ratio <= most,
    more: `${ratio.toFixed(2)}x`,
  };
}
