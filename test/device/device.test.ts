import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { totalmem } from "node:os";
import { join } from "node:path";
import { Device } from "../../src/device/device.ts";
import type { Memory } from "../../src/device/memory.ts";
import { Stream } from "../../src/device/stream.ts";
import { DeviceError, DisposedError, OptionError, OutOfMemoryError } from "../../src/errors.ts";
import { ProbeParams, RandomParams } from "../../src/ffi/params.gen.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { whileBusy } from "../support/busy.ts";
import { forSeeds } from "../support/random.ts";
import { runBun } from "../support/run.ts";
import { deviceTargets } from "../support/targets.ts";
import { root } from "../support/zig.ts";

const targets = await deviceTargets();

/** The block's bytes, once the default stream is done. */
function bytesOf(device: Device, memory: Memory): number[] {
  return [...device.download(memory.address, memory.byteLength)];
}

function spin(device: Device, microseconds: number, grid = 1, stream = device.stream, fail = 0) {
  const params = new ProbeParams();
  params.microseconds = microseconds;
  params.fail = fail;
  device.launch(stream, device.kernel("probe_spin"), params, grid);
}

describe.each(targets)("a device: $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(() => device[Symbol.asyncDispose]());

  test("says what it is", () => {
    expect(device.kind).toBe(target.kind);
    expect(device.why).toBe("asked for by name");
    if (target.kind === "cpu") expect(device.processors).toBe(2);
    expect(device.name).toContain(target.kind === "cpu" ? "2 threads" : "multiprocessors");
  });

  test("runs a stream's work in order and tells when it is done", async () => {
    const memory = device.alloc(8, "test");
    device.stream.fill(memory.address, 1, 8);
    spin(device, 2000);
    device.stream.fill(memory.address, 2, 4);
    await device.stream.done();
    expect(bytesOf(device, memory)).toEqual([2, 2, 2, 2, 1, 1, 1, 1]);
    expect(device.stream.idle).toBe(true);
  });

  test("events order two streams and time a kernel", async () => {
    const second = device.createStream("second");
    const memory = device.alloc(4, "test");
    const [before, after] = [device.createEvent("before"), device.createEvent("after")];
    const behindWork = async (microseconds: number) => {
      device.stream.fill(memory.address, 0, 4);
      before.record(device.stream);
      spin(device, microseconds);
      device.stream.fill(memory.address, 7, 4);
      after.record(device.stream);
      const early = !after.reached;
      second.waitFor(after);
      using other = device.alloc(4, "test");
      second.copy(other.address, memory.address, 4);
      await second.done();
      expect(bytesOf(device, other)).toEqual([7, 7, 7, 7]);
      // The device's own clock: work never takes less than it spins for.
      expect(before.elapsedMs(after)).toBeGreaterThanOrEqual(microseconds / 1000);
      return early;
    };
    expect(await whileBusy(behindWork)).toBe(true);
    second[Symbol.dispose]();
    expect(() => second.wait()).toThrow(DisposedError);
  });

  test("done rejects with the reason of its signal", async () => {
    spin(device, 30_000);
    const reason = new Error("no more patience");
    const waiting = device.stream.done({ signal: AbortSignal.abort(reason) });
    expect(waiting).rejects.toBe(reason);
    const controller = new AbortController();
    const aborted = device.stream.done({ signal: controller.signal });
    controller.abort(reason);
    expect(aborted).rejects.toBe(reason);
    await device.stream.done();
  });

  test("a graph captures instead of running and replays what was captured", async () => {
    const memory = device.alloc(4, "test");
    device.stream.fill(memory.address, 0, 4);
    const graph = device.capture(device.stream, () => {
      device.stream.fill(memory.address, 5, 2);
      spin(device, 10);
    });
    await device.stream.done();
    expect(bytesOf(device, memory)).toEqual([0, 0, 0, 0]);
    graph.replay(device.stream);
    await device.stream.done();
    expect(bytesOf(device, memory)).toEqual([5, 5, 0, 0]);
    graph[Symbol.dispose]();
    expect(() => graph.replay(device.stream)).toThrow(DisposedError);
  });

  test("a capture refuses events and waits", () => {
    const event = device.createEvent();
    expect(() => device.capture(device.stream, () => event.record(device.stream))).toThrow(
      DeviceError,
    );
    expect(() => device.capture(device.stream, () => void device.stream.done())).toThrow();
    expect(device.capturing).toBe(false);
    device.stream.wait();
  });

  test("a stream disposed while busy finishes its work without blocking", async () => {
    const disposedEarly = async (microseconds: number) => {
      const busy = device.createStream("busy");
      using memory = device.alloc(4, "test");
      using filled = device.createEvent("filled");
      device.stream.fill(memory.address, 0, 4);
      await device.stream.done();
      spin(device, microseconds, 1, busy);
      busy.fill(memory.address, 3, 4);
      filled.record(busy);
      busy[Symbol.dispose]();
      const early = !filled.reached;
      device.stream.waitFor(filled);
      expect(bytesOf(device, memory)).toEqual([3, 3, 3, 3]);
      return early;
    };
    expect(await whileBusy(disposedEarly)).toBe(true);
  });

  test("a stream of another device is refused", async () => {
    await using other = await Device.open("cpu", { threads: 1 });
    expect(() => spin(device, 1, 1, other.stream)).toThrow("stream must be a stream of");
  });

  test("a frozen pool refuses allocations until it is thawed", () => {
    device.freezeMemory();
    expect(() => device.alloc(64, "late")).toThrow("frozen");
    device.freezeMemory(false);
    device.alloc(64, "late")[Symbol.dispose]();
  });

  test("freeing memory with queued work waits for the work", async () => {
    const queuedAndFreed = async (microseconds: number) => {
      const memory = device.alloc(1 << 20, "queued");
      const { address } = memory;
      spin(device, microseconds);
      device.stream.fill(address, 9, 1 << 20);
      memory[Symbol.dispose]();
      using other = device.alloc(1 << 20, "other");
      const early = !device.stream.idle;
      if (early) expect(other.address).not.toBe(address);
      await device.stream.done();
      expect(() => memory.hostBytes()).toThrow(DisposedError);
      memory[Symbol.dispose]();
      return early;
    };
    expect(await whileBusy(queuedAndFreed)).toBe(true);
  });

  test("launches with many items run each once", async () => {
    const params = new RandomParams();
    const kernel = device.kernel("random_normal");
    const count = kernel.itemRows * 9 + 17;
    using tensor = Tensor.zeros(device, [count], "f32");
    params.out = tensor.address;
    params.count = count;
    params.seed = 3;
    params.deviation = 1;
    device.launch(device.stream, kernel, params, 10);
    const values = tensor.toFloat64Array();
    let sum = 0;
    for (const value of values) sum += value * value;
    expect(sum / count).toBeCloseTo(1, 1);
    using again = Tensor.randomNormal(device, [1000], "f32", { seed: 3 });
    expect(again.toFloat64Array()).toEqual(values.slice(0, 1000));
  });

  test("random streams, events and copies agree with a sequential model", async () => {
    const streams = [device.stream, device.createStream("b"), device.createStream("c")];
    forSeeds(30, (random) => {
      const memory = device.alloc(64, "model");
      device.stream.fill(memory.address, 0, 64);
      const model = new Uint8Array(64);
      let last = device.stream;
      for (let step = 0; step < 40; step++) {
        const stream = random.pick(streams);
        if (stream !== last) {
          using event = device.createEvent();
          event.record(last);
          stream.waitFor(event);
          last = stream;
        }
        const [target, value, length] = [random.integer(0, 31), step + 1, random.integer(1, 32)];
        if (random.chance(0.2)) spin(device, random.integer(1, 200), 2, stream);
        stream.fill(memory.address + target, value, length);
        model.fill(value, target, target + length);
      }
      last.wait();
      expect(bytesOf(device, memory)).toEqual([...model]);
      memory[Symbol.dispose]();
    });
  });

  test("a wrong kernel name or a struct too small for the kernel is a typed error", () => {
    expect(() => device.kernel("no_such_kernel")).toThrow("no kernel is named no_such_kernel");
    const kernel = device.kernel("append");
    const launch = () => device.launch(device.stream, kernel, new RandomParams(), 1);
    expect(launch).toThrow(OptionError);
    expect(launch).toThrow(/^params must be \d+ bytes or more, as append reads/);
  });
});

