import { describe, expect, test } from "bun:test";
import { readRate } from "../../src/device/probe.ts";
import { copyRows } from "../../src/ops/copy-rows.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { deviceTargets } from "../support/targets.ts";

describe.each(await deviceTargets())("on $name", (target) => {
  test("rows are gathered by index, and -1 gives zeros", async () => {
    await using device = await target.open(2);
    const rows = Array.from({ length: 5 * 6 }, (_, i) => i);
    using source = Tensor.from(device, rows, [5, 2, 3], "bf16");
    const picked = Array.from({ length: 130 }, (_, i) => (i % 6) - 1);
    using indices = Tensor.from(device, picked, [130], "i32");
    using out = Tensor.from(device, new Array(131 * 6).fill(99), [131, 2, 3], "bf16");
    copyRows(device.stream, source, indices.address, out, 130);
    const expected = picked.flatMap((row) =>
      row < 0 ? new Array(6).fill(0) : rows.slice(row * 6, row * 6 + 6),
    );
    expect([...out.toFloat64Array()]).toEqual([...expected, ...new Array(6).fill(99)]);
  });

  test("the read probe finds a rate that a machine can have", async () => {
    await using device = await target.open(1);
    const rate = await readRate(device, 1 << 22);
    expect(rate).toBeGreaterThan(0.05);
    expect(rate).toBeLessThan(10_000);
  });
});
