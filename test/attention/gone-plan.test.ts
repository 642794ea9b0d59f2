import { expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { Device } from "../../src/device/device.ts";
import { DisposedError } from "../../src/errors.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import { drawPlan } from "../../src/plan/draw.ts";
import { Tensor } from "../../src/tensor/tensor.ts";

test.each(["attention", "device"])(
  "a plan is not read once its %s is gone: the memory that it lies in went with it",
  async (gone) => {
    const device = await Device.open("cpu", { threads: 1 });
    const shape = { queryHeads: 2, kvHeads: 2, headDim: 16, dtype: "f32" } as const;
    const attention = Attention.createSync(device, shape);
    const layout = raggedLayout([0, 2], [0, 2]);
    const batch = createBatch({ queryLengths: [2], kvLengths: [2], layout });
    const x = Tensor.zeros(device, [2, 2, 16], "f32");
    const out = Tensor.zeros(device, [2, 2, 16], "f32");
    // From the second upload on, plans are written where the upload copies from.
    for (let step = 0; step < 8; step++) {
      attention.plan(batch);
      attention.run({ q: x, k: x, v: x, out });
      device.stream.wait();
    }
    const plan = attention.lastPlan!;
    expect(drawPlan(plan, { processors: 1 })).toContain("<svg");
    if (gone === "device") device[Symbol.dispose]();
    else attention[Symbol.dispose]();
    expect(() => drawPlan(plan, { processors: 1 })).toThrow(DisposedError);
    expect(Bun.inspect(plan)).toContain("Plan: ");
    device[Symbol.dispose]();
  },
);
