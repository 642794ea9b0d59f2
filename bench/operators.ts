import { applyRope, Rope, Tensor } from "../src/index.ts";
import { type Bench, besides, type Case, type Measured, pairedWithCeilings } from "./bench.ts";

/** Operators beside attention, in bytes read and written. */
export const operatorCases: Case[] = [
  { name: "rope/bf16_t8192_h40_d128", run: (bench) => rope(bench, "bf16") },
  { name: "rope/f32_t8192_h40_d128", run: (bench) => rope(bench, "f32") },
];

async function rope(bench: Bench, dtype: "bf16" | "f32"): Promise<Measured> {
  const { device, quick } = bench;
  const [tokens, queryHeads, heads, dim] = [quick ? 16 : 8192, 32, 40, 128];
  using x = Tensor.randomNormal(device, [tokens, heads, dim], dtype, { seed: 1 });
  using turns = Rope.create(device, dim, { theta: 5e5 });
  const at = Int32Array.from({ length: tokens }, (_, token) => token);
  using positions = Tensor.from(device, at, [tokens], "i32");
  const [q, k] = [x.slice(1, 0, queryHeads), x.slice(1, queryHeads, heads)];
  const bytes = 2 * x.elements * (dtype === "f32" ? 4 : 2);
  return moved(bench, bytes, () => applyRope(q, k, positions, turns));
}

/** Bytes read and written, against the rate of reading. */
async function moved(bench: Bench, bytes: number, queue: () => void): Promise<Measured> {
  const paired = await pairedWithCeilings(bench, bench.seconds, bytes, 0, queue);
  const { ms, ceilings, ofRoofline } = paired;
  const row = { name: "", value: bytes / ms / 1e6, unit: "GB/s", ofRoofline };
  return { ...row, peer: null, ofPeer: null, more: besides(ceilings) };
}