test("bad options of Device.open name the option", async () => {
  expect(Device.open("cpu", { threads: 0 })).rejects.toThrow("threads must be");
  expect(Device.open("cpu", { threads: NaN })).rejects.toThrow(OptionError);
  expect(Device.open("cpu", { level: "v9" as never })).rejects.toThrow("level must be one of");
  expect(Device.open("cpu", { thread: 4 } as never)).rejects.toThrow("options.thread must be");
  expect(Device.open("cuda:first" as never)).rejects.toThrow("kind must be");
  process.env["FLASHBUN_THREADS"] = "many";
  try {
    expect(Device.open("cpu")).rejects.toThrow("FLASHBUN_THREADS must be");
  } finally {
    delete process.env["FLASHBUN_THREADS"];
  }
});

test.each(targets)(
  "out of memory names what was asked and who holds it: $name",
  async ({ kind }) => {
    const options = { memoryLimitBytes: 1 << 20 };
    await using device = await Device.open(kind === "cpu" ? "cpu" : "cuda:0", options);
    using held = device.alloc(900_000, "the large one");
    try {
      device.alloc(500_000, "one more");
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(OutOfMemoryError);
      expect((error as OutOfMemoryError).askedBytes).toBe(500_000);
      expect((error as Error).message).toContain("the large one 900000 bytes");
    }
    expect(device.memoryStats().owners[0].label).toBe(held.label);
  },
);

