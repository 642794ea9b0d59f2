import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import type { AttentionOptions } from "../../src/attention/options.ts";
import { PageLists } from "../../src/cache/page-lists.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import { Device } from "../../src/device/device.ts";
import { DeviceError, OptionError } from "../../src/errors.ts";
import { type Batch, createBatch } from "../../src/kv/batch.ts";
import { pagesLayout, raggedLayout } from "../../src/kv/layout.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { indptrOf } from "../support/numbers.ts";
import { deviceTargets } from "../support/targets.ts";

const heads = { queryHeads: 4, kvHeads: 2, headDim: 32 };

/** Throws what a GPU does not say without it: the index tensors are then looked at. */
async function openSynchronous(target: { open(threads: number): Promise<Device> }) {
  const before = process.env["FLASHBUN_SYNC"];
  process.env["FLASHBUN_SYNC"] = "1";
  try {
    return await target.open(2);
  } finally {
    if (before === undefined) delete process.env["FLASHBUN_SYNC"];
    else process.env["FLASHBUN_SYNC"] = before;
  }
}

function raggedBatch(queryLengths: number[], kvLengths: number[]): Batch {
  const layout = raggedLayout(indptrOf(queryLengths), indptrOf(kvLengths));
  return createBatch({ queryLengths, kvLengths, layout });
}

