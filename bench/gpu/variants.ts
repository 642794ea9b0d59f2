import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  Attention,
  type AttentionOptions,
  createBatch,
  raggedLayout,
  Tensor,
} from "../../src/index.ts";
import { defineVariant } from "../../src/variant/define.ts";
import { alibi, softCap } from "../../src/variant/library.ts";
import type { Variant } from "../../src/variant/variant.ts";
import { median } from "../bench.ts";
import {
  askPeers,
  bareRow,
  figuresOf,
  type GpuBench,
  type GpuCase,
  type GpuRow,
  peerColumns,
  recorded,
  replayTimes,
  runsOf,
} from "./bench.ts";

const heads = 16;
const dim = 128;
const tokens = 16_384;
const cap = 30;
const window = 1024;

/** The same attention as options and as a traced variant; peers know it by its name. */
interface Subject {
  name: "soft_cap" | "alibi" | "window" | "causal";
  options: Partial<AttentionOptions>;
  variant: Variant;
  causal: boolean;
}

const causal = defineVariant({
  name: "causal",
  mask: ({ query, key }) => key.le(query),
  visible({ queryStart, queryEnd }, ranges) {
    ranges.add(0, queryStart + 1, true);
    ranges.add(queryStart + 1, queryEnd, false);
  },
});

const windowed = defineVariant({
  name: "window",
  mask: ({ query, key }) => key.le(query).and(query.sub(key).le(window)),
  visible({ queryStart, queryEnd }, ranges) {
    const start = Math.max(0, queryStart - window);
    const full = Math.max(0, queryEnd - 1 - window);
    ranges.add(start, full, false);
    ranges.add(full, queryStart + 1, true);
    ranges.add(Math.max(full, queryStart + 1), queryEnd, false);
  },
});

const subjects: Subject[] = [
  { name: "soft_cap", options: { softCap: cap }, variant: softCap({ cap }), causal: false },
  { name: "alibi", options: { alibi: true, causal: true }, variant: alibi(), causal: true },
  {
    name: "window",
    options: { windowLeft: window, causal: true },
    variant: windowed,
    causal: false,
  },
  { name: "causal", options: { causal: true }, variant: causal, causal: false },
];

/** Variants in TypeScript beside the options that say the same, and beside FlexAttention. */
export const variantCases: GpuCase[] = [
  { name: `variant/bf16/create_d${dim}`, run: create },
  ...subjects.map((subject) => ({
    name: `variant/bf16/${subject.name}_b1_h${heads}_d${dim}_s${tokens}`,
    run: (bench: GpuBench) => traced(bench, subject),
  })),
];

/**
 * What making an attention with a new variant takes: its six kernels compiled on two cores, and
 * found in the cache and loaded.
 */
async function create({ device, quick }: GpuBench): Promise<GpuRow[]> {
  const cache = mkdtempSync(join(tmpdir(), "flashbun-bench-"));
  const script = join(import.meta.dir, "create.ts");
  const milliseconds = async (prefix: readonly string[]): Promise<number> => {
    const child = Bun.spawn([...prefix, process.execPath, script, device.label], {
      env: { ...process.env, FLASHBUN_CACHE: cache },
      stdio: ["ignore", "pipe", "inherit"],
    });
    return Number(await new Response(child.stdout).text());
  };
  try {
    const twoCores = Bun.which("taskset") === null ? [] : ["taskset", "-c", "0,1"];
    const cold = await milliseconds(twoCores);
    const warm: number[] = [];
    for (let run = 0; run < (quick ? 1 : 5); run++) warm.push(await milliseconds([]));
    return [limited("/cold", cold, 2500), limited("/warm_of_six", median(warm), 18)].map((row) => ({
      ...row,
      name: `variant/bf16/create_d${dim}${row.name}`,
    }));
  } finally {
    rmSync(cache, { recursive: true, force: true });
  }
}

