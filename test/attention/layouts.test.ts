import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { PagedCache } from "../../src/attention/paged-cache.ts";
import { Device } from "../../src/device/device.ts";
import { type Batch, createBatch } from "../../src/kv/batch.ts";
import { type Layout, raggedLayout } from "../../src/kv/layout.ts";
import { blockMaskLayout, tokenMaskLayout } from "../../src/kv/sparse-layout.ts";
import { userPages } from "../../src/kv/user-pages.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { expectState } from "../support/compare.ts";
import {
  type HostRequest,
  indptrOf,
  levelsHere,
  normals,
  poisoned,
  raggedTensors,
  Rig,
} from "../support/rig.ts";
import { expectedOf } from "../support/tolerance.ts";

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

describe.each(await levelsHere())("layouts on %s", (level) => {
  let device: Device;
  beforeAll(async () => {
    device = await Device.open("cpu", { level, threads: 2 });
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  const lengths = { queryLengths: [20, 1, 0, 33], kvLengths: [50, 130, 9, 33] };
  const indptrs = {
    queryIndptr: indptrOf(lengths.queryLengths),
    kvIndptr: indptrOf(lengths.kvLengths),
  };

  test.each([undefined, 2])("block masks, by KV head: %p", (kvHeads) => {
    for (const over of [{}, { causal: true }, { softCap: 8, alibi: true, sinks: true }]) {
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
      const full = over.causal ? indices.map(() => 0) : undefined;
      const layout = blockMaskLayout({
        ...indptrs,
        ...{ blockRows, blockColumns, indptr, indices, kvHeads, full },
      });
      runRagged(device, c, layout, (r, query, kvHead, key) => {
        const head = kvHeads === undefined ? 0 : kvHead;
        return keeps(r, Math.floor(query / blockRows), head, Math.floor(key / blockColumns));
      });
    }
  });

  test.each([undefined, 2])("token masks, by KV head: %p", (kvHeads) => {
    for (const over of [{}, { kvDtype: "f8e4m3", dtype: "bf16", headDim: 40 } as const]) {
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
      ...{ ...shape, causal: true, windowLeft: 15, alibi: true },
      ...{ queryLengths: [5, 3], kvLengths: [40, 7] },
      rope: { dim: 16, interleaved: true, theta: 1e4 },
    });
    const layout = raggedLayout(indptrOf(c.queryLengths), indptrOf(c.kvLengths));
    runRagged(device, c, layout, undefined, [39, 3, 0, 17, 17, 6, 2, 4]);
  });

  test("pages that the caller manages", () => {
    for (const pageSize of [1, 5, 16]) {
      const c = caseOf("user pages", { ...shape, pageSize, causal: true, kvDtype: "f16" });
      using rig = new Rig(device, c);
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
        ...{ pageSize, pageCount },
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
      using k = Tensor.from(device, kAll, dims, "f16");
      using v = Tensor.from(device, vAll, dims, "f16");
      using pageTable = Tensor.from(device, made.table, [4, made.stride], "i32");
      const batch = createBatch({ queryLengths, kvLengths: made.kvLengths, layout: made.layout });
      rig.check(batch, requests, { k, v, pageTable });
    }
  });

  test.each(["bf16", "f8e4m3"] as const)("MLA's shape: one latent plane in %s", (kvDtype) => {
    const c = caseOf("MLA", {
      ...{ queryHeads: 16, kvHeads: 1, headDim: 576, valueDim: 512, dtype: "bf16", kvDtype },
      ...{ pageSize: 16, scale: 1 / Math.sqrt(192) },
    });
    using rig = new Rig(device, c, { keyPlane: "latent", valuePlane: "latent" });
    const planes = [{ name: "latent", heads: 1, dim: 576, dtype: kvDtype }];
    using storage = poisoned(device, [30, 16, 1, 576], kvDtype);
    using cache = PagedCache.create(device, {
      ...{ layers: 1, kvHeads: 1, headDim: 576, dtype: kvDtype, pages: 30, pageSize: 16, planes },
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

test("a level that the processor lacks is refused with a sentence", async () => {
  const levels = await levelsHere();
  if (levels.includes("v4")) expect(levels).toEqual(["baseline", "v3", "v4"]);
  else expect(Device.open("cpu", { level: "v4" })).rejects.toThrow(/level must be one/);
  await using device = await Device.open("cpu", { level: levels[0] });
  const options = { queryHeads: 3, kvHeads: 2, headDim: 8, dtype: "f32" } as const;
  expect(Attention.create(device, options)).rejects.toThrow(/queryHeads must be a multiple/);
});
