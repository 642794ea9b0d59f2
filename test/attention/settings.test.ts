import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import type { AttentionOptions } from "../../src/attention/options.ts";
import type { RunTensors } from "../../src/attention/tensors.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import type { Device } from "../../src/device/device.ts";
import { OptionError, PlanError } from "../../src/errors.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { pagesLayout, raggedLayout } from "../../src/kv/layout.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { deviceTargets } from "../support/targets.ts";

const sizes = { queryHeads: 4, kvHeads: 2, headDim: 32, dtype: "bf16" } as const;
const shape = { ...sizes, causal: true };
const cacheShape = { ...sizes, layers: 1, pages: 20, pageSize: 4 };

describe.each(await deviceTargets())("what a step says on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  const queryLengths = [3, 20];
  const kvLengths = [40, 90];
  const ragged = () =>
    createBatch({ queryLengths, layout: raggedLayout([0, 3, 23], [0, 40, 130]) });
  const noise = (dims: number[], seed: number, dtype: "bf16" | "f8e4m3" = "bf16") =>
    Tensor.randomNormal(device, dims, dtype, { seed });

  function bytesOf(
    options: Partial<AttentionOptions>,
    settings: Parameters<Attention["plan"]>[1],
    over: Partial<RunTensors>,
    batch = ragged(),
  ): Uint8Array {
    using attention = Attention.createSync(device, { ...shape, ...options });
    attention.plan(batch, settings);
    const kv = over.k === undefined ? { k: noise([130, 2, 32], 2), v: noise([130, 2, 32], 3) } : {};
    const out = Tensor.zeros(device, [23, 4, 32], "bf16");
    attention.run({ q: noise([23, 4, 32], 1), ...kv, out, ...over });
    return out.toBytes();
  }

  test("settings of a plan are what options of the same values are, to the bit", () => {
    const said = { windowLeft: 11, softCap: 3, scale: 0.25 };
    const bytes = bytesOf(said, undefined, {});
    expect(bytesOf({ softCap: 9, windowLeft: 2 }, said, {})).toEqual(bytes);
    expect(bytesOf({ ...said, scale: 1 }, { scale: 0.125 }, { qScale: 2 })).toEqual(bytes);
    expect(bytesOf({ ...said, softCap: 4 }, said, {})).toEqual(bytes);
    expect(bytesOf({ ...said, softCap: 4 }, {}, {})).not.toEqual(bytes);
  });

  test("the next plan is of the options again", () => {
    using attention = Attention.createSync(device, shape);
    const [k, v, q] = [noise([130, 2, 32], 2), noise([130, 2, 32], 3), noise([23, 4, 32], 1)];
    const out = Tensor.zeros(device, [23, 4, 32], "bf16");
    const run = (settings?: object) => {
      attention.plan(ragged(), settings);
      attention.run({ q, k, v, out });
      return out.toBytes();
    };
    const bytes = run();
    expect(run({ windowLeft: 5, scale: 1 })).not.toEqual(bytes);
    expect(run()).toEqual(bytes);
  });

  test("null, 64-bit lists, numbers, and pages as they lie", () => {
    const pages = noise([30, 5, 2, 32], 4, "f8e4m3");
    const values = noise([30, 5, 2, 32], 5, "f8e4m3");
    const heads = (tensor: Tensor) => {
      const swapped = Tensor.empty(device, [30, 2, 5, 32], "f8e4m3");
      swapped.permute(0, 2, 1, 3).copyFrom(tensor);
      return swapped;
    };
    const columns = Array.from({ length: 36 }, (_, i) => (7 * i) % 30);
    const batchOf = (slots: number[]) => {
      const layout = pagesLayout(
        5,
        Int32Array.of(0, 3, 23),
        Int32Array.from(slots),
        Int32Array.from(kvLengths),
      );
      return createBatch({ queryLengths, kvLengths, layout });
    };
    const scale = Tensor.from(device, [1.5], [1], "f32");
    const table = (shape: number[], dtype: "i32" | "i64") =>
      Tensor.from(device, columns, shape, dtype);
    const run = (over: Partial<RunTensors>, slots = [0, 1]) =>
      bytesOf({ kvDtype: "f8e4m3" }, undefined, { k: pages, v: values, ...over }, batchOf(slots));
    const bytes = run({ pageTable: table([2, 18], "i32"), kScale: scale, vScale: scale });
    const absent = { lse: null, kvLengths: null, maskBits: null, alibiSlopes: null };
    const scales = { kScale: 1.5, vScale: 1.5 };
    expect(run({ ...absent, ...scales, pageTable: table([2, 18], "i64") })).toEqual(bytes);
    expect(run({ ...scales, pageTable: table([36], "i64") }, [0, 18])).toEqual(bytes);
    const hnd = { k: heads(pages), v: heads(values), layout: "HND" } as const;
    expect(run({ ...hnd, ...scales, pageTable: table([36], "i32") }, [0, 18])).toEqual(bytes);
    expect(() => run({ ...scales, pageTable: table([36], "i32") }, [0, 19])).toThrow(
      /^pageTable must be \[37 or more\]/,
    );
    const wrong = Tensor.from(device, columns.with(20, 30), [36], "i32");
    if (device.checksContents)
      expect(() => run({ ...scales, pageTable: wrong }, [0, 18])).toThrow(
        /^pageTable\[20\] must be/,
      );
  });

  test("what kernels or captures cannot follow is refused, and nothing has changed", () => {
    using attention = Attention.createSync(device, shape);
    attention.plan(ragged(), { scale: 0.5 });
    const wrong: [object, string][] = [
      [{ softCap: 3 }, "softCap"],
      [{ windowLeft: -2 }, "windowLeft"],
      [{ scale: NaN }, "scale"],
      [{ window: 3 }, "settings.window"],
    ];
    for (const [settings, option] of wrong) {
      expect(() => attention.plan(ragged(), settings)).toThrow(OptionError);
      expect(() => attention.plan(ragged(), settings)).toThrow(new RegExp(`^${option} must be`));
    }
    using capped = Attention.createSync(device, { ...shape, softCap: 2 });
    expect(() => capped.plan(ragged(), { softCap: 0 })).toThrow(/^softCap must be above 0/);
    expect(() => bytesOf({}, undefined, { qScale: NaN })).toThrow(/^qScale must be a number/);
    expect(() => bytesOf({}, undefined, { kScale: Infinity })).toThrow(/^kScale must be a number/);
    const mla = { queryHeads: 16, kvHeads: 1, headDim: 576, valueDim: 512 };
    const latent = { keyPlane: "latent", valuePlane: "latent", dtype: "bf16" } as const;
    using absorbed = Attention.createSync(device, { ...mla, ...latent });
    const plan = () => absorbed.plan(ragged(), { windowLeft: 4 });
    if (device.kind === "cuda") expect(plan).toThrow(/^windowLeft must be -1: these kernels/);
    else plan();
  });

  test("a window of a plan within that of the cache's pages", () => {
    const groups = [{ layers: [0], pages: 20, windowLeft: 8 }];
    using cache = PagedCache.create(device, { ...cacheShape, groups });
    using attention = Attention.createSync(device, shape);
    const batch = cache.reserve([cache.sequence()], [3]);
    if (!batch.ok) throw batch.error;
    const kv = noise([3, 2, 32], 1);
    cache.append({ layer: 0, batch, k: kv, v: kv });
    const q = noise([3, 4, 32], 2);
    const out = Tensor.empty(device, [3, 4, 32], "bf16");
    const run = () => attention.run({ layer: 0, q, cache, out });
    for (const windowLeft of [-1, 9]) {
      attention.plan(batch, { windowLeft });
      expect(run).toThrow(/^windowLeft must be at most 8/);
    }
    attention.plan(batch, { windowLeft: 8 });
    run();
    attention.plan(batch);
    expect(run).toThrow(/^windowLeft must be at most 8/);
  });

  test("a replay under other settings than the captured ones is refused", () => {
    const graph = { maxBatch: 2, maxQueryTokens: 4, maxColumns: 8 };
    using cache = PagedCache.create(device, cacheShape);
    using attention = Attention.createSync(device, { ...shape, graph });
    const sequence = cache.sequence();
    const q = noise([4, 4, 32], 2);
    const kv = noise([4, 2, 32], 1);
    const out = Tensor.empty(device, [4, 4, 32], "bf16");
    const step = (scale: number) => {
      const batch = cache.reserve([sequence], [1], { padTo: 1 });
      if (!batch.ok) throw batch.error;
      attention.plan(batch, { scale });
      return batch;
    };
    const body = () => {
      const batch = cache.pool.lastBatch!;
      cache.append({ layer: 0, batch, k: kv, v: kv });
      attention.run({ layer: 0, q, cache, out });
    };
    step(0.5);
    body();
    using captured = device.capture(device.stream, body);
    step(0.5);
    captured.replay(device.stream);
    step(0.25);
    expect(() => captured.replay(device.stream)).toThrow(PlanError);
    expect(() => captured.replay(device.stream)).toThrow(/other settings/);
  });
});
