import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Attention } from "../../src/attention/attention.ts";
import { cudaCosts, cudaMerge } from "../../src/attention/families/cuda.ts";
import type {
  AttentionMaps,
  KernelFamily,
  MappedTensors,
} from "../../src/attention/families/family.ts";
import type { ResolvedOptions } from "../../src/attention/options.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import type { Graph } from "../../src/device/graph.ts";
import { OptionError } from "../../src/errors.ts";
import { TensorMap } from "../../src/ffi/params.gen.ts";
import { sources } from "../../src/jit/sources.gen.ts";
import type { Batch } from "../../src/kv/batch.ts";
import type { Sequence } from "../../src/kv/sequence.ts";
import { dtypeCode } from "../../src/tensor/dtype.ts";
import { encodeTensorMap } from "../../src/tensor/tensor-map.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { gpuTarget } from "../support/targets.ts";
import { runCase, World } from "../support/world.ts";

const [headDim, valueDim] = [64, 32];
const kvTile = 64;
const stages = 2;
const threads = 384;
const sharedBytes = stages * kvTile * (headDim + valueDim) * 2;
const source = "attention/pair.cu";

/**
 * A family of the test's own (pair.cu): clusters of two blocks, tiles by bulk copies. It knows
 * heads of 64 and values of 32 elements in bf16, ragged or in pages of whole half tiles.
 */
const pair: KernelFamily = {
  name: "pair",
  offer(facts, options) {
    if (facts.computeMajor < 9) return new OptionError("device", facts, "9.0", "use another.");
    const row = { name: "test.pair", queryTile: 64, kvTile, cluster: 2, blocksPerProcessor: 1 };
    return {
      classes: [
        {
          ...row,
          schedule: "share",
          take: "longest-first",
          entry: "attention_pair",
          image: { source, constants: constantsOf(options) },
          launch: { threads, sharedBytes, persistent: true, programmatic: true },
          bindMaps,
        },
      ],
      merge: cudaMerge(undefined),
      costs: cudaCosts("bf16"),
    };
  },
};

function constantsOf({ dtype, kvDtype, outDtype }: ResolvedOptions) {
  return {
    FB_QUERY_TILE: 64,
    FB_KV_TILE: kvTile,
    FB_THREADS: threads,
    FB_STAGES: stages,
    FB_SHARED_BYTES: sharedBytes,
    FB_CLUSTER: 2,
    FB_KEY_DIM: headDim,
    FB_VALUE_DIM: valueDim,
    FB_Q_TYPE: dtypeCode(dtype),
    FB_KV_TYPE: dtypeCode(kvDtype),
    FB_OUT_TYPE: dtypeCode(outDtype),
    FB_MASK: 0,
    FB_ROPE: 0,
    FB_K_TOKEN_SCALE: 0,
    FB_V_TOKEN_SCALE: 0,
    FB_DEVICE_LENGTHS: 0,
    FB_KEY_POSITIONS: 0,
  };
}

function bindMaps({ k, v }: MappedTensors, _: ResolvedOptions, maps: AttentionMaps): void {
  encode(k, 128, maps.k);
  encode(v, 64, maps.v);
}

/** Half a tile of one head: [element, head, token, page]; ragged tensors are one page. */
function encode(tensor: Tensor, swizzleBytes: 64 | 128, map: TensorMap): void {
  const { address, dtype, shape, strides, device } = tensor;
  const [page, token, head] = shape.length === 4 ? strides : [strides[0], ...strides];
  const [pages, tokens, heads, dim] = shape.length === 4 ? shape : [1, ...shape];
  const extents = [dim, heads, tokens, pages];
  const bytes = [head, token, page].map((stride) => stride * 2);
  const box = [dim, 1, kvTile / 2, 1];
  encodeTensorMap(device, { address, dtype, extents, strides: bytes, box, swizzleBytes }, map);
}

const target = gpuTarget();
const opened = await target?.open(1);
const able = opened !== undefined && opened.properties.computeMajor >= 9;

