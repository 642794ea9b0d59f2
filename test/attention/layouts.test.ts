import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import { Device } from "../../src/device/device.ts";
import { OutOfMemoryError } from "../../src/errors.ts";
import { type Batch, createBatch } from "../../src/kv/batch.ts";
import { createLevel, type Layout, pagesLayout, raggedLayout } from "../../src/kv/layout.ts";
import { blockMaskLayout, tokenMaskLayout } from "../../src/kv/sparse-layout.ts";
import { userPages } from "../../src/kv/user-pages.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { expectState } from "../support/compare.ts";
import { concatenate, indptrOf, normals, poisoned } from "../support/numbers.ts";
import { type HostRequest, Rig } from "../support/rig.ts";
import { targetsHere } from "../support/targets.ts";
import { expectedOf } from "../support/tolerance.ts";
import { raggedTensors } from "../support/world.ts";

const shape = { queryHeads: 6, kvHeads: 2, headDim: 32, pageSize: 0, causal: false } as const;

/** Runs a batch over ragged K/V of which `visible` says what the layout keeps. */
function runRagged(
  device: Device,
  c: Case,
  layout: Layout,
  visible?: (request: number, query: number, kvHead: number, key: number) => boolean,
  positions?: number[],
): void {
  using rig = new Rig(device, c);
  const { queryLengths, kvLengths } = c;
  const starts = indptrOf(queryLengths);
  const requests = kvLengths.map((keys, r): HostRequest => {
    const q = rig.queries(queryLengths[r]);
    return {
      q,
      k: rig.rows(keys, c.headDim, q),
      v: rig.rows(keys, c.valueDim),
      queryPositions: positions?.slice(starts[r], starts[r + 1]),
      visible: visible && ((query, kvHead, key) => visible(r, query, kvHead, key)),
    };
  });
  const { k, v } = raggedTensors(rig, requests);
  rig.check(createBatch({ queryLengths, kvLengths, layout, positions }), requests, { k, v });
  k[Symbol.dispose]();
  v[Symbol.dispose]();
}