describe.each(await deviceTargets())("what index tensors hold, on $name", (target) => {
  let device: Device;
  let dtype: "f32" | "bf16";
  beforeAll(async () => {
    device = await openSynchronous(target);
    dtype = device.kind === "cpu" ? "f32" : "bf16";
  });
  afterAll(() => device[Symbol.asyncDispose]());

  const create = (over: Partial<AttentionOptions> = {}) =>
    Attention.createSync(device, { ...heads, dtype, ...over });
  const zeros = (tokens: number, count: number) => Tensor.zeros(device, [tokens, count, 32], dtype);
  const ints = (values: number[], shape = [values.length]) =>
    Tensor.from(device, values, shape, "i32");

  describe.each(["u8", "bool"] as const)("mask offsets in %s", (maskDtype) => {
    // Three queries of three keys each take 9 pairs, 2 bytes.
    const each = maskDtype === "u8" ? 2 : 9;
    const cases: [string, number, number[], string | undefined][] = [
      ["right", 2 * each, [0, each], undefined],
      ["with room between", 2 * each + 3, [1, each + 3], undefined],
      ["one request twice", each, [0, 0], "maskBits must be a contiguous"],
      ["an element short", 2 * each - 1, [0, each], "maskBits must be a contiguous"],
      ["past the end", 2 * each, [0, each + 1], `maskIndptr[1] must be 0 to ${each}`],
      ["far past the end", 2 * each, [0, 1e9], "maskIndptr[1] must be"],
      ["before the start", 2 * each, [-1e9, each], "maskIndptr[0] must be"],
    ];
    test.each(cases)("%s", async (_, elements, starts, sentence) => {
      using attention = create({ mask: "all" });
      attention.plan(raggedBatch([3, 3], [3, 3]));
      const out = zeros(6, 4);
      const run = () =>
        attention.run({
          q: zeros(6, 4),
          k: zeros(6, 2),
          v: zeros(6, 2),
          out,
          maskBits: Tensor.from(device, new Uint8Array(elements).fill(1), [elements], maskDtype),
          maskIndptr: ints(starts),
        });
      if (sentence === undefined) run();
      else {
        expect(run).toThrow(OptionError);
        expect(run).toThrow(sentence);
      }
      await device.stream.done();
    });
  });

  test("a bool mask made u8 is refused, its bits are not read as packed", () => {
    using attention = create({ mask: "all" });
    attention.plan(raggedBatch([2, 2], [8, 8]));
    const run = (mask: Tensor) =>
      attention.run({
        q: zeros(4, 4),
        k: zeros(16, 2),
        v: zeros(16, 2),
        out: zeros(4, 4),
        maskBits: mask,
        maskIndptr: ints([0, mask.dtype === "bool" ? 16 : 2]),
      });
    const mask = Tensor.from(device, new Uint8Array(32).fill(1), [4, 8], "bool");
    run(mask);
    for (const wrong of [mask.to("u8"), mask.to("u8").reshape(32)])
      expect(() => run(wrong)).toThrow("maskBits must be packed bits, [4]");
    run(Tensor.zeros(device, [4], "u8"));
    expect(() => run(mask.to("f32"))).toThrow(/^maskBits must be a contiguous u8/);
  });

  /** Two requests of two pages of 4 tokens each, over a table of rows of three columns. */
  function paged(attention: Attention, table: number[], over: object = {}) {
    const layout = pagesLayout(4, Int32Array.of(0, 1, 2), Int32Array.of(0, 1), Int32Array.of(7, 8));
    attention.plan(createBatch({ queryLengths: [1, 1], kvLengths: [7, 8], layout }));
    const k = Tensor.zeros(device, [5, 4, 2, 32], dtype);
    const pageTable = ints(table, [2, 3]);
    const tensors = { q: zeros(2, 4), k, v: k, out: zeros(2, 4), pageTable, ...over };
    attention.run(tensors);
  }

  test("page ids that lead out are named, those that nobody reads may be anything", async () => {
    using attention = create();
    paged(attention, [4, 0, -1, 1, 2, 1e9]);
    const wrong: [number[], string][] = [
      [[4, 5, 0, 1, 2, 0], "pageTable[0, 1] must be a page from 0 to 4 (got 5)"],
      [[4, 0, 0, -1, 2, 0], "pageTable[1, 0] must be a page from 0 to 4 (got -1)"],
      [[4, 0, 0, 1, 0x7fffffff, 0], "pageTable[1, 1] must be a page"],
    ];
    for (const [table, sentence] of wrong) {
      expect(() => paged(attention, table)).toThrow(OptionError);
      expect(() => paged(attention, table)).toThrow(sentence);
    }
    using windowed = create({ causal: true, windowLeft: 2 });
    paged(windowed, [-1, 3, -1, -1, 0, -1]);
    using clamped = create({ deviceLengths: true });
    paged(clamped, [2, -1, -1, 1, 2, -1], { kvLengths: ints([4, 8]) });
    const late = () => paged(clamped, [2, -1, -1, 1, 2, -1], { kvLengths: ints([5, 8]) });
    expect(late).toThrow("pageTable[0, 1] must be");
    await device.stream.done();
  });

  test("what a graph writes into index tensors is seen, and never followed", async () => {
    const graph = { maxBatch: 2, maxQueryTokens: 4, maxColumns: 8 };
    using attention = create({ mask: "tail", graph });
    const sizes = { pageSize: 4, pageCount: 5, maxBatch: 2, maxQueryTokens: 4, maxEntries: 16 };
    using lists = PageLists.create(device, sizes);
    const [q, out] = [zeros(4, 4), zeros(4, 4)];
    const k = Tensor.zeros(device, [5, 4, 2, 32], dtype);
    using maskBits = Tensor.zeros(device, [2], "u8");
    using maskIndptr = ints([0, 1]);
    using starts = ints([0, 1]);
    using pages = ints([4, 0, 1, 2]);
    using ids = ints([4, 0, 1, 2]);
    const step = () => {
      const indptr = Int32Array.of(0, 2, 4);
      const lastPageLength = Int32Array.of(4, 3);
      const queryIndptr = Int32Array.of(0, 1, 2);
      const batch = lists.step({ queryIndptr, indptr, indices: pages, lastPageLength, padTo: 4 });
      attention.plan(batch);
      return batch;
    };
    const run = () => attention.run({ q, k, v: k, out, maskBits, maskIndptr });
    step();
    run();
    // Earlier work of the graph writes what a later attention of it follows.
    using recorded = device.capture(device.stream, () => {
      maskIndptr.copyFrom(starts);
      lists.table.slice(0, 0, 4).copyFrom(ids);
      run();
    });
    const replay = (startsNow: number[], idsNow: number[]) => {
      starts.copyFrom(ints(startsNow));
      ids.copyFrom(ints(idsNow));
      step();
      recorded.replay(device.stream);
    };
    replay([0, 1], [4, 0, 1, 2]);
    expect(() => replay([0, 1 << 30], [4, 0, 1, 2])).toThrow(
      "maskIndptr[1] must be 0 to 1: request 1 takes 1 elements",
    );
    expect(() => replay([0, 1], [4, 0, 1 << 30, -7])).toThrow(
      `pageTable[2] must be a page from 0 to 4 (got ${1 << 30})`,
    );
    replay([1, 0], [0, 1, 2, 3]);
    await device.stream.done();
    expect(device.failure()).toBeUndefined();
  });

  test("a replay looks again, at sizes and at contents", async () => {
    const graph = { maxBatch: 2, maxQueryTokens: 8, maxColumns: 8 };
    using attention = create({ mask: "tail", graph });
    using cache = PagedCache.create(device, {
      ...heads,
      dtype,
      layers: 1,
      pages: 32,
      pageSize: 4,
    });
    const sequences = [cache.sequence(), cache.sequence()];
    const [q, k, out] = [zeros(8, 4), zeros(8, 2), zeros(8, 4)];
    using maskBits = Tensor.zeros(device, [4], "u8");
    using maskIndptr = ints([0, 2]);
    const step = (counts: number[]) => {
      const batch = cache.reserve(sequences, counts, { padTo: 8 });
      if (!batch.ok) throw batch.error;
      attention.plan(batch);
      return batch;
    };
    const layer = (batch: Batch) => {
      cache.append({ layer: 0, batch, k, v: k });
      attention.run({ q, cache, out, maskBits, maskIndptr });
    };
    const batch = step([3, 3]);
    layer(batch);
    using recorded = device.capture(device.stream, () => layer(batch));
    step([4, 3]);
    recorded.replay(device.stream);
    maskIndptr.copyFrom(ints([0, 3]));
    const wrong = step([3, 3]);
    expect(() => recorded.replay(device.stream)).toThrow("maskIndptr[1] must be 0 to 2");
    maskIndptr.copyFrom(ints([0, 2]));
    recorded.replay(device.stream);
    expect(wrong.stale).toBe(false);
    step([5, 3]);
    expect(() => recorded.replay(device.stream)).toThrow("maskBits must be a contiguous u8");
    cache.rollback(cache.pool.lastBatch!);
    await device.stream.done();
  });
});

