import { Attention, createBatch, PagedCache, raggedLayout, Tensor } from "../src/index.ts";
import type { Sequence } from "../src/kv/sequence.ts";
import { type DType, dtypeBytes, isFp8 } from "../src/tensor/dtype.ts";
import { type Bench, besides, type Case, type Measured, pairedWithCeilings } from "./bench.ts";

const dim = 128;
/** K/V in turn hold at least this much, so that they come from memory. */
const coldBytes = 2 ** 30 * 1.25;

interface DecodeShape {
  dtype: DType;
  batch: number;
  queryHeads: number;
  kvHeads: number;
  keys: number;
  /** Least part of the roofline. */
  target: number;
  /** Least times as fast as the peer. */
  peerTarget?: number;
}

const decodeShapes: DecodeShape[] = [
  { dtype: "f32", batch: 16, queryHeads: 8, kvHeads: 8, keys: 4096, target: 0.8 },
  { dtype: "bf16", batch: 16, queryHeads: 8, kvHeads: 8, keys: 4096, target: 0.7 },
  { dtype: "f16", batch: 16, queryHeads: 8, kvHeads: 8, keys: 4096, target: 0.55 },
  { dtype: "f8e4m3", batch: 16, queryHeads: 8, kvHeads: 8, keys: 4096, target: 0.4 },
  ...[{ dtype: "f32" as const, target: 0.8, peerTarget: 2.5 }].map(grouped),
  ...[{ dtype: "bf16" as const, target: 0.6, peerTarget: 20 }].map(grouped),
  ...[{ dtype: "f16" as const, target: 0.5 }].map(grouped),
  ...[{ dtype: "f8e4m3" as const, target: 0.35 }].map(grouped),
];

function grouped(rest: { dtype: DType; target: number; peerTarget?: number }): DecodeShape {
  return { batch: 16, queryHeads: 32, kvHeads: 8, keys: 4096, ...rest };
}

/** Decode over paged K/V beyond the caches, and causal and full prefill over ragged K/V. */
export const attentionCases: Case[] = [
  ...decodeShapes.map((shape) => {
    const { dtype, batch, queryHeads, kvHeads, keys } = shape;
    return {
      name: `decode/${dtype}/b${batch}_h${queryHeads}_${kvHeads}_d${dim}_kv${keys}`,
      run: (bench: Bench) => decode(bench, shape),
    };
  }),
  ...(["f32", "bf16"] as const).flatMap((dtype) =>
    [false, true].map((causal) => ({
      name: `prefill/${dtype}/b1_h8_8_d${dim}_s2048_${causal ? "causal" : "full"}`,
      run: (bench: Bench) => prefill(bench, dtype, causal),
    })),
  ),
];

async function decode(bench: Bench, shape: DecodeShape): Promise<Measured> {
  const { device } = bench;
  const { dtype, batch, queryHeads, kvHeads } = shape;
  const keys = bench.quick ? 128 : shape.keys;
  const layerBytes = 2 * batch * keys * kvHeads * dim * dtypeBytes(dtype);
  const layers = bench.quick ? 1 : Math.ceil(coldBytes / layerBytes);
  const queryDtype = isFp8(dtype) ? "bf16" : dtype;
  const pages = batch * Math.ceil(keys / 64);
  const cacheShape = {
    layers,
    kvHeads,
    headDim: dim,
    dtype,
    pages,
    pageSize: 64,
    layout: "HND" as const,
  };
  using cache = PagedCache.create(device, cacheShape);
  const sequences = Array.from({ length: batch }, () => cache.sequence());
  fill(cache, sequences, keys - 1, layers);
  const step = cache.reserve(sequences, new Int32Array(batch).fill(1));
  if (!step.ok) throw step.error;
  const options = { queryHeads, kvHeads, headDim: dim, dtype: queryDtype, kvDtype: dtype } as const;
  using attention = Attention.createSync(device, { ...options, causal: true });
  using q = Tensor.randomNormal(device, [batch, queryHeads, dim], queryDtype, { seed: 1 });
  using k = Tensor.randomNormal(device, [batch, kvHeads, dim], queryDtype, { seed: 2 });
  using out = Tensor.empty(device, [batch, queryHeads, dim], queryDtype);
  for (let layer = 0; layer < layers; layer++) cache.append({ layer, batch: step, k, v: k });
  attention.plan(step);
  const run = (turn: number) => attention.run({ layer: turn % layers, q, cache, out });
  const seconds = bench.seconds * 2;
  const flops = 4 * batch * queryHeads * keys * dim;
  const paired = await pairedWithCeilings(bench, seconds, layerBytes, flops, run);
  const { ms, ceilings, ofRoofline } = paired;
  const peerMs = await peerTime(bench, {
    ...shape,
    keys,
    queries: 1,
    causal: false,
    copies: layers,
  });
  const gbs = (time: number) => layerBytes / time / 1e6;
  const ofPeer = peerMs === null ? null : peerMs / ms;
  const { target, peerTarget } = shape;
  const fast = peerTarget === undefined || ofPeer === null || ofPeer >= peerTarget;
  return {
    name: "",
    value: gbs(ms),
    unit: "GB/s",
    ofRoofline,
    ofPeer,
    peer: peerMs === null ? null : gbs(peerMs),
    target: `${Math.round(target * 100)} % of roofline${peerTarget ? `, ${peerTarget}x peer` : ""}`,
    met: ofRoofline >= target && fast,
    more: besides(ceilings),
  };
}

