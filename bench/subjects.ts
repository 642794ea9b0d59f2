import {
  add,
  addRmsNorm,
  argmax,
  type Device,
  gatherRows,
  geluAndMul,
  layerNorm,
  quantize,
  rmsNorm,
  siluAndMul,
  Tensor,
} from "../src/index.ts";
import { dtypeBytes } from "../src/tensor/dtype.ts";

/** What rows are measured in. */
export type Dtype = "bf16" | "f32";

/** A call over rows, and the tensors that it moves, each once; those that it keeps count twice. */
export interface Subject {
  name: string;
  dim: number;
  prepare(
    device: Device,
    rows: number,
    dim: number,
    dtype: Dtype,
  ): { moves: Tensor[]; run(): void };
}

const noise = (device: Device, rows: number, dim: number, dtype: Dtype, seed = 1) =>
  Tensor.randomNormal(device, [rows, dim], dtype, { seed });

/** In shapes of Llama 8B, a prompt of 1024 tokens. */
export const subjects: Subject[] = [
  {
    name: "rms_norm",
    dim: 4096,
    prepare: (device, rows, dim, dtype) => {
      const [x, out] = [noise(device, rows, dim, dtype), noise(device, rows, dim, dtype)];
      const weight = noise(device, 1, dim, dtype).reshape(dim);
      return { moves: [x, out], run: () => rmsNorm(x, weight, { out }) };
    },
  },
  {
    name: "qk_norm",
    dim: 128,
    prepare: (device, rows, dim, dtype) => {
      const heads = 32 * rows;
      const [x, out] = [noise(device, heads, dim, dtype), noise(device, heads, dim, dtype)];
      const weight = noise(device, 1, dim, dtype).reshape(dim);
      return { moves: [x, out], run: () => rmsNorm(x, weight, { out }) };
    },
  },
  {
    name: "add_rms_norm",
    dim: 4096,
    prepare: (device, rows, dim, dtype) => {
      const [x, kept] = [noise(device, rows, dim, dtype), noise(device, rows, dim, dtype, 2)];
      const weight = noise(device, 1, dim, dtype).reshape(dim);
      x.set(new Float64Array(x.elements));
      return { moves: [x, kept, kept, x], run: () => addRmsNorm(x, kept, weight, { out: x }) };
    },
  },
  {
    name: "layer_norm",
    dim: 4096,
    prepare: (device, rows, dim, dtype) => {
      const [x, out] = [noise(device, rows, dim, dtype), noise(device, rows, dim, dtype)];
      const weight = noise(device, 1, dim, dtype).reshape(dim);
      return { moves: [x, out], run: () => layerNorm(x, weight, { bias: weight, out }) };
    },
  },
  ...[siluAndMul, geluAndMul].map((op, i) => ({
    name: ["silu_and_mul", "gelu_and_mul"][i],
    dim: 14_336,
    prepare: (device: Device, rows: number, dim: number, dtype: Dtype) => {
      const [x, out] = [noise(device, rows, 2 * dim, dtype), noise(device, rows, dim, dtype)];
      return { moves: [x, out], run: () => void op(x, { out }) };
    },
  })),
  {
    name: "quantize_token",
    dim: 4096,
    prepare: (device, rows, dim, dtype) => {
      const x = noise(device, rows, dim, dtype);
      const { values: out, scales: outScales } = quantize(x, "token");
      return { moves: [x, out], run: () => void quantize(x, "token", { out, outScales }) };
    },
  },
  {
    name: "quantize_1x128",
    dim: 4096,
    prepare: (device, rows, dim, dtype) => {
      const x = noise(device, rows, dim, dtype);
      const { values: out, scales: outScales } = quantize(x, "1x128");
      return { moves: [x, out], run: () => void quantize(x, "1x128", { out, outScales }) };
    },
  },
  {
    name: "add",
    dim: 4096,
    prepare: (device, rows, dim, dtype) => {
      const [x, y] = [noise(device, rows, dim, dtype), noise(device, rows, dim, dtype, 2)];
      const out = noise(device, rows, dim, dtype);
      return { moves: [x, y, out], run: () => add(x, y, { out }) };
    },
  },
  {
    name: "gather_rows",
    dim: 4096,
    prepare: (device, rows, dim, dtype) => {
      const [x, out] = [noise(device, rows, dim, dtype), noise(device, rows, dim, dtype)];
      const order = Int32Array.from({ length: rows }, (_, i) => (i * 389) % rows);
      const indices = Tensor.from(device, order, [rows], "i32");
      return { moves: [x, out], run: () => gatherRows(x, indices, { out }) };
    },
  },
  {
    name: "argmax",
    dim: 128_256,
    prepare: (device, rows, dim, dtype) => {
      // One in 16 tokens wants logits.
      const x = noise(device, rows / 16, dim, dtype);
      const out = Tensor.zeros(device, [rows / 16], "i32");
      return { moves: [x, out], run: () => argmax(x, { out }) };
    },
  },
];

/** Bytes that a call reads and writes. */
export function bytesOf(moves: readonly Tensor[]): number {
  return moves.reduce((sum, { elements, dtype }) => sum + elements * dtypeBytes(dtype), 0);
}
