import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Device } from "../../src/device/device.ts";
import { type CudaKernel, Module } from "../../src/device/kernel.ts";
import { jitTarget } from "../../src/device/operators.ts";
import { OptionError } from "../../src/errors.ts";
import { AttentionRecord, TensorMap } from "../../src/ffi/params.gen.ts";
import { Params } from "../../src/ffi/params.ts";
import { compile } from "../../src/jit/compile.ts";
import { sources } from "../../src/jit/sources.gen.ts";
import { expandSource } from "../../src/jit/specialization.ts";
import { type Batch, createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import { type Plan, Planner, type PlannerOptions } from "../../src/plan/planner.ts";
import { checkPlan } from "../../src/plan/check.ts";
import { recordsOf } from "../../src/plan/record.ts";
import { cudaCosts } from "../../src/attention/families/cuda.ts";
import type { ClassTraits } from "../../src/plan/traits.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { encodeTensorMap } from "../../src/tensor/tensor-map.ts";
import { type Random, seeded } from "../support/random.ts";
import { indptrOf } from "../support/rig.ts";
import { gpuTarget } from "../support/targets.ts";

const dim = 32;
const kvHeads = 2;
const kvTile = 64;
const stages = 2;

/** A class as Hopper's will be: clusters of two blocks, three warpgroups, tiles by bulk copies. */
const traits: ClassTraits = {
  name: "test.pair",
  queryTile: 64,
  kvTile,
  cluster: 2,
  blocksPerProcessor: 1,
  schedule: "share",
  take: "longest-first",
};
const threads = 384;
const sharedBytes = stages * kvTile * dim * (4 + 2);

/** Packs the kernel's parameters: pair_params of pair.cu. */
class PairParams extends Params {
  readonly keys = new TensorMap(this.view.buffer, 0);
  readonly values = new TensorMap(this.view.buffer, 128);

  constructor() {
    super(new ArrayBuffer(320), 0, 320);
  }

  get recordCount(): number {
    return this.i32[68]!;
  }

  /** Where records, sums and their count stand. */
  point(records: number, sums: number, recordCount: number): void {
    this.write64(64, records);
    this.write64(66, sums);
    this.i32[68] = recordCount;
  }
}

/** The image of pair.cu for a device. */
async function compiled(device: Device): Promise<Uint8Array> {
  const text = readFileSync(join(import.meta.dir, "pair.cu"), "utf8");
  const constants = {
    FB_THREADS: threads,
    FB_STAGES: stages,
    FB_KV_TILE: kvTile,
    FB_SHARED_BYTES: sharedBytes,
  };
  const defines = Object.entries(constants).map(([name, value]) => `#define ${name} ${value}\n`);
  const expanded = defines.join("") + expandSource("pair.cu", { ...sources, "pair.cu": text });
  const [architecture] = jitTarget(device).architectures;
  return compile({ source: "pair.cu", constants }, expanded, architecture);
}

/** A step of ragged requests: decodes and chunks of prompts. */
function batchOf(queryLengths: number[], kvLengths: number[]): Batch {
  const layout = raggedLayout(indptrOf(queryLengths), indptrOf(kvLengths));
  return createBatch({ queryLengths, kvLengths, layout });
}

/** Keys and values as small integers, whose sums are exact. */
function numbers(random: Random, tokens: number): Float32Array {
  return Float32Array.from({ length: tokens * kvHeads * dim }, () => random.integer(-8, 8));
}

/** For each record the sums over its tokens of keys and of values. */
function expectedOf(plan: Plan, keys: Float32Array, values: Float32Array): number[] {
  return recordsOf(plan).flatMap(({ slot, kvStart, kvEnd, kvHead }) =>
    [keys, values].flatMap((data) =>
      Array.from({ length: dim }, (_, element) => {
        let sum = 0;
        for (let token = slot + kvStart; token < slot + kvEnd; token++)
          sum += data[(token * kvHeads + kvHead) * dim + element]!;
        return sum;
      }),
    ),
  );
}

const steps: [number[], number[]][] = [
  [
    [1, 1, 70, 1],
    [900, 1, 300, 67],
  ],
  [
    [1, 3],
    [64, 1100],
  ],
  [
    [5, 1, 1],
    [5, 129, 700],
  ],
];
const tokensMost = 1400;
const recordsMost = 512;

const target = gpuTarget();
const opened = await target?.open(1);
const able = opened !== undefined && opened.properties.computeMajor >= 9;

describe.if(able)(`clusters and two tensor maps on ${target?.name}`, () => {
  const device = opened!;
  let kernel: CudaKernel;
  let options: PlannerOptions;
  const params = new PairParams();
  const random = seeded(7);

  /** What a step's kernel reads and writes. */
  function buffers() {
    const keys = Tensor.zeros(device, [tokensMost, kvHeads, dim], "f32");
    const values = Tensor.zeros(device, [tokensMost, kvHeads, dim], "bf16");
    const records = device.alloc(recordsMost * AttentionRecord.byteLength, "records");
    const sums = device.alloc(recordsMost * 2 * dim * 4, "sums");
    const extents = [dim, kvHeads, tokensMost];
    const box = [dim, 1, kvTile / 2];
    encodeTensorMap(
      device,
      {
        ...{ address: keys.address, dtype: "f32", extents, box, swizzleBytes: 128 },
        strides: [dim * 4, kvHeads * dim * 4],
      },
      params.keys,
    );
    encodeTensorMap(
      device,
      {
        ...{ address: values.address, dtype: "bf16", extents, box, swizzleBytes: 64 },
        strides: [dim * 2, kvHeads * dim * 2],
      },
      params.values,
    );
    return { keys, values, records, sums };
  }

  /** New numbers and a new plan, where the kernel finds them; returns what it shall write. */
  function upload(place: ReturnType<typeof buffers>, planner: Planner, step: number): number[] {
    const batch = batchOf(...steps[step]!);
    const plan = planner.plan(batch);
    checkPlan(plan, batch, planner.options);
    const [keys, values] = [numbers(random, tokensMost), numbers(random, tokensMost)];
    place.keys.copyFrom(Tensor.from(device, keys, place.keys.shape, "f32"));
    place.values.copyFrom(Tensor.from(device, values, place.values.shape, "bf16"));
    const { sections, offsets, launches } = plan;
    const ints = (launches[0]!.grid * AttentionRecord.byteLength) / 4;
    const records = sections.subarray(offsets.records, offsets.records + ints);
    device.upload(place.records.address, new Uint8Array(records.slice().buffer));
    device.stream.fill(place.sums.address, 0xff, place.sums.byteLength);
    params.point(place.records.address, place.sums.address, launches[0]!.grid);
    return expectedOf(plan, keys, values);
  }

  /** The launch of a plan's records: a cluster takes one at a time. */
  function launch(grid: number): void {
    device.launch(device.stream, kernel, params, traits.cluster * grid);
  }

  /** The sums of the first records; of the others nothing may be written. */
  function expectSums(place: ReturnType<typeof buffers>, expected: number[]): void {
    const bytes = device.download(place.sums.address, place.sums.byteLength);
    const sums = new Float32Array(bytes.buffer);
    expect([...sums.subarray(0, expected.length)]).toEqual(expected);
    expect(sums.subarray(expected.length).every(Number.isNaN)).toBe(true);
  }

  beforeAll(async () => {
    const module = new Module(device, await compiled(device), "pair.cu");
    const { cluster } = traits;
    kernel = module.kernel("pair_sums", {
      ...{ threads, sharedBytes, cluster, persistent: true, programmatic: true },
    });
    const { processors } = device;
    options = {
      ...{ queryHeads: 4, kvHeads, keyDim: dim, valueDim: dim, kvElementBytes: 4, causal: true },
      ...{
        processors: Math.max(1, Math.floor(processors / cluster)),
        classes: [traits],
        costs: cudaCosts(4),
      },
    };
  }, 60_000);
  afterAll(() => device[Symbol.asyncDispose]());

  test("the kernel is what its traits say", () => {
    expect(kernel.paramsBytes).toBe(320);
    expect(kernel.blocksPerProcessor).toBeGreaterThanOrEqual(traits.blocksPerProcessor);
  });

  test.each(steps.keys().toArray())("plan %d is taken by pairs of blocks", (step) => {
    const place = buffers();
    const planner = new Planner(options);
    const expected = upload(place, planner, step);
    launch(params.recordCount);
    expectSums(place, expected);
  });

  test("a graph sees new numbers and new plans at the same addresses", () => {
    const place = buffers();
    const graph = { maxBatch: 4, maxQueryTokens: 80, maxColumns: 32, buckets: [4] };
    const planner = new Planner({ ...options, graph });
    upload(place, planner, 0);
    using captured = device.capture(device.stream, () => launch(params.recordCount));
    for (const step of [1, 2, 0]) {
      const expected = upload(place, planner, step);
      captured.replay(device.stream);
      expectSums(place, expected);
    }
  });

  test("maps that no tensor has are refused", () => {
    const [extents, strides, box] = [[8, 8], [32], [8, 8]];
    const map = { address: 1 << 20, dtype: "f32", extents, strides, box } as const;
    const encode = (over: object) => encodeTensorMap(device, { ...map, ...over }, params.keys);
    expect(() => encode({ strides: [] })).toThrow(OptionError);
    expect(() => encode({ box: [8] })).toThrow(/^box must be 2/);
    expect(() => encode({ box: [8, 257] })).toThrow(/^box must be an integer from 1 to 256/);
    expect(() => encode({ dtype: "f64" })).toThrow(/^dtype must be/);
    expect(() => encode({ address: (1 << 20) + 8 })).toThrow(/multiple of 16/);
    expect(() => encode({ swizzleBytes: 256 })).toThrow(/swizzles 0, 32, 64 or 128/);
    expect(() => encode({ strides: [24] })).toThrow(/CUDA_ERROR_INVALID_VALUE/);
  });
});