test("a CPU device hands out no more than the machine has", async () => {
  await using device = await Device.open("cpu", { threads: 1 });
  expect(device.name).toEndWith(", 1 thread)");
  expect(device.memoryStats().limitBytes).toBeLessThanOrEqual(totalmem());
  const asked = 2 * totalmem();
  const sentence = new RegExp(`${asked} bytes asked, \\d{1,12} of \\d{1,12} free`);
  expect(() => device.alloc(asked, "too much")).toThrow(OutOfMemoryError);
  expect(() => device.alloc(asked, "too much")).toThrow(sentence);
});

test("a failed kernel rejects done, poisons its device and leaves others alone", async () => {
  const failing = await Device.open("cpu", { threads: 2 });
  await using healthy = await Device.open("cpu", { threads: 1 });
  const event = failing.createEvent();
  const second = failing.createStream();
  spin(failing, 30_000);
  spin(failing, 1000, 4, failing.stream, 7);
  event.record(failing.stream);
  second.waitFor(event);
  expect(failing.stream.done()).rejects.toThrow("probe_spin failed with status 7");
  expect(second.done()).rejects.toThrow("probe_spin");
  expect(() => spin(failing, 1)).toThrow("takes no more work");
  expect(() => failing.stream.wait()).toThrow(DeviceError);
  spin(healthy, 1);
  await healthy.stream.done();
  await failing[Symbol.asyncDispose]();
  expect(() => failing.createStream()).toThrow(DisposedError);
});

test("the event loop keeps turning while kernels take all processors", async () => {
  await using device = await Device.open("cpu");
  const turnsMany = async (microseconds: number) => {
    using kernels = device.createEvent("kernels");
    spin(device, microseconds, device.processors);
    kernels.record(device.stream);
    const done = device.stream.done();
    let turns = 0;
    while (!kernels.reached && turns < 100) {
      // A timer, a file and a task: everything that a server does between steps.
      await Bun.sleep(0);
      await Bun.file(import.meta.path)
        .slice(0, 1)
        .text();
      await new Promise(setImmediate);
      turns++;
    }
    const early = !kernels.reached;
    await done;
    return early;
  };
  expect(await whileBusy(turnsMany)).toBe(true);
});

test("a device that nobody disposed keeps no process alive", async () => {
  const script = `
    const { Device, Tensor } = await import("${join(root, "src/index.ts")}");
    const device = await Device.open("cpu", { threads: 2 });
    Tensor.zeros(device, [1000], "f32");
    await device.stream.done();
    process.stdout.write("done");
  `;
  // It ends: a process that the device keeps alive would run into the test's own limit.
  const { code, stdout } = await runBun(["-e", script]);
  expect({ code, stdout }).toEqual({ code: 0, stdout: "done" });
});

test.each(targets)(
  "tensors that were forgotten give their memory back: $name",
  async ({ kind }) => {
    const options = { memoryLimitBytes: 64 << 20 };
    await using device = await Device.open(kind === "cpu" ? "cpu" : "cuda:0", options);
    for (let i = 0; i < 40; i++) {
      Tensor.zeros(device, [1 << 20], "f32");
      if (i % 4 === 3) {
        await device.stream.done();
        Bun.gc(true);
        await Bun.sleep(1);
      }
    }
    expect(device.memoryStats().usedBytes).toBeLessThan(64 << 20);
  },
);