function limited(name: string, value: number, most: number): GpuRow {
  return { ...bareRow(name, value, "ms"), target: `at most ${most} ms`, met: value <= most };
}

async function traced(bench: GpuBench, subject: Subject): Promise<GpuRow[]> {
  const { device, quick } = bench;
  const length = quick ? 40 : tokens;
  const shape = { queryHeads: heads, kvHeads: heads, headDim: dim, dtype: "bf16" } as const;
  const { options, variant, causal } = subject;
  using asOption = await Attention.create(device, { ...shape, ...options });
  using asVariant = await Attention.create(device, { ...shape, causal, variant });
  const noise = (seed: number) =>
    Tensor.randomNormal(device, [length, heads, dim], "bf16", { seed });
  using q = noise(1);
  using k = noise(2);
  using v = noise(3);
  using out = Tensor.empty(device, [length, heads, dim], "bf16");
  const slopesOf = Array.from({ length: heads }, (_, head) => 2 ** (-(head + 1) / 2));
  using slopes = Tensor.from(device, slopesOf, [heads], "f32");
  const layout = raggedLayout([0, length], [0, length]);
  const tensors = { q, k, v, out };
  const takesSlopes = options.alibi === true;
  const bodies = [
    () => asVariant.run(takesSlopes ? { ...tensors, variantInputs: { slopes } } : tensors),
    () => asOption.run(takesSlopes ? { ...tensors, alibiSlopes: slopes } : tensors),
  ];
  const runs = runsOf(bench, 1);
  const graphs = [asVariant, asOption].map((attention, i) => {
    attention.plan(createBatch({ queryLengths: [length], kvLengths: [length], layout }));
    bodies[i]();
    return recorded(device, () => {
      for (let run = 0; run < runs; run++) bodies[i]();
    });
  });
  const times: number[][] = [[], []];
  // In turn, so that a change of clocks hits both.
  for (let round = 0; round < (quick ? 1 : 6); round++) {
    for (const [i, graph] of graphs.entries()) {
      const lot = await replayTimes(bench, graph, bench.seconds / 6);
      times[i].push(...lot.map((ms) => ms / runs));
    }
  }
  for (const graph of graphs) graph[Symbol.dispose]();
  return [await rowOf(bench, subject, length, median(times[0]), median(times[1]))];
}

async function rowOf(
  bench: GpuBench,
  { name }: Subject,
  length: number,
  ms: number,
  optionMs: number,
): Promise<GpuRow> {
  const pairs = pairsOf(name, length);
  const tflops = (milliseconds: number) => (4 * heads * dim * pairs) / milliseconds / 1e9;
  const flex = { ...bench, backends: bench.backends.filter((backend) => backend === "flex") };
  const answers = await askPeers(flex, {
    dtype: "bf16",
    batch: 1,
    queryHeads: heads,
    kvHeads: heads,
    dim,
    copies: 1,
    queries: length,
    keys: length,
    causal: name !== "soft_cap",
    variant: name,
  });
  const asOption = { backend: "option", value: tflops(optionMs), ratio: optionMs / ms };
  const { matmulTflops } = bench.ceilings;
  const ofRoofline = matmulTflops === null ? null : tflops(ms) / matmulTflops;
  const targets = [
    { backend: "flex", least: 1.5 },
    { backend: "option", least: 0.99 },
  ];
  const peers = [...figuresOf(answers, ms, tflops), asOption];
  const measured = { value: tflops(ms), unit: "TFLOP/s", ofRoofline };
  return { name: "", ...measured, ...peerColumns(peers, targets) };
}

/** Pairs of a query and a key that it sees. */
function pairsOf(name: Subject["name"], length: number): number {
  if (name === "soft_cap") return length * length;
  const all = (length * (length + 1)) / 2;
  const hidden = Math.max(0, length - window - 1);
  return name === "window" ? all - (hidden * (hidden + 1)) / 2 : all;
}