describe.if(able)(`clusters and tensor maps on ${target?.name}`, () => {
  const device = opened!;
  const shape = { queryHeads: 4, kvHeads: 2, headDim, valueDim, dtype: "bf16" } as const;
  const pageSize = kvTile / 2;
  const families = [pair];

  function caseWith(over: Partial<Case>): Case {
    return caseOf("pair", { ...shape, pageSize, ...over });
  }

  function cacheOf(layers: number): PagedCache {
    return PagedCache.create(device, { ...shape, layers, pages: 60, pageSize });
  }

  function noise(tokens: number, heads: number, dim: number, seed: number): Tensor {
    return Tensor.randomNormal(device, [tokens, heads, dim], "bf16", { seed });
  }

  function reserve(cache: PagedCache, sequences: Sequence[], counts: number[]): Batch {
    const batch = cache.reserve(sequences, counts);
    if (!batch.ok) throw batch.error;
    return batch;
  }

  beforeAll(async () => {
    const text = readFileSync(join(import.meta.dir, "pair.cu"), "utf8");
    Object.assign(sources, { [source]: text });
    (await Attention.create(device, shape, families))[Symbol.dispose]();
  }, 120_000);
  afterAll(() => {
    delete (sources as Record<string, string>)[source];
    return device[Symbol.asyncDispose]();
  });

  const lengths: [queryLengths: number[], kvLengths: number[]][] = [
    [
      [1, 1, 70, 1],
      [900, 1, 300, 67],
    ],
    [
      [1, 3],
      [64, 1100],
    ],
    [
      [5, 0, 1, 40],
      [5, 129, 700, 800],
    ],
  ];
  const layouts: Partial<Case>[] = [
    { pageSize: 0 },
    { pageSize: 0, causal: false, sinks: true },
    { storage: "NHD" },
    { storage: "HND" },
    { storage: "combined" },
  ];

  describe.each(lengths)("%j queries over %j keys", (queryLengths, kvLengths) => {
    test.each(layouts)("%j", (over) => {
      runCase(device, caseWith({ queryLengths, kvLengths, ...over }), families);
    });
  });

  test("prefixes that requests share, in records of many requests", () => {
    using world = new World(device, caseWith({}), { pages: 120, families });
    const first = world.create();
    world.step([first], [260]);
    const all = [first, ...[0, 1, 2].map(() => world.fork(first))];
    world.step(all, [1, 30, 3, 1]);
    world.step(all, [1, 1, 2, 1], { share: true });
  });

  test("clusters draw tickets where records outnumber them, and a plan names its class", () => {
    const kvLengths = new Array<number>(40).fill(70);
    const ones = kvLengths.map(() => 1);
    using world = new World(device, caseWith({}), { pages: 200, families });
    const sequences = kvLengths.map(() => world.create());
    for (let step = 0; step < 3; step++) world.step(sequences, step === 0 ? kvLengths : ones);
    const { launches } = world.rig.attention.lastPlan!;
    expect(launches.map(({ kernelClass }) => kernelClass)).toEqual(["test.pair"]);
    expect(launches[0].grid).toBe(80);
    expect(launches[0].grid).toBeGreaterThan(device.processors / 2);
  });

  test("maps of a layer are kept with it, from step to step", () => {
    using cache = cacheOf(3);
    using kept = Attention.createSync(device, { ...shape, causal: true }, families);
    const sequences = [cache.sequence(), cache.sequence()];
    for (let step = 0; step < 3; step++) {
      const batch = reserve(cache, sequences, step === 0 ? [90, 7] : [1, 1]);
      const tokens = batch.tokenCount;
      for (const layer of [0, 1, 2]) {
        using k = noise(tokens, 2, headDim, 10 * step + layer);
        using v = noise(tokens, 2, valueDim, 10 * step + layer + 5);
        cache.append({ layer, batch, k, v });
      }
      kept.plan(batch);
      using fresh = Attention.createSync(device, { ...shape, causal: true }, families);
      fresh.plan(batch);
      using q = noise(tokens, 4, headDim, step);
      using out = Tensor.zeros(device, [tokens, 4, valueDim], "bf16");
      const bits = [kept, fresh].map((attention) =>
        [2, 0, 1, 0].map((layer) => {
          attention.run({ q, out, cache, layer });
          return out.toBytes();
        }),
      );
      expect(bits[0]).toEqual(bits[1]);
      expect(bits[0][1]).toEqual(bits[0][3]);
      expect(bits[0][0]).not.toEqual(bits[0][1]);
    }
  });

  test("a replayed graph gives the bits of eager runs", () => {
    const graph = { maxBatch: 4, maxQueryTokens: 4, maxQueryLength: 1, maxColumns: 32 };
    using attention = Attention.createSync(device, { ...shape, causal: true, graph }, families);
    using cache = cacheOf(1);
    const sequences = [0, 1, 2, 3].map(() => cache.sequence());
    using history = noise(450, 2, headDim, 1);
    const values = history.slice(2, 0, valueDim);
    cache.append({
      layer: 0,
      batch: reserve(cache, sequences, [200, 3, 150, 97]),
      k: history,
      v: values,
    });
    using q = Tensor.zeros(device, [4, 4, headDim], "bf16");
    using out = Tensor.zeros(device, [4, 4, valueDim], "bf16");
    let recorded: Graph | undefined;
    for (let step = 0; step < 6; step++) {
      const batch = reserve(cache, sequences, [1, 1, 1, 1]);
      cache.append({ layer: 0, batch, k: history, v: values });
      q.copyFrom(noise(4, 4, headDim, step));
      attention.plan(batch);
      attention.run({ q, cache, out });
      const eager = out.toBytes();
      out.copyFrom(Tensor.zeros(device, out.shape, "bf16"));
      recorded ??= device.capture(device.stream, () => attention.run({ q, cache, out }));
      recorded.replay(device.stream);
      expect(out.toBytes()).toEqual(eager);
    }
    recorded![Symbol.dispose]();
  });

  test("maps that no tensor has are refused", () => {
    const [extents, strides, box] = [[8, 8], [32], [8, 8]];
    const map = { address: 1 << 20, dtype: "f32", extents, strides, box } as const;
    const out = new TensorMap();
    const encoding = (over: object) => () => encodeTensorMap(device, { ...map, ...over }, out);
    expect(encoding({ strides: [] })).toThrow(OptionError);
    expect(encoding({ box: [8] })).toThrow(/^box must be 2/);
    expect(encoding({ box: [8, 257] })).toThrow(/^box must be an integer from 1 to 256/);
    expect(encoding({ dtype: "f64" })).toThrow(/^dtype must be/);
    expect(encoding({ address: (1 << 20) + 8 })).toThrow(/multiple of 16/);
    expect(encoding({ swizzleBytes: 256 })).toThrow(/swizzles 0, 32, 64 or 128/);
    expect(encoding({ strides: [24] })).toThrow(/CUDA_ERROR_INVALID_VALUE/);
    expect(encoding({ strides: [2 ** 40] })).toThrow(/^strides must be an integer from 0 to/);
    for (const rows of [0, 1])
      for (const stride of [24, -8, 2 ** 40])
        expect(encoding({ extents: [8, rows], strides: [stride] })).not.toThrow();
  });
});