/** Random keys and values for `tokens` tokens of every sequence, in every layer. */
function fill(cache: PagedCache, sequences: Sequence[], tokens: number, layers: number): void {
  const { device } = cache;
  const { kvHeads, headDim } = cache.options;
  for (const [i, sequence] of sequences.entries()) {
    using noise = Tensor.randomNormal(device, [tokens, kvHeads, headDim], "f32", { seed: i });
    const step = cache.reserve([sequence], [tokens]);
    if (!step.ok) throw step.error;
    for (let layer = 0; layer < layers; layer++) {
      cache.append({ layer, batch: step, k: noise, v: noise });
    }
  }
  device.stream.wait();
}

async function prefill(bench: Bench, dtype: "f32" | "bf16", causal: boolean): Promise<Measured> {
  const { device } = bench;
  const tokens = bench.quick ? 128 : 2048;
  const heads = 8;
  const shape = { queryHeads: heads, kvHeads: heads, headDim: dim, dtype, causal };
  using attention = Attention.createSync(device, shape);
  const noise = (seed: number) =>
    Tensor.randomNormal(device, [tokens, heads, dim], dtype, { seed });
  using q = noise(1);
  using k = noise(2);
  using v = noise(3);
  using out = Tensor.empty(device, [tokens, heads, dim], dtype);
  const layout = raggedLayout([0, tokens], [0, tokens]);
  attention.plan(createBatch({ queryLengths: [tokens], kvLengths: [tokens], layout }));
  const run = () => attention.run({ q, k, v, out });
  // Half before the peer and half after, so that a change of the machine's speed hits both.
  const flops = 4 * heads * dim * (causal ? (tokens * (tokens + 1)) / 2 : tokens * tokens);
  const measure = () => pairedWithCeilings(bench, bench.seconds / 2, 0, flops, run);
  const before = await measure();
  const peerCase = { dtype, batch: 1, queryHeads: heads, kvHeads: heads, causal, copies: 1 };
  const peerMs = await peerTime(bench, { ...peerCase, queries: tokens, keys: tokens });
  const after = await measure();
  const ms = (before.ms + after.ms) / 2;
  const ofRoofline = (before.ofRoofline + after.ofRoofline) / 2;
  const gflops = (time: number) => flops / time / 1e6;
  const target = causal ? 1 : 0.85;
  return {
    name: "",
    value: gflops(ms),
    unit: "GFLOP/s",
    ofRoofline,
    peer: peerMs === null ? null : gflops(peerMs),
    ofPeer: peerMs === null ? null : peerMs / ms,
    target: `${target}x peer`,
    met: peerMs === null ? undefined : peerMs / ms >= target,
    more: besides(after.ceilings),
  };
}

interface PeerShape {
  dtype: DType;
  batch: number;
  queryHeads: number;
  kvHeads: number;
  queries: number;
  keys: number;
  causal: boolean;
  copies: number;
}

/** Milliseconds of PyTorch on the same shape; null without it, or for dtypes it does not take. */
async function peerTime(bench: Bench, shape: PeerShape): Promise<number | null> {
  if (bench.peer === undefined || isFp8(shape.dtype)) return null;
  const { dtype, batch, queryHeads, kvHeads, queries, keys, causal, copies } = shape;
  const size = { dtype, batch, queryHeads, kvHeads, dim, queries, keys, causal };
  const { seconds } = await bench.peer.ask({ ...size, copies, seconds: bench.seconds });
  return seconds === undefined ? null : seconds * 1000;
}