describe.each(targets)("after disposal: $name", (target) => {
  test("everything of a disposed device throws and disposes quietly", async () => {
    const device = await target.open(1);
    const [stream, event] = [device.createStream(), device.createEvent()];
    const graph = device.capture(stream, () => spin(device, 1, 1, stream));
    device[Symbol.dispose]();
    for (const use of [
      () => stream.wait(),
      () => stream.fill(64, 0, 1),
      () => event.record(stream),
      () => event.reached,
      () => graph.replay(stream),
      () => device.stream.idle,
    ]) {
      expect(use).toThrow(DisposedError);
    }
    for (const owner of [stream, event, graph, device.stream]) owner[Symbol.dispose]();
  });

  test("a stream disposed while somebody waits for it settles the wait", async () => {
    await using device = await target.open(2);
    for (let round = 0; round < 50; round++) {
      const stream = device.createStream();
      spin(device, 200, 1, stream);
      const [first, second] = [stream.done(), stream.done()];
      stream[Symbol.dispose]();
      await Promise.all([first, second]);
    }
  });

  test("a wait that a disposed device cuts short is rejected", async () => {
    const cutShort = async (microseconds: number) => {
      const device = await target.open(1);
      const work = device.createEvent("work");
      spin(device, microseconds);
      work.record(device.stream);
      const waiting = device.stream.done();
      const early = !work.reached;
      device[Symbol.dispose]();
      return waiting.then(
        () => false,
        (error: unknown) => early && error instanceof DisposedError,
      );
    };
    expect(await whileBusy(cutShort)).toBe(true);
  });
});

test.each(targets)("a graph keeps what was freed while it was captured: $name", async (on) => {
  await using device = await on.open(1);
  const target = device.alloc(4, "target");
  const graph = device.capture(device.stream, () => {
    using source = device.alloc(4, "source");
    device.stream.fill(source.address, 9, 4);
    device.stream.copy(target.address, source.address, 4);
  });
  const others = Array.from({ length: 8 }, () => device.alloc(4, "other"));
  for (const other of others) device.stream.fill(other.address, 1, 4);
  graph.replay(device.stream);
  await device.stream.done();
  expect(bytesOf(device, target)).toEqual([9, 9, 9, 9]);
  for (const other of others) expect(bytesOf(device, other)).toEqual([1, 1, 1, 1]);
  graph[Symbol.dispose]();
});

test("addresses, events and streams are checked before a call", async () => {
  await using device = await Device.open("cpu", { threads: 1 });
  await using other = await Device.open("cpu", { threads: 1 });
  const { stream } = device;
  expect(() => stream.fill(1024, 1, -1)).toThrow("bytes must be");
  expect(() => stream.fill(NaN, 1, 8)).toThrow("target must be");
  expect(() => stream.copy(64, 0, 8)).toThrow("source must be");
  expect(() => Stream.wrap(device, NaN)).toThrow("handle must be");
  const zeros = Tensor.zeros(device, [2], "f32");
  expect(() => zeros.copyFrom(Tensor.zeros(other, [2], "f32"))).toThrow("source must be");
  expect(() => stream.waitFor(other.createEvent())).toThrow("event must be");
  expect(() => other.createEvent().record(stream)).toThrow("stream must be");
  expect(() => device.capture(stream, () => void device.capture(stream, () => {}))).toThrow(
    "a capture runs already",
  );
  const later = async () => {};
  expect(() => device.capture(stream, later)).toThrow("body must be synchronous");
  expect(device.capturing).toBe(false);
});

test.each(targets)(
  "an event recorded again keeps its earlier waiters waiting: $name",
  async (on) => {
    await using device = await on.open(3);
    const [busy, idle, waiter] = ["busy", "idle", "waiter"].map((name) =>
      device.createStream(name),
    );
    const memory = device.alloc(8, "test");
    const { address } = memory;
    device.stream.fill(address, 0, 8);
    await device.stream.done();
    const event = device.createEvent();
    spin(device, 30_000, 1, busy);
    busy.fill(address, 5, 4);
    event.record(busy);
    waiter.waitFor(event);
    waiter.copy(address + 4, address, 4);
    event.record(idle);
    await waiter.done();
    expect(bytesOf(device, memory)).toEqual([5, 5, 5, 5, 5, 5, 5, 5]);
  },
);

test("a device closes while its threads look for more to do", async () => {
  for (let turn = 0; turn < 1000; turn++) {
    await using device = await Device.open("cpu", { threads: 2 });
    spin(device, turn % 50);
  }
}, 60_000);