describe("native kernels of the CPU, where nobody looked", () => {
  const cases: [string, number, object][] = [
    ["mask offsets, decode", 1, { mask: "all" }],
    ["mask offsets, prefill", 40, { mask: "all" }],
    ["page ids, decode", 1, {}],
    ["page ids, prefill", 40, {}],
  ];
  test.each(cases)("end the device's work and not the process: %s", async (_, queries, over) => {
    await using device = await Device.open("cpu", { threads: 2 });
    Object.defineProperty(device, "checksContents", { value: false });
    using attention = Attention.createSync(device, { ...heads, dtype: "f32", ...over });
    const indptr = Int32Array.of(0, queries);
    const layout = pagesLayout(4, indptr, Int32Array.of(0), Int32Array.of(40));
    attention.plan(createBatch({ queryLengths: [queries], kvLengths: [40], layout }));
    const masked = "mask" in over;
    const table = Array.from({ length: 10 }, (_, i) => (i === 5 && !masked ? 1 << 30 : i));
    const k = Tensor.zeros(device, [10, 4, 2, 32], "f32");
    attention.run({
      q: Tensor.zeros(device, [queries, 4, 32], "f32"),
      out: Tensor.zeros(device, [queries, 4, 32], "f32"),
      k,
      v: k,
      pageTable: Tensor.from(device, table, [1, 10], "i32"),
      ...(masked
        ? {
            maskBits: Tensor.zeros(device, [40 * queries], "bool"),
            maskIndptr: Tensor.from(device, [2 ** 30], [1], "i32"),
          }
        : {}),
    });
    const failed = device.stream.done();
    expect(failed).rejects.toThrow(DeviceError);
    expect(failed).rejects.toThrow("mask offsets or page ids lead out");
    await failed.catch(() => {});
  });
});
