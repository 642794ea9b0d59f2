import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Attention } from "../../src/attention/attention.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import { Device } from "../../src/device/device.ts";
import { PinnedRing } from "../../src/device/ring.ts";
import { Stream } from "../../src/device/stream.ts";
import { DisposedError, OptionError, OutOfMemoryError } from "../../src/errors.ts";
import { ProbeParams } from "../../src/ffi/params.gen.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { runBun } from "../support/run.ts";
import { gpuTarget } from "../support/targets.ts";
import { root } from "../support/zig.ts";

const target = gpuTarget();
const source = join(root, "src/index.ts");

/** Runs a script in a process of its own; `$` in it means the library's names. */
function script(text: string, env: Record<string, string> = {}) {
  const whole = `const $ = await import(${JSON.stringify(source)});
    try { ${text} } catch (error) { process.stdout.write(error.name + " " + error.message); }`;
  return runBun(["-e", whole], { env: { FLASHBUN_SYNC: "", FLASHBUN_TRACE: "", ...env } });
}

describe("without a driver", () => {
  const env = { FLASHBUN_LIBCUDA: join(root, "no-such-libcuda.so") };

  test("a GPU asked for by name is a typed error that says what was looked for", async () => {
    const { stdout } = await script(`await $.Device.open("cuda:0")`, env);
    expect(stdout).toMatch(
      /^DriverError cuda:0: .*no-such-libcuda\.so.* Fix: take cpu, or a machine /,
    );
  });

  test("auto takes the CPU and says why", async () => {
    const open = `const device = await $.Device.open("auto"); process.stdout.write(device.why);`;
    const { stdout } = await script(open, env);
    expect(stdout).toContain("no-such-libcuda.so");
  });

  test("a library that is no driver is refused", async () => {
    const wrong = { FLASHBUN_LIBCUDA: join(root, "zig-out/lib/libflashbun.so") };
    const { stdout } = await script(`await $.Device.open("cuda:0")`, wrong);
    expect(stdout).toMatch(/^DriverError .*is no CUDA driver/);
  });
});

