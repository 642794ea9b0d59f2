import { describe, expect, test } from "bun:test";
import { gatherRows, scatterRows } from "../../src/ops/gather.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { normals } from "../support/numbers.ts";
import { forSeeds } from "../support/random.ts";
import {
  expectClose,
  expectGapsKept,
  expectRefused,
  free,
  onesOn,
  spaced,
} from "../support/rows.ts";
import { targetsHere } from "../support/targets.ts";

const types = ["f32", "f16", "bf16", "f8e4m3", "f8e5m2", "i8"] as const;
const dims = [1, 8, 33, 576, 1024, 1025, 2048, 8200];

describe.each(await targetsHere())("on $name", (target) => {
  test("rows are gathered and scattered by index; those that name none are zeros, or left out", async () => {
    await using device = await target.open(2);
    forSeeds(30, (random) => {
      const dtype = random.pick(types);
      const outDtype = random.chance(0.5) ? dtype : random.pick(["f32", "bf16"] as const);
      const dim = random.seed <= dims.length ? dims[random.seed - 1] : random.integer(1, 1500);
      const [rows, count] = [random.integer(1, 9), random.integer(0, 20)];
      const gap = random.integer(0, 9);
      const factor = random.pick([1, 24]);
      const at = JSON.stringify({ dtype, outDtype, dim, rows, count, gap, factor });
      const table = normals(random, rows * dim, dtype);
      const source = spaced(device, table, [rows, dim], dtype, gap);
      const picked = Array.from({ length: count }, () => random.integer(-2, rows + 1));
      using indices = Tensor.from(device, picked, [count], "i32");
      const wanted = new Float64Array(count * dim);
      picked.forEach((row, i) => {
        if (row < 0 || row >= rows) return;
        wanted.set(table.subarray(row * dim, (row + 1) * dim), i * dim);
      });
      using gathered = gatherRows(source.view, indices, { factor, dtype: outDtype });
      const scaled = wanted.map((x) => x * factor);
      expectClose(gathered.toFloat64Array(), scaled, outDtype, at);

      // Back to other places, each once.
      const places = Array.from({ length: rows + 3 }, (_, i) => i).sort(() => random.next() - 0.5);
      const targets = places.slice(0, rows).map((place) => (place === rows + 2 ? -1 : place));
      targets[0] = random.pick([targets[0], rows + 2]);
      using where = Tensor.from(device, targets, [rows], "i32");
      const before = new Float64Array((rows + 2) * dim).fill(3);
      const into = spaced(device, before, [rows + 2, dim], outDtype, gap);
      expect(scatterRows(source.view, where, into.view)).toBe(into.view);
      targets.forEach((row, i) => {
        if (row < 0 || row >= rows + 2) return;
        before.set(table.subarray(i * dim, (i + 1) * dim), row * dim);
      });
      expectClose(into.view.toFloat64Array(), before, outDtype, at);
      expectGapsKept(into);
      free(source, into);
    });
  });

  test.each(["f8e4m3", "f8e5m2", "i8"] as const)("all codes of %s are copied", async (dtype) => {
    await using device = await target.open(1);
    const codes = Uint8Array.from({ length: 512 }, (_, i) => i);
    using source = Tensor.fromBits(device, codes, [2, 256], dtype);
    using indices = Tensor.from(device, [1, 0], [2], "i32");
    expect(gatherRows(source, indices).toBytes()).toEqual(codes);
    using into = Tensor.zeros(device, [2, 256], dtype);
    expect(scatterRows(source, indices, into).toBytes()).toEqual(codes);
  });

  test("a count of the device says how many, also in a graph", async () => {
    await using device = await target.open(1);
    using source = Tensor.from(device, [1, 2, 3, 4], [2, 2], "bf16");
    using indices = Tensor.from(device, [1, 0, 1], [3], "i32");
    using rowCount = Tensor.from(device, [2], [1], "i32");
    using out = Tensor.from(device, [9, 9, 9, 9, 9, 9], [3, 2], "bf16");
    const options = { out, rowCount };
    using graph = device.capture(device.stream, () => gatherRows(source, indices, options));
    graph.replay(device.stream);
    expect([...out.toFloat64Array()]).toEqual([3, 4, 1, 2, 9, 9]);
    using one = Tensor.from(device, [1], [1], "i32");
    scatterRows(source, indices.slice(0, 0, 2), out, { rowCount: one });
    expect([...out.toFloat64Array()]).toEqual([3, 4, 1, 2, 9, 9]);
  });
});

test.each(await targetsHere())(
  "bad input is refused by name, and nothing is written, on $name",
  async (target) => {
    await using device = await target.open(1);
    const ones = onesOn(device);
    const x = ones([3, 8]);
    const ids = ones([3], "i32");
    const none = undefined as unknown as Tensor;
    expectRefused([
      ["source", () => gatherRows(ones([8]), ids)],
      ["source", () => gatherRows(ones([3, 8], "i32"), ids)],
      ["indices", () => gatherRows(x, none)],
      ["indices", () => gatherRows(x, ones([3]))],
      ["indices", () => gatherRows(x, ones([3, 1], "i32"))],
      ["factor", () => gatherRows(x, ids, { factor: Infinity })],
      ["out", () => gatherRows(x, ids, { out: x })],
      ["out", () => gatherRows(x, ids, { out: ones([2, 8]) })],
      ["scale", () => gatherRows(x, ids, { scale: ones([1]) })],
      ["indices", () => scatterRows(x, ones([2], "i32"), ones([3, 8]))],
      ["out", () => scatterRows(x, ids, ones([3, 7]))],
      ["out", () => scatterRows(x, ids, x)],
      ["out", () => scatterRows(x, ids, none)],
      ["rowCount", () => scatterRows(x, ids, ones([3, 8]), { rowCount: ones([1]) })],
    ]);
    for (const tensor of [x, ids])
      expect(tensor.toFloat64Array().every((value) => value === 1)).toBe(true);
  },
);
