import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import type { Launch } from "../../src/device/launch.ts";
import { DeviceError, DisposedError, OptionError } from "../../src/errors.ts";
import { ProbeParams } from "../../src/ffi/params.gen.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { deviceTargets } from "../support/targets.ts";

describe.each(await deviceTargets())("launches: $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(() => device[Symbol.asyncDispose]());

  /** What an observer sees of each launch, in order, while `body` runs. */
  function seen(body: () => void): string[] {
    const list: string[] = [];
    const write = (when: string) => (launch: Launch) =>
      list.push(
        `${when} ${launch.name} ${launch.grid} ${launch.kernel?.name} on ${launch.stream.label}`,
      );
    using _ = device.observe({ launching: write("before"), launched: write("after") });
    body();
    return list;
  }

  function spin(grid = 1) {
    const params = new ProbeParams();
    params.microseconds = 1;
    device.launch(device.stream, device.kernel("probe_spin"), params, grid);
  }

  test("an observer sees every launch and replay, before and after, until it is disposed", () => {
    using graph = device.capture(device.stream, () => spin(3), "two spins");
    const list = seen(() => {
      spin(2);
      graph.replay(device.stream);
    });
    expect(list).toEqual([
      "before probe_spin 2 probe_spin on default stream",
      "after probe_spin 2 probe_spin on default stream",
      "before two spins 1 undefined on default stream",
      "after two spins 1 undefined on default stream",
    ]);
    spin();
    expect(list).toHaveLength(4);
    device.stream.wait();
  });

  test("observers see in the order they came, and each ends alone", () => {
    const list: string[] = [];
    const first = device.observe({ launched: () => list.push("first") });
    const second = device.observe({ launched: () => list.push("second") });
    spin();
    first[Symbol.dispose]();
    spin();
    second[Symbol.dispose]();
    spin();
    expect(list).toEqual(["first", "second", "second"]);
    device.stream.wait();
  });

  test("a launch that is refused was never launched", () => {
    expect(seen(() => expect(() => spin(-1)).toThrow(DeviceError))).toEqual([
      "before probe_spin -1 probe_spin on default stream",
    ]);
    for (const grid of [NaN, 0.5, 2 ** 31, null as unknown as number])
      expect(seen(() => expect(() => spin(grid)).toThrow(OptionError))).toHaveLength(1);
  });

  test("a recording knows nothing of itself, checks nothing and keeps what it freed", () => {
    const memory = device.alloc(4, "recorded");
    const flags: boolean[] = [];
    using graph = device.captures.record(
      device.stream,
      () => {
        using source = device.alloc(4, "source");
        device.stream.fill(source.address, 6, 4);
        device.stream.copy(memory.address, source.address, 4);
        flags.push(device.capturing, device.captures.busy);
        device.needOnReplay(memory);
        expect(() => device.capture(device.stream, () => {})).toThrow("a capture runs already");
      },
      "recording",
    );
    expect(flags).toEqual([false, true]);
    expect(device.captures.busy).toBe(false);
    const others = Array.from({ length: 8 }, () => device.alloc(4, "other"));
    for (const other of others) device.stream.fill(other.address, 1, 4);
    graph.replay(device.stream);
    expect([...device.download(memory.address, 4)]).toEqual([6, 6, 6, 6]);
    for (const other of others)
      expect([...device.download(other.address, 4)]).toEqual([1, 1, 1, 1]);
  });

  test("checks of a capture run once per key, and name what is gone", () => {
    const source = Tensor.zeros(device, [4], "f32");
    const target = Tensor.zeros(device, [4], "f32");
    let checks = 0;
    using graph = device.capture(device.stream, () => {
      target.copyFrom(source);
      for (let i = 0; i < 3; i++) device.onReplay(source.storage, () => checks++);
    });
    graph.replay(device.stream);
    expect(checks).toBe(1);
    source[Symbol.dispose]();
    expect(seen(() => expect(() => graph.replay(device.stream)).toThrow(DisposedError))).toEqual(
      [],
    );
    device.stream.wait();
  });

  test("a stream of another device is not captured", async () => {
    await using other = await Device.open("cpu", { threads: 1 });
    const capture = () => device.capture(other.stream, () => {});
    expect(capture).toThrow(OptionError);
    expect(capture).toThrow("stream must be a stream of");
    expect(device.captures.busy).toBe(false);
  });

  test("a graph that takes over another gives back what it held", () => {
    const heldBytes = () =>
      device.memoryStats().owners.find(({ label }) => label === "held")?.bytes ?? 0;
    const capture = () =>
      device.capture(device.stream, () => {
        using held = device.alloc(64, "held");
        device.stream.fill(held.address, 1, 64);
      });
    using graph = capture();
    for (let i = 0; i < 3; i++) graph.update(capture());
    expect(heldBytes()).toBe(64);
    graph.replay(device.stream);
    device.stream.wait();
    graph[Symbol.dispose]();
    expect(heldBytes()).toBe(0);
  });

  test("memory of no bytes reads as nothing", () => {
    using memory = device.alloc(0, "nothing", true);
    expect(memory.hostBytes().byteLength).toBe(0);
    expect(device.download(memory.address, 0)).toEqual(new Uint8Array(0));
  });

  test("addresses from outside are checked before they are read", () => {
    for (const address of [0, -1, NaN, 0.5]) {
      expect(() => device.download(address, 4)).toThrow(/^source must be/);
      expect(() => device.upload(address, new Uint8Array(4))).toThrow(/^target must be/);
    }
  });
});