describe.if(target !== undefined)(`faults on ${target?.name}`, () => {
  let device: Device;
  const shape = { queryHeads: 4, kvHeads: 2, headDim: 64, dtype: "bf16" } as const;
  beforeAll(async () => {
    device = await target!.open(1);
  });
  afterAll(() => device[Symbol.asyncDispose]());

  test("options of the CPU, GPUs that are not there and f32 are refused by name", async () => {
    expect(Device.open("cuda:0", { threads: 2 })).rejects.toThrow(/^threads must be left out/);
    expect(Device.open("cuda:99")).rejects.toThrow(/^kind must be below/);
    const f32 = { ...shape, dtype: "f32" } as const;
    expect(Attention.create(device, f32)).rejects.toThrow(/^dtype must be f16, bf16/);
    const mixed = { ...shape, kvDtype: "f16" } as const;
    expect(Attention.create(device, mixed)).rejects.toThrow(/^kvDtype must be bf16/);
  });

  test("outputs whose rows begin where a merge cannot write four elements", () => {
    using attention = Attention.createSync(device, shape);
    const layout = raggedLayout([0, 1], [0, 1]);
    attention.plan(createBatch({ queryLengths: [1], kvLengths: [1], layout }));
    using q = Tensor.zeros(device, [1, 4, 64], "bf16");
    using k = Tensor.zeros(device, [1, 2, 64], "bf16");
    using wide = Tensor.zeros(device, [1, 4, 68], "bf16");
    attention.run({ q, k, v: k, out: wide.slice(2, 4, 68) });
    const run = () => attention.run({ q, k, v: k, out: wide.slice(2, 2, 66) });
    expect(run).toThrow(/^out must be rows at multiples of 8 bytes/);
  });

  test("memory of the GPU is not the host's", () => {
    using memory = device.alloc(64, "test");
    expect(() => memory.hostBytes()).toThrow(OptionError);
    using pinned = device.alloc(64, "test", true);
    expect(pinned.hostBytes().byteLength).toBe(64);
  });

  test("out of memory changes nothing: a smaller request works", async () => {
    await using small = await Device.open("cuda:0", { memoryLimitBytes: 64 << 20 });
    const used = small.memoryStats().usedBytes;
    expect(() => small.alloc(80 << 20, "too much")).toThrow(OutOfMemoryError);
    expect(() =>
      PagedCache.create(small, { ...shape, layers: 8, pages: 1 << 14, pageSize: 16 }),
    ).toThrow(OutOfMemoryError);
    await small.stream.done();
    expect(small.memoryStats().usedBytes).toBe(used);
    using fits = small.alloc(1 << 20, "fits");
    small.stream.fill(fits.address, 1, 64);
    await small.stream.done();
  });

  test("tensors of two devices do not mix", async () => {
    await using cpu = await Device.open("cpu", { threads: 1 });
    using attention = await Attention.create(device, shape);
    using cache = PagedCache.create(device, { ...shape, layers: 1, pages: 4, pageSize: 16 });
    const batch = cache.reserve([cache.sequence()], [1]);
    if (!batch.ok) throw batch.error;
    attention.plan(batch);
    const make = (where: Device, heads: number) => Tensor.zeros(where, [1, heads, 64], "bf16");
    const [q, out, far] = [make(device, 4), make(device, 4), make(cpu, 4)];
    expect(() => attention.run({ q: far, out, cache })).toThrow(/^q must be on cuda:0/);
    expect(() => attention.run({ q, out: far, cache })).toThrow(/^out must be on cuda:0/);
    const k = make(device, 2);
    expect(() => cache.append({ layer: 0, batch, k: make(cpu, 2), v: k })).toThrow(/must be on/);
    expect(() => device.launch(cpu.stream, device.kernel("append"), new ProbeParams(), 1)).toThrow(
      OptionError,
    );
  });

  test("a graph throws before anything is launched once a captured tensor is gone", async () => {
    const [a, b] = [Tensor.zeros(device, [64], "f32"), Tensor.zeros(device, [64], "f32")];
    await device.stream.done();
    using graph = device.capture(device.stream, () => a.copyFrom(b));
    graph.replay(device.stream);
    await device.stream.done();
    b[Symbol.dispose]();
    expect(() => graph.replay(device.stream)).toThrow(DisposedError);
    device.stream.wait();
  });

  test("a graph takes over another capture", async () => {
    using memory = device.alloc(4, "test");
    const filling = (byte: number) =>
      device.capture(device.stream, () => device.stream.fill(memory.address, byte, 4));
    using graph = filling(1);
    graph.update(filling(2));
    graph.replay(device.stream);
    expect([...device.download(memory.address, 4)]).toEqual([2, 2, 2, 2]);
    expect(() => graph.update(graph)).toThrow(OptionError);
  });

  test("the host may plan far ahead of a slow stream", () => {
    using ring = new PinnedRing(device, "test ring");
    using memory = device.alloc(64 * 4, "ring target");
    const params = new ProbeParams();
    params.microseconds = 500;
    for (let step = 0; step < 64; step++) {
      const slot = ring.take(1);
      slot.i32[0] = step + 1;
      device.launch(device.stream, device.kernel("probe_spin"), params, 1);
      ring.upload(device.stream, memory.address + 4 * step, 1);
    }
    const seen = new Int32Array(device.download(memory.address, 256).buffer);
    expect([...seen]).toEqual(Array.from({ length: 64 }, (_, step) => step + 1));
  });

  test("a foreign stream is wrapped, a wrong handle refused", () => {
    expect(() => Stream.wrap(device, -1)).toThrow(OptionError);
  });

  test("FLASHBUN_SYNC names the kernel that failed and the device stays poisoned", async () => {
    const fail = `const device = await $.Device.open("cuda:0");
      const { ProbeParams } = await import(${JSON.stringify(join(root, "src/ffi/params.gen.ts"))});
      const params = new ProbeParams(); params.fail = 1;
      const launch = () => device.launch(device.stream, device.kernel("probe_spin"), params, 1);
      try { launch(); device.stream.wait(); } catch (error) {
        process.stdout.write(error.name + " " + error.message + "\\n");
      }
      launch();`;
    const { stdout } = await script(fail, { FLASHBUN_SYNC: "1" });
    const [first, later] = stdout.split("\n");
    expect(first).toMatch(/^CudaError .*CUDA_ERROR_\w+.*probe_spin/);
    expect(later).toMatch(/probe_spin/);
  });

  test("FLASHBUN_TRACE writes the launches with their times", async () => {
    const path = join(tmpdir(), `flashbun-trace-${process.pid}.json`);
    const work = `{ await using device = await $.Device.open("cuda:0");
      $.Tensor.randomNormal(device, [1000], "f32", { seed: 1 });
      await device.stream.done(); }`;
    try {
      expect((await script(work, { FLASHBUN_TRACE: path })).stdout).toBe("");
      const { traceEvents } = JSON.parse(readFileSync(path, "utf8")) as {
        traceEvents: { name: string; dur: number }[];
      };
      expect(traceEvents.map(({ name }) => name)).toEqual(["random_normal"]);
      expect(traceEvents[0].dur).toBeGreaterThanOrEqual(0);
    } finally {
      rmSync(path, { force: true });
    }
  });
});
