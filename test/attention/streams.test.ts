import { expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import { Device } from "../../src/device/device.ts";
import { ProbeParams } from "../../src/ffi/params.gen.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { pagesLayout, raggedLayout } from "../../src/kv/layout.ts";
import { Tensor } from "../../src/tensor/tensor.ts";

const shape = { queryHeads: 4, kvHeads: 2, headDim: 32, dtype: "f32" } as const;

function ragged(queries: number, keys: number) {
  const layout = raggedLayout([0, queries], [0, keys]);
  return createBatch({ queryLengths: [queries], kvLengths: [keys], layout });
}

test("plans that run on two streams in turn give the bits of one stream", async () => {
  await using device = await Device.open("cpu", { threads: 2 });
  const second = device.createStream("second");
  using attention = Attention.createSync(device, { ...shape, causal: true, rope: {} });
  const noise = (tokens: number, heads: number, seed: number) =>
    Tensor.randomNormal(device, [tokens, heads, 32], "f32", { seed });
  const [q, k, v] = [noise(64, 4, 1), noise(900, 2, 2), noise(900, 2, 3)];
  await device.stream.done();
  const cases = [ragged(64, 900), ragged(3, 40), ragged(17, 600)];
  const expected = cases.map((batch) => {
    const out = Tensor.zeros(device, [64, 4, 32], "f32");
    attention.plan(batch);
    attention.run({ q, k, v, out });
    return out.toBytes();
  });
  const busy = new ProbeParams();
  busy.microseconds = 3000;
  const outs = cases.map(() => Tensor.zeros(device, [64, 4, 32], "f32"));
  await device.stream.done();
  for (const [i, batch] of cases.entries()) {
    const streams = i % 2 === 0 ? [device.stream, second] : [second, device.stream];
    device.launch(streams[0], device.kernel("probe_spin"), busy, 1);
    attention.plan(batch);
    for (const stream of streams) attention.run({ q, k, v, out: outs[i], stream });
  }
  await second.done();
  await device.stream.done();
  outs.forEach((out, i) => expect(out.toBytes()).toEqual(expected[i]));
});

test("64-bit indices are narrowed on the stream of the run", async () => {
  await using device = await Device.open("cpu", { threads: 2 });
  const second = device.createStream("second");
  using attention = Attention.createSync(device, { ...shape, causal: true });
  const layout = pagesLayout(4, Int32Array.of(0, 1), Int32Array.of(0), Int32Array.of(12));
  const batch = createBatch({ queryLengths: [1], kvLengths: [12], layout });
  const noise = (dims: number[], seed: number) =>
    Tensor.randomNormal(device, dims, "f32", { seed });
  const [q, k, v] = [noise([1, 4, 32], 1), noise([8, 4, 2, 32], 2), noise([8, 4, 2, 32], 3)];
  const columns = Tensor.from(device, [6, 1, 4], [3], "i64");
  const outs = [device.stream, second].map((stream) => {
    const out = Tensor.zeros(device, [1, 4, 32], "f32");
    const pageTable = Tensor.zeros(device, [3], "i64");
    device.stream.wait();
    const busy = new ProbeParams();
    busy.microseconds = 20_000;
    device.launch(stream, device.kernel("probe_spin"), busy, 1);
    pageTable.copyFrom(columns, stream);
    attention.plan(batch);
    attention.run({ q, k, v, out, pageTable, stream });
    return out;
  });
  await second.done();
  await device.stream.done();
  expect(outs[1].toBytes()).toEqual(outs[0].toBytes());
});

test("steps queued far ahead of the device give the bits of steps one by one", async () => {
  await using device = await Device.open("cpu", { threads: 2 });
  using attention = Attention.createSync(device, { ...shape, causal: true });
  const noise = (tokens: number, heads: number, seed: number) =>
    Tensor.randomNormal(device, [tokens, heads, 32], "f32", { seed });
  const [q, k, v] = [noise(64, 4, 1), noise(900, 2, 2), noise(900, 2, 3)];
  const cases = Array.from({ length: 12 }, (_, i) => ragged(1 + ((i * 29) % 64), 900 - 67 * i));
  const run = (batch: (typeof cases)[number]) => {
    const out = Tensor.zeros(device, [64, 4, 32], "f32");
    attention.plan(batch);
    // Planned once more, and in the end not run: what is queued stays as it is.
    attention.plan(cases[0]);
    attention.plan(batch);
    attention.run({ q, k, v, out });
    return out;
  };
  const expected = cases.map((batch) => run(batch).toBytes());
  const busy = new ProbeParams();
  busy.microseconds = 3000;
  device.launch(device.stream, device.kernel("probe_spin"), busy, 1);
  const outs = cases.map(run);
  attention.plan(cases[0]);
  await device.stream.done();
  outs.forEach((out, i) => expect(out.toBytes()).toEqual(expected[i]));
});

test("a layer whose pages a window freed refuses attention that looks further back", async () => {
  await using device = await Device.open("cpu", { threads: 1 });
  const groups = [{ layers: [0], pages: 8, windowLeft: 16 }];
  const options = { ...shape, layers: 1, pages: 8, pageSize: 4, groups };
  using cache = PagedCache.create(device, options);
  const batch = cache.reserve([cache.sequence()], [1]);
  if (!batch.ok) throw batch.error;
  using q = Tensor.zeros(device, [1, 4, 32], "f32");
  using out = Tensor.zeros(device, [1, 4, 32], "f32");
  for (const windowLeft of [-1, 17]) {
    using attention = Attention.createSync(device, { ...shape, windowLeft });
    attention.plan(batch);
    expect(() => attention.run({ layer: 0, q, cache, out })).toThrow(
      "windowLeft must be at most 16",
    );
  }
});

test("options that do not go together are refused", async () => {
  await using device = await Device.open("cpu", { threads: 1 });
  const create = () =>
    Attention.createSync(device, { ...shape, deviceLengths: true, mask: "tail" });
  expect(create).toThrow("mask must be");
  expect(() => Tensor.randomNormal(device, [4], "i32", { seed: 1 })).toThrow(
    "dtype must be a float",
  );
});