describe.each(await targetsHere())("layouts on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  const lengths = { queryLengths: [20, 1, 0, 33], kvLengths: [50, 130, 9, 33] };
  const indptrs = {
    queryIndptr: indptrOf(lengths.queryLengths),
    kvIndptr: indptrOf(lengths.kvLengths),
  };

  test.each([false, true])("block masks, by KV head: %p", (byHead) => {
    const kvHeads = byHead ? 2 : undefined;
    const options = { softCap: 8, alibi: true, sinks: true };
    for (const over of [{}, { causal: true }, { causal: true, notFinite: true }, options]) {
      const c = caseOf("block mask", { ...shape, ...lengths, ...over, seed: 5 });
      const [blockRows, blockColumns] = [16, 12];
      const keeps = (r: number, blockRow: number, head: number, column: number) =>
        (r + 3 * blockRow + 5 * head + column * column) % 3 !== 0;
      const indptr = [0];
      const indices: number[] = [];
      for (const [r, queries] of lengths.queryLengths.entries())
        for (let blockRow = 0; blockRow * blockRows < queries; blockRow++)
          for (let head = 0; head < (kvHeads ?? 1); head++) {
            for (let column = 0; column * blockColumns < lengths.kvLengths[r]; column++)
              if (keeps(r, blockRow, head, column)) indices.push(column);
            indptr.push(indices.length);
          }
      // Under causal, blocks on the diagonal need the mask test: none is marked as full.
      const full = "causal" in over ? indices.map(() => 0) : undefined;
      const layout = blockMaskLayout({
        ...indptrs,
        blockRows,
        blockColumns,
        indptr,
        indices,
        kvHeads,
        full,
      });
      runRagged(device, c, layout, (r, query, kvHead, key) => {
        const head = kvHeads === undefined ? 0 : kvHead;
        return keeps(r, Math.floor(query / blockRows), head, Math.floor(key / blockColumns));
      });
    }
  });

  test.each([false, true])("token masks, by KV head: %p", (byHead) => {
    const kvHeads = byHead ? 2 : undefined;
    const small = { kvDtype: "f8e4m3", dtype: "bf16", headDim: 40 } as const;
    for (const over of [{}, { notFinite: true }, small]) {
      const c = caseOf("token mask", { ...shape, ...lengths, ...over, seed: 6 });
      const keeps = (r: number, query: number, head: number, key: number) =>
        (r * 7 + (query >> 1) * 3 + head * 2 + key * 5) % 7 > 2 && query !== 4;
      const mask: number[] = [];
      for (const [r, queries] of lengths.queryLengths.entries())
        for (let query = 0; query < queries; query++)
          for (let head = 0; head < (kvHeads ?? 1); head++)
            for (let key = 0; key < lengths.kvLengths[r]; key++)
              mask.push(Number(keeps(r, query, head, key)));
      const layout = tokenMaskLayout({ ...indptrs, mask, kvHeads });
      runRagged(device, c, layout, (r, query, kvHead, key) =>
        keeps(r, query, kvHeads === undefined ? 0 : kvHead, key),
      );
    }
  });

  test("positions of the caller", () => {
    const c = caseOf("positions", {
      ...shape,
      causal: true,
      windowLeft: 15,
      alibi: true,
      queryLengths: [5, 3],
      kvLengths: [40, 7],
      rope: { dim: 16, interleaved: true, theta: 1e4 },
    });
    const layout = raggedLayout(indptrOf(c.queryLengths), indptrOf(c.kvLengths));
    runRagged(device, c, layout, undefined, [39, 3, 0, 17, 17, 6, 2, 4]);
  });

  test.each([false, true])("rotation at any position, interleaved: %p", (interleaved) => {
    const rope = { first: 8, interleaved, theta: 5e6 };
    const far = { ...shape, queryLengths: [5, 3], kvLengths: [40, 7], rope };
    const positions = [0, 999_999, 1_000_000, 131_071, 2 ** 24 + 1, 9_000_000, 7, 2 ** 31 - 2];
    // Queries that outnumber the keys begin before position 0.
    const before = { ...shape, queryLengths: [90, 3], kvLengths: [40, 7], rope };
    for (const lengths of [far, before]) {
      const c = caseOf("rotation", lengths);
      const layout = raggedLayout(indptrOf(c.queryLengths), indptrOf(c.kvLengths));
      runRagged(device, c, layout, undefined, lengths === far ? positions : undefined);
    }
  });

  test("ragged levels: one prefix that all share, then each request's own keys", () => {
    const masked = { mask: "all", notFinite: true } as const;
    for (const over of [{}, { notFinite: true }, { windowLeft: 30, sinks: true }, masked]) {
      const c = caseOf("ragged levels", {
        ...shape,
        causal: true,
        kvDtype: "f16",
        seed: 8,
        ...over,
        queryLengths: [1, 5, 40],
        kvLengths: [101, 120, 140],
      });
      using rig = new Rig(device, c);
      const row = c.kvHeads * c.headDim;
      const [kShared, vShared] = [rig.rows(100, c.headDim), rig.rows(100, c.valueDim)];
      const own = c.kvLengths.map((keys) => keys - 100);
      const parts = own.map((keys) => ({ k: rig.rows(keys, 32), v: rig.rows(keys, 32) }));
      const requests = parts.map(({ k, v }, r): HostRequest => {
        const whole = { k: concatenate([kShared, k]), v: concatenate([vShared, v]) };
        return { q: rig.queries(c.queryLengths[r]), ...whole };
      });
      const held = [{ k: kShared, v: vShared }, ...parts].map((part) => ({ ...part, q: kShared }));
      const { k, v } = raggedTensors(rig, held);
      expect(k.shape[0]).toBe(held.reduce((sum, part) => sum + part.k.length, 0) / row + 3);
      const [shared, suffix] = [createLevel(1), createLevel(3)];
      Object.assign(shared, { rowCount: 1, requestRows: 1 });
      shared.queryIndptr.set([0, 46]);
      shared.kvLengths[0] = 100;
      Object.assign(suffix, { rowCount: 3, requestRows: 3 });
      suffix.queryIndptr.set([0, 1, 6, 46]);
      suffix.requests.set([0, 1, 2]);
      suffix.slots.set(indptrOf([100, ...own]).slice(1, 4));
      suffix.kvLengths.set(own);
      suffix.positionStarts.fill(100);
      const layout = { blockSize: 64, contiguous: true, levels: [shared, suffix] };
      const { queryLengths, kvLengths } = c;
      rig.check(createBatch({ queryLengths, kvLengths, layout }), requests, { k, v });
    }
  });

  test("pages past 2^31 elements", () => {
    const c = caseOf("far", { ...shape, pageSize: 4, kvDtype: "f8e4m3", causal: true });
    using rig = new Rig(device, c);
    const [row, far] = [c.kvHeads * c.headDim, 2 ** 27];
    const bytes = 16 * far + 4 * row;
    const make = () => {
      // Untouched memory costs nothing; a machine that refuses so much cannot run this.
      try {
        return Tensor.empty(device, [bytes], "f8e4m3");
      } catch (error) {
        if (error instanceof OutOfMemoryError) return undefined;
        throw error;
      }
    };
    using kAll = make();
    using vAll = make();
    if (kAll === undefined || vAll === undefined) return;
    const view = (all: Tensor) =>
      Tensor.fromPointer(device, all.address, [17, 4, c.kvHeads, c.headDim], "f8e4m3", {
        strides: [far, row, c.headDim, 1],
      });
    const [k, v] = [view(kAll), view(vAll)];
    const request = { q: rig.queries(2), k: rig.rows(7, c.headDim), v: rig.rows(7, c.headDim) };
    for (const [page, from, to] of [
      [16, 0, 4],
      [3, 4, 7],
    ])
      for (const [all, rows] of [
        [k, request.k],
        [v, request.v],
      ] as const) {
        using part = rig.upload(rows.slice(from * row, to * row), "f8e4m3", c.kvHeads, c.headDim);
        all
          .select(0, page)
          .slice(0, 0, to - from)
          .copyFrom(part);
      }
    const pages = { queryIndptr: [0, 2], indptr: [0, 2], indices: [16, 3], lastPageLength: [3] };
    const made = userPages({ ...pages, pageSize: 4, pageCount: 17 });
    using pageTable = Tensor.from(device, made.table, [1, 2], "i32");
    const { layout } = made;
    const batch = createBatch({ queryLengths: [2], kvLengths: [7], layout });
    rig.check(batch, [request], { k, v, pageTable });
  });

  test("pages of as many tokens as heads, whose order no shape shows", () => {
    const { queryHeads, kvHeads, headDim } = shape;
    using attention = Attention.createSync(device, { queryHeads, kvHeads, headDim, dtype: "bf16" });
    const layout = pagesLayout(2, Int32Array.of(0, 1), Int32Array.of(0), Int32Array.of(4));
    const dims = [2, 2, 2, 32];
    const k = Tensor.randomNormal(device, dims, "bf16", { seed: 1 });
    const swapped = Tensor.empty(device, dims, "bf16");
    const hnd = swapped.permute(0, 2, 1, 3);
    hnd.copyFrom(k);
    const q = Tensor.randomNormal(device, [1, queryHeads, 32], "bf16", { seed: 2 });
    const pageTable = Tensor.from(device, [1, 0], [1, 2], "i32");
    attention.plan(createBatch({ queryLengths: [1], kvLengths: [4], layout }));
    const run = (pages: Tensor, order?: "NHD" | "HND") => {
      const out = Tensor.zeros(device, [1, queryHeads, 32], "bf16");
      attention.run({ q, k: pages, v: pages, out, pageTable, layout: order });
      return out.toBytes();
    };
    const bytes = run(k, "NHD");
    expect(run(hnd)).toEqual(bytes);
    expect(run(hnd, "HND")).toEqual(bytes);
    expect(run(swapped, "HND")).toEqual(bytes);
    expect(() => run(swapped)).toThrow(
      /^k must be of a known order, as tokens are as many as heads/,
    );
    expect(() => run(hnd, "NHD")).toThrow(/^k must be/);
  });

  test("pages that the caller manages", () => {
    for (const pageSize of [1, 5, 16]) {
      const wanted = { ...shape, pageSize, causal: true, kvDtype: "f16" } as const;
      using rig = new Rig(device, caseOf("user pages", wanted));
      const { c } = rig;
      const kvLengths = [2 * pageSize, 0, 3 * pageSize - (pageSize > 1 ? 2 : 0), 1];
      const queryLengths = [2, 0, 3, 1];
      const pageCount = 12;
      const order = [7, 2, 11, 0, 9, 4, 1];
      const pages = kvLengths.map((length) => Math.ceil(length / pageSize));
      const made = userPages({
        queryIndptr: indptrOf(queryLengths),
        indptr: indptrOf(pages),
        indices: order.slice(
          0,
          pages.reduce((sum, count) => sum + count, 0),
        ),
        lastPageLength: kvLengths.map((length) =>
          length === 0 ? 0 : ((length - 1) % pageSize) + 1,
        ),
        pageSize,
        pageCount,
      });
      const dims = [pageCount, pageSize, c.kvHeads, c.headDim];
      const row = c.kvHeads * c.headDim;
      const [kAll, vAll] = [0, 1].map(() => new Float64Array(pageCount * pageSize * row).fill(NaN));
      let first = 0;
      const requests = kvLengths.map((keys, r): HostRequest => {
        const q = rig.queries(queryLengths[r]);
        const [k, v] = [rig.rows(keys, c.headDim, q), rig.rows(keys, c.headDim)];
        for (let key = 0; key < keys; key++) {
          const place = order[first + Math.floor(key / pageSize)] * pageSize + (key % pageSize);
          kAll.set(k.subarray(key * row, (key + 1) * row), place * row);
          vAll.set(v.subarray(key * row, (key + 1) * row), place * row);
        }
        first += pages[r];
        return { q, k, v };
      });
      using k = Tensor.from(device, kAll, dims, c.kvDtype);
      using v = Tensor.from(device, vAll, dims, c.kvDtype);
      using pageTable = Tensor.from(device, made.table, [4, made.stride], "i32");
      const batch = createBatch({ queryLengths, kvLengths: made.kvLengths, layout: made.layout });
      rig.check(batch, requests, { k, v, pageTable });
    }
  });

  test.each(["bf16", "f8e4m3"] as const)("MLA's shape: one latent plane in %s", (kvDtype) => {
    const c = caseOf("MLA", {
      queryHeads: 16,
      kvHeads: 1,
      headDim: 576,
      valueDim: 512,
      dtype: "bf16",
      kvDtype,
      pageSize: 16,
      scale: 1 / Math.sqrt(192),
    });
    using rig = new Rig(device, c, { keyPlane: "latent", valuePlane: "latent" });
    const planes = [{ name: "latent", heads: 1, dim: 576, dtype: kvDtype }];
    using storage = poisoned(device, [30, 16, 1, 576], kvDtype);
    using cache = PagedCache.create(device, {
      layers: 1,
      kvHeads: 1,
      headDim: 576,
      dtype: kvDtype,
      pages: 30,
      pageSize: 16,
      planes,
      storage: () => storage,
    });
    const sequences = [cache.sequence(), cache.sequence()];
    const held = [new Float64Array(0), new Float64Array(0)];
    let last: Batch | undefined;
    const steps = [
      [17, 250],
      [1, 3],
    ];
    for (const counts of steps) {
      const batch = cache.reserve(sequences, counts);
      if (!batch.ok) throw batch.error;
      const parts = counts.map((count) => rig.rows(count, 576));
      parts.forEach((part, i) => (held[i] = Float64Array.of(...held[i], ...part)));
      using latent = rig.upload(Float64Array.of(...parts[0], ...parts[1]), "f32", 1, 576);
      cache.append({ layer: 0, batch, planes: { latent } });
      last = batch;
    }
    const requests = held.map((k, i): HostRequest => {
      const v = new Float64Array((k.length / 576) * 512);
      for (let token = 0; token < k.length / 576; token++)
        v.set(k.subarray(token * 576, token * 576 + 512), token * 512);
      return { q: rig.queries(steps[1][i]), k, v };
    });
    rig.check(last!, requests, { cache });
  });

  test("strided queries and outputs", () => {
    const c = caseOf("strides", { ...shape, queryLengths: [4], kvLengths: [9], dtype: "f16" });
    using rig = new Rig(device, c);
    const q = normals(rig.random, 4 * 6 * 32, "f16");
    const [k, v] = [rig.rows(9, 32, q), rig.rows(9, 32)];
    // [heads, tokens, dim] seen as [tokens, heads, dim], with room between.
    using queries = Tensor.zeros(device, [6, 5, 40], "f16");
    const view = queries.permute(1, 0, 2).slice(0, 0, 4).slice(2, 8, 40);
    using dense = rig.upload(q, "f16", 6, 32);
    view.copyFrom(dense);
    using outputs = poisoned(device, [6, 7, 48], "f16");
    const out = outputs.permute(1, 0, 2).slice(0, 0, 4).slice(2, 0, 32);
    using keys = rig.upload(k, "f16", 2, 32);
    using values = rig.upload(v, "f16", 2, 32);
    const layout = raggedLayout([0, 4], [0, 9]);
    rig.attention.plan(createBatch({ queryLengths: [4], kvLengths: [9], layout }));
    rig.attention.run({ q: view, k: keys, v: values, out });
    const expected = expectedOf(
      { q, k, v, queryHeads: 6, kvHeads: 2, keyDim: 32, valueDim: 32 },
      "f16",
    );
    expectState({ out: out.toFloat64Array() }, expected, 6, 32);
    const written = outputs.toFloat64Array().filter((x) => !Number.isNaN(x)).length;
    expect(written).toBe(4 * 6 * 32);
  });
});

test("levels and options that are not there are refused with a sentence", async () => {
  const level = "v9" as "v4";
  expect(Device.open("cpu", { level })).rejects.toThrow(/level must be one of baseline, v3, v4/);
  await using device = await Device.open("cpu");
  const options = { queryHeads: 3, kvHeads: 2, headDim: 8, dtype: "f32" } as const;
  expect(Attention.create(device, options)).rejects.toThrow(/queryHeads must be a multiple/);
});
