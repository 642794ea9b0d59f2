import { describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { Module } from "../../src/device/kernel.ts";
import { KernelCache } from "../../src/device/kernel-cache.ts";
import { jitTarget } from "../../src/device/operators.ts";
import { ProbeParams } from "../../src/ffi/params.gen.ts";
import { imageSync } from "../../src/jit/image.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { gpuTarget } from "../support/targets.ts";

const gpu = gpuTarget();
/** As many as the cache keeps. */
const keptMost = 128;

/** Lets forgotten objects go. */
async function collect(): Promise<void> {
  for (let i = 0; i < 3; i++) {
    Bun.gc(true);
    await Bun.sleep(1);
  }
}

describe.skipIf(gpu === undefined)(`loaded kernels on ${gpu?.name}`, () => {
  /** A copy of the kernel by another name, as of another variant. */
  function loaded(device: Device, cache: KernelCache, name: string) {
    const { bytes } = imageSync({ source: "probe/probe.cu", constants: {} }, jitTarget(device));
    return cache.get(name, () =>
      new Module(device, bytes, name).kernel("probe_read", { threads: 256 }),
    );
  }

  const readOf = (data: Tensor, out: Tensor) => {
    const params = new ProbeParams();
    params.data = data.address;
    params.bytes = data.elements;
    params.out = out.address;
    params.iterations = 1;
    return params;
  };

  test("those used last stay, and those that a graph or a queue still runs", async () => {
    await using device = await gpu!.open(1);
    const cache = new KernelCache();
    using data = Tensor.from(
      device,
      Uint8Array.from({ length: 65536 }, (_, i) => i),
      [65536],
      "u8",
    );
    using sums = Tensor.zeros(device, [2], "f32");
    const params = readOf(data, sums);
    using graph = device.capture(device.stream, () => {
      device.launch(device.stream, loaded(device, cache, "of the graph"), params, 1);
    });
    graph.replay(device.stream);
    const wanted = sums.toBytes();
    expect(wanted.some((byte) => byte !== 0)).toBe(true);
    // A launch that is still queued when its kernel is forgotten.
    const spin = new ProbeParams();
    spin.microseconds = 50_000;
    device.launch(device.stream, device.kernel("probe_spin"), spin, 1);
    device.launch(device.stream, loaded(device, cache, "queued"), params, 1);
    for (let i = 0; i < 2 * keptMost; i++) loaded(device, cache, `variant ${i}`);
    await collect();
    await device.stream.done();
    // The next use sees which are gone.
    const last = loaded(device, cache, `variant ${2 * keptMost - 1}`);
    expect(cache.size).toBe(keptMost + 1);
    expect(loaded(device, cache, `variant ${2 * keptMost - 1}`)).toBe(last);
    sums.copyFrom(Tensor.zeros(device, [2], "f32"));
    graph.replay(device.stream);
    expect(sums.toBytes()).toEqual(wanted);
    graph[Symbol.dispose]();
    await collect();
    expect(loaded(device, cache, `variant ${2 * keptMost - 1}`)).toBe(last);
    expect(cache.size).toBe(keptMost);
    expect(device.failure()).toBeUndefined();
  });
});
