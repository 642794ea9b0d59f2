import { describe, expect, spyOn, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import { Module } from "../../src/device/kernel.ts";
import { OptionError } from "../../src/errors.ts";
import { operatorKernels, operatorsOf } from "../../src/jit/operators.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { gpuTarget } from "../support/targets.ts";

/** Threads of a block and rows of an item that are known to run well. */
const known: Record<string, [source: string, threads: number, itemRows: number]> = {
  append: ["page/page.cu", 128, 4],
  convert: ["tensor/tensor.cu", 256, 4096],
  copy_tokens: ["page/page.cu", 256, 1],
  fill: ["tensor/tensor.cu", 256, 4096],
  gather_rows: ["gather/gather.cu", 256, 4],
  merge_states: ["states/states.cu", 128, 8],
  probe_fma: ["probe/probe.cu", 256, 1],
  probe_read: ["probe/probe.cu", 256, 1],
  probe_spin: ["probe/probe.cu", 32, 1],
  random_normal: ["tensor/tensor.cu", 256, 4096],
  table_update: ["page/page.cu", 256, 1],
};

describe("the table of operators", () => {
  test("is read from their sources", () => {
    const table = operatorKernels();
    for (const [name, [source, threads, itemRows]] of Object.entries(known))
      expect(table.get(name)).toEqual({
        name,
        entry: name,
        source,
        threads,
        itemRows,
        programmatic: true,
      });
  });

  test("takes numbers, constants and lines that are broken", () => {
    const text = [
      "constexpr int some_rows = 12;",
      "FB_OPERATOR(first, fb_params, 64, 8, some_rows) {",
      "FB_OPERATOR(second, fb_params,",
      "            32, 1, 1) {",
      "FB_OPERATOR(third, fb_params, 32, 1, 1, 8) {",
      "FB_OPERATOR(fourth, fb_params, 32, 1, 1, 2, 4096) {",
      "FB_SPLIT_OPERATOR(fifth, fb_params, 32, 1, 1, 2, 4096) {",
      "// FB_OPERATOR(none, fb_params, 1, 1, 1)",
    ].join("\n");
    const facts = { source: "a.cu", threads: 32, itemRows: 1, programmatic: true } as const;
    const resident = { sharedBytes: 4096, processorBlocks: 1, persistent: true };
    expect(operatorsOf("a.cu", text)).toEqual([
      { name: "first", entry: "first", ...facts, threads: 64, itemRows: 12 },
      { name: "second", entry: "second", ...facts },
      { name: "third", entry: "third", ...facts, cluster: 8 },
      { name: "fourth", entry: "fourth", ...facts, cluster: 2, ...resident },
      { name: "fifth_x1", entry: "fifth", ...facts, cluster: 1, ...resident },
      { name: "fifth_x2", entry: "fifth", ...facts, cluster: 2, ...resident },
    ]);
  });

  test("takes a constant of what the source includes", () => {
    const line = "FB_OPERATOR(some, fb_params, 32, 1, rows) {";
    const included = () => `constexpr int rows = 7;\n${line}`;
    expect(operatorsOf("a.cu", line, included)[0].itemRows).toBe(7);
  });

  test.each(["x, P, unknown, 1, 1", "x, P, 32, 1", "x, P, 32, 1, 0", "x, P, 32, 1, 2 * 2", ""])(
    "refuses FB_OPERATOR(%s)",
    (list) => {
      expect(() => operatorsOf("a.cu", `FB_OPERATOR(${list}) {`)).toThrow(OptionError);
    },
  );
});

const gpu = gpuTarget();

describe.skipIf(gpu === undefined)(`operators on ${gpu?.name}`, () => {
  test("a device opens without a kernel; the first use loads those of its source", async () => {
    using loaded = spyOn(Module.prototype, "kernel");
    await using device: Device = await gpu!.open(1);
    expect(loaded).not.toHaveBeenCalled();
    using noise = Tensor.randomNormal(device, [8], "f32", { seed: 1 });
    noise.to("bf16")[Symbol.dispose]();
    const names = loaded.mock.calls.map(([name]) => name).sort();
    // Those that NVRTC compiles come alone.
    const ways = ["convert, fill, random_normal", "convert, random_normal"];
    expect(ways.slice(0, device.properties.emulated ? 1 : 2)).toContain(names.join(", "));
  }, 300_000);

  test("a kernel may be used first within a capture", async () => {
    await using device: Device = await gpu!.open(1);
    const { stream } = device;
    using source = Tensor.from(device, [1, 2, 3], [3], "f32");
    using target = Tensor.empty(device, [3], "bf16");
    using graph = device.capture(stream, () => target.copyFrom(source, stream));
    graph.replay(stream);
    await stream.done();
    expect([...target.toFloat64Array()]).toEqual([1, 2, 3]);
  }, 300_000);

  test("the CPU has a kernel of the same name and parameters for each", async () => {
    await using device: Device = await gpu!.open(1);
    await using cpu = await Device.open("cpu", { threads: 1 });
    // Those that are passed tensor maps are of GPUs alone.
    const names = [...operatorKernels().values()]
      .filter(({ sharedBytes }) => sharedBytes === undefined)
      .map(({ name }) => name);
    // Those that differ by the rows that they take, or by the blocks of a row, have one there.
    const twinOf = (name: string) =>
      name
        .replace(/^matmul_.*/, "matmul")
        .replace(/^sample_.*/, "sample_rows")
        .replace(/_cluster$/, "")
        .replace(/even_[a-z]+$/, "long")
        .replace(/_even$/, "");
    const paramsOf = (on: Device, nameOf: (name: string) => string) =>
      names.map((name) => [name, on.kernel(nameOf(name)).paramsBytes]);
    expect(paramsOf(cpu, twinOf)).toEqual(paramsOf(device, (name) => name));
  }, 300_000);

  test("what no source has is no kernel", async () => {
    await using device: Device = await gpu!.open(1);
    expect(() => device.kernel("attention_merge")).toThrow("no kernel is named attention_merge");
  });
});
