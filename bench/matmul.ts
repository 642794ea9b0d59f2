import { matmul, Tensor, Weight } from "../src/index.ts";
import { type Bench, type Case, deviceMs, type Measured, median } from "./bench.ts";

type Kind = "f32" | "bf16" | "u8" | "i8";

interface Shape {
  kind: Kind;
  rows: number;
  /** Least times as fast as the peer. */
  target?: number;
}

const [outputs, inputs] = [4096, 4096];
/** Bytes that an input of a weight takes, scales included. */
const inputBytes: Record<Kind, number> = { f32: 4, bf16: 2, i8: 1 + 2 / 32, u8: 0.5 + 2 / 32 };
/** Rounds that ours and the peer's take turns in. */
const rounds = 5;

/** Linear layers: few rows are bound by the weight's bytes, many by arithmetic. */
export const matmulCases: Case[] = [
  { kind: "f32" as const, rows: 1, target: 1 },
  { kind: "f32" as const, rows: 8, target: 1 },
  { kind: "f32" as const, rows: 512, target: 0.95 },
  { kind: "bf16" as const, rows: 1, target: 0.95 },
  { kind: "bf16" as const, rows: 8, target: 0.95 },
  { kind: "bf16" as const, rows: 512, target: 0.95 },
  { kind: "i8" as const, rows: 1 },
  { kind: "u8" as const, rows: 1 },
  { kind: "u8" as const, rows: 512 },
].map((shape) => ({
  name: `matmul/${shape.kind}/r${shape.rows}_${outputs}x${inputs}`,
  run: (bench) => product(bench, shape),
}));

async function product(bench: Bench, { kind, rows, target }: Shape): Promise<Measured> {
  const { device, quick } = bench;
  const size = quick ? 256 : outputs;
  const dtype = kind === "bf16" ? "bf16" : "f32";
  using x = Tensor.randomNormal(device, [rows, inputs], dtype, { seed: 1 });
  using out = Tensor.empty(device, [rows, size], dtype);
  // More than a cache holds.
  const copies = quick || rows > 8 ? 2 : 8;
  const weights = Array.from({ length: copies }, (_, seed) => weightOf(bench, kind, size, seed));
  const shared = { dtype, rows, inputs, outputs: size, copies, seconds: bench.seconds / 2 };
  const ours: number[] = [];
  const theirs: number[] = [];
  const ratios: number[] = [];
  const hasPeer = bench.peer !== undefined && target !== undefined;
  for (let round = 0; round < (hasPeer ? rounds : 1); round++) {
    const ms = await deviceMs(device, bench.seconds / 2, (turn) => {
      matmul(x, weights[turn % copies], { out });
    });
    ours.push(ms);
    if (!hasPeer) continue;
    const { seconds = NaN } = await bench.peer!.ask(shared);
    theirs.push(seconds * 1e3);
    ratios.push((seconds * 1e3) / ms);
  }
  for (const weight of weights) weight[Symbol.dispose]();
  const isFew = rows <= 8;
  const work = isFew ? inputBytes[kind] * size * inputs : 2 * rows * size * inputs;
  const rate = (ms: number) => work / ms / 1e6;
  const ofPeer = hasPeer ? median(ratios) : null;
  return {
    name: "",
    value: rate(median(ours)),
    unit: isFew ? "GB/s" : "GFLOP/s",
    ofRoofline: null,
    peer: hasPeer ? rate(median(theirs)) : null,
    ofPeer,
    target: target === undefined ? undefined : `${target}x peer`,
    met: ofPeer === null || target === undefined ? undefined : ofPeer >= target,
  };
}

function weightOf({ device }: Bench, kind: Kind, size: number, seed: number): Weight {
  if (kind === "f32" || kind === "bf16")
    return Weight.dense(Tensor.randomNormal(device, [size, inputs], kind, { seed }));
  const scales = Tensor.randomNormal(device, [size, inputs / 32], "f16", { seed, deviation: 0.1 });
  if (kind === "u8") return Weight.grouped(Tensor.zeros(device, [size, inputs / 2], "u8"), scales);
  return Weight.grouped(Tensor.zeros(device, [size, inputs], "i8"), scales);
}
