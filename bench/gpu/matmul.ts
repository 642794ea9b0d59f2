import { cublasLtVariable, openCublasLt } from "../../src/device/cublaslt.ts";
import { type DType, matmul, type MatmulOptions, Tensor, Weight } from "../../src/index.ts";
import {
  bareRow,
  copiesOf,
  figuresOf,
  type GpuBench,
  type GpuCase,
  type GpuRow,
  peerColumns,
  recorded,
  replayTimes,
  runsOf,
  timeOf,
} from "./bench.ts";
import { median } from "../bench.ts";

/** How the weight is held, and x. */
type Kind = "bf16" | "f8e4m3" | "i8" | "u8";

interface Product {
  kind: Kind;
  /** Of experts of uneven rows: in their order, or wherever out says. */
  experts?: "ordered" | "gathered";
  rows: number;
  outputs: number;
  inputs: number;
}

/** Of a layer's projections to and from the width between. */
const up = { outputs: 14_336, inputs: 4096 };
const down = { outputs: 4096, inputs: 14_336 };

/** Rows from which operations are counted, not bytes. */
const manyRows = 128;
const group = 32;
/** Shares of rows, in percent. */
const shares = [30, 20, 15, 12, 10, 8, 4, 1];

const shapes: Product[] = [
  ...[2048, 4096, 8192].map((n) => ({ kind: "bf16", rows: n, outputs: n, inputs: n }) as const),
  ...[1, 4, 8, 16, 32, 64, 128, 256].map((rows) => ({ kind: "bf16", rows, ...up }) as const),
  ...[1, 16, 64].map((rows) => ({ kind: "bf16", rows, ...down }) as const),
  { kind: "f8e4m3", rows: 8192, outputs: 8192, inputs: 8192 },
  { kind: "f8e4m3", rows: 4096, outputs: 4096, inputs: 4096 },
  ...[1, 16, 64].map((rows) => ({ kind: "f8e4m3", rows, ...up }) as const),
  ...[1, 64].map((rows) => ({ kind: "f8e4m3", rows, ...down }) as const),
  ...(["bf16", "f8e4m3"] as const).flatMap((kind) => [
    { kind, experts: "ordered", rows: 8192, outputs: 4096, inputs: 4096 } as const,
    ...[64, 1024].flatMap((rows) =>
      (["ordered", "gathered"] as const).map((experts) => ({ kind, experts, rows, ...up })),
    ),
  ]),
  ...[1, 16, 64, 512].map((rows) => ({ kind: "u8", rows, ...up }) as const),
  ...[1, 16, 64, 512].map((rows) => ({ kind: "i8", rows, ...up }) as const),
];

/** Linear layers: few rows against bytes, many in operations, beside PyTorch's. */
export const matmulCases: GpuCase[] = shapes.map((shape) => ({
  name: nameOf(shape),
  run: (bench) => product(bench, shape),
}));

function nameOf({ kind, experts, rows, outputs, inputs }: Product): string {
  const held = experts === undefined ? kind : `${kind}-${experts}`;
  return `matmul/${held}/r${rows}_${outputs}x${inputs}`;
}

async function product(bench: GpuBench, shape: Product): Promise<GpuRow[]> {
  const { device, quick, ceilings } = bench;
  const { kind, experts } = shape;
  const [rows, outputs, inputs] = quick
    ? [Math.min(shape.rows, 64), 256, 256]
    : [shape.rows, shape.outputs, shape.inputs];
  const dtype: DType = kind === "f8e4m3" ? kind : "bf16";
  const bytes = bytesOf(kind, outputs, inputs) * (experts ? shares.length : 1);
  const copies = copiesOf(bench, bytes);
  using x = Tensor.randomNormal(device, [rows, inputs], "bf16", { seed: 0 }).to(dtype);
  using out = Tensor.empty(device, [rows, outputs], "bf16");
  using ones = Tensor.from(device, [1], [1], "f32");
  using starts = Tensor.from(device, startsOf(rows), [shares.length + 1], "i32");
  using places = Tensor.from(device, scattered(rows), [rows], "i32");
  const groups = experts === "gathered" ? { starts, rows: places } : { starts };
  const options: MatmulOptions = {
    out,
    ...(kind === "f8e4m3" && { scales: ones }),
    ...(experts && { groups }),
  };
  const shapeOf = experts ? [shares.length, outputs, inputs] : [outputs, inputs];
  const weights = Array.from({ length: copies }, (_, seed) => weightOf(bench, kind, shapeOf, seed));
  const runs = runsOf(bench, copies);
  using graph = recorded(device, () => {
    for (let run = 0; run < runs; run++) matmul(x, weights[run % copies], options);
  });
  const figureOf = (ms: number) =>
    rows >= manyRows ? (2 * rows * outputs * inputs) / ms / 1e9 : bytes / ms / 1e6;
  const times = await replayTimes(bench, graph, bench.seconds / 2);
  const asked = { dtype, rows, inputs, outputs, copies, seconds: bench.seconds };
  const isDense = experts === undefined && (kind === "bf16" || kind === "f8e4m3");
  const hasPeer = bench.peer !== undefined && isDense;
  const answer = hasPeer ? await bench.peer!.ask({ ...asked, backend: "product" }) : undefined;
  const byThem = (run: number) =>
    matmul(x, weights[run % copies], { ...options, backend: "cublaslt" });
  const theirMs = isDense ? await cublasLtMs(bench, runs, byThem) : undefined;
  times.push(...(await replayTimes(bench, graph, bench.seconds / 2)));
  const ms = median(times) / runs;
  for (const weight of weights) weight[Symbol.dispose]();
  const answers = theirMs === undefined ? [] : [{ backend: "cublaslt", ms: theirMs }];
  if (answer?.seconds !== undefined)
    answers.unshift({ backend: "torch", ms: answer.seconds * 1000 });
  const peers = figuresOf(answers, ms, figureOf);
  const row = bareRow("", figureOf(ms), rows >= manyRows ? "TFLOP/s" : "GB/s");
  const ofRoofline = rows >= manyRows ? null : row.value / ceilings.readGBs;
  const least = rows >= manyRows && kind === "bf16" ? 0.97 : 1;
  return [{ ...row, ofRoofline, ...peerColumns(peers, [{ backend: "torch", least }]) }];
}

/** Milliseconds of a product by cuBLASLt, where it is here. */
async function cublasLtMs(
  bench: GpuBench,
  runs: number,
  body: (run: number) => Tensor,
): Promise<number | undefined> {
  const { emulated, driverVersion } = bench.device.properties;
  // An emulated GPU is not what a library of NVIDIA's would find.
  const isWanted = emulated === 0 || process.env[cublasLtVariable];
  if (!isWanted) return undefined;
  if (typeof openCublasLt(Math.floor(driverVersion / 1000)) === "string") return undefined;
  // Its kernels are loaded, and its algorithm is chosen, by the first of a shape.
  body(0);
  return await timeOf(bench, runs, body);
}

/** Where the rows of each expert begin. */
function startsOf(rows: number): number[] {
  const starts = [0];
  for (const share of shares) starts.push(starts.at(-1)! + Math.floor((rows * share) / 100));
  return starts.with(-1, rows);
}

function bytesOf(kind: Kind, outputs: number, inputs: number): number {
  const values = outputs * inputs;
  if (kind === "u8" || kind === "i8")
    return values / (kind === "u8" ? 2 : 1) + (2 * values) / group;
  return kind === "bf16" ? 2 * values : values;
}

/** Each row once, far from the one before. */
function scattered(rows: number): Int32Array {
  return Int32Array.from({ length: rows }, (_, i) => (i * 7919) % rows);
}

function weightOf(
  { device }: GpuBench,
  kind: Kind,
  shape: readonly number[],
  seed: number,
): Weight {
  const normal = (shape: readonly number[], dtype: DType) => {
    using values = Tensor.randomNormal(device, shape, "bf16", { seed });
    return values.to(dtype);
  };
  switch (kind) {
    case "bf16":
      return Weight.dense(normal(shape, kind));
    case "f8e4m3":
      return Weight.fp8(normal(shape, kind), Tensor.from(device, [1], [1], "f32"));
    default: {
      const [outputs, inputs] = shape;
      const columns = kind === "u8" ? inputs / 2 : inputs;
      using codes = normal([outputs, columns], "i8");
      const values =
        kind === "u8" ? Tensor.zeros(device, [outputs, columns], "u8") : codes.to("i8");
      return Weight.grouped(values, normal([outputs, inputs / group], "f16"));
    }
  }
}
