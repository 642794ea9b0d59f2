import { describe, expect, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import { InputError } from "../../src/errors.ts";
import {
  deviceTypes,
  type DLPackTensor,
  flagOffset,
  managedBytes,
  type MemoryView,
  readManaged,
  writeManaged,
} from "../../src/tensor/dlpack-struct.ts";
import { fromDLPack, Imported, sweepExports, toDLPack } from "../../src/tensor/dlpack.ts";
import { type DType, dtypes } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { forSeeds } from "../support/random.ts";

const base = 0x7f00_0000_1000;

/** Memory of `bytes` bytes at `base`; whatever lies outside is an InputError. */
function memoryOf(bytes: number): { memory: MemoryView; all: DataView } {
  const all = new DataView(new ArrayBuffer(bytes));
  const memory: MemoryView = (address, length) => {
    if (address < base || address + length > base + bytes)
      throw new InputError("memory", undefined, `${address} is outside`, "stay inside.");
    return new DataView(all.buffer, address - base, length);
  };
  return { memory, all };
}

function example(over: Partial<DLPackTensor> = {}): DLPackTensor {
  return {
    address: 0x5000_0040,
    deviceType: deviceTypes.cpu,
    deviceId: 0,
    shape: [3, 4],
    strides: [8, 1],
    dtype: "bf16",
    readOnly: false,
    deleter: 0x1234,
    ...over,
  };
}

function written(over: Partial<DLPackTensor> = {}) {
  const tensor = example(over);
  const place = memoryOf(managedBytes(tensor.shape.length));
  writeManaged(place.memory, base, tensor);
  return { ...place, tensor };
}

test("what is written is read again, for every dtype, device and count of axes", () => {
  for (const dtype of dtypes)
    for (const deviceType of Object.values(deviceTypes))
      for (let axes = 0; axes <= 8; axes++) {
        const shape = Array.from({ length: axes }, (_, i) => i + 1);
        const strides = shape.map((_, i) => (i % 2 === 0 ? 100 : 3) * (i + 1));
        const { memory, tensor } = written({
          dtype,
          deviceType,
          shape,
          strides,
          readOnly: axes > 4,
        });
        expect(readManaged(memory, base)).toEqual(tensor);
      }
});

test("the struct has the places and codes of the specification", () => {
  const { all } = written({ dtype: "f8e4m3", readOnly: true });
  expect([all.getUint32(0, true), all.getUint32(4, true)]).toEqual([1, 1]);
  expect(all.getBigUint64(8, true)).toBe(BigInt(base + flagOffset(2)));
  expect(all.getBigUint64(16, true)).toBe(0x1234n);
  expect(all.getBigUint64(24, true)).toBe(1n);
  expect(all.getBigUint64(32, true)).toBe(0x5000_0040n);
  expect([all.getInt32(40, true), all.getInt32(44, true), all.getInt32(48, true)]).toEqual([
    1, 0, 2,
  ]);
  expect([all.getUint8(52), all.getUint8(53), all.getUint16(54, true)]).toEqual([10, 8, 1]);
  const list = (at: number) => all.getBigInt64(Number(all.getBigUint64(at, true)) - base, true);
  expect([list(56), list(64)]).toEqual([3n, 8n]);
  const codes: [DType, number, number][] = [
    ["f32", 2, 32],
    ["f16", 2, 16],
    ["bf16", 4, 16],
    ["f8e5m2", 12, 8],
    ["i8", 0, 8],
    ["i64", 0, 64],
    ["u8", 1, 8],
    ["bool", 6, 8],
  ];
  for (const [dtype, code, bits] of codes) {
    const { all: other } = written({ dtype });
    expect([other.getUint8(52), other.getUint8(53)]).toEqual([code, bits]);
  }
});

test("NULL strides are dense, byte_offset moves the address, other minors are read", () => {
  const { memory, all } = written({ shape: [2, 3, 5], strides: [0, 0, 0] });
  all.setBigUint64(64, 0n, true);
  all.setBigUint64(72, 24n, true);
  all.setUint32(4, 9, true);
  const found = readManaged(memory, base);
  expect(found.strides).toEqual([15, 5, 1]);
  expect(found.address).toBe(0x5000_0040 + 24);
});

test("a tensor without elements needs no data", () => {
  const { memory } = written({ address: 0, shape: [0, 4] });
  expect(readManaged(memory, base).address).toBe(0);
});

describe("refused", () => {
  const cases: [string, (all: DataView) => void, RegExp][] = [
    ["another major version", (all) => all.setUint32(0, 2, true), /version 2\.1 is not 1\.x/],
    ["an unknown device", (all) => all.setInt32(40, 7, true), /device type 7/],
    ["a negative count of axes", (all) => all.setInt32(48, -1, true), /-1 axes/],
    ["too many axes", (all) => all.setInt32(48, 9, true), /9 axes/],
    ["an unknown dtype", (all) => all.setUint8(52, 5), /dtype code 5/],
    ["odd bits", (all) => all.setUint8(53, 64), /64 bits/],
    ["lanes", (all) => all.setUint16(54, 4, true), /4 lanes/],
    ["NULL data", (all) => all.setBigUint64(32, 0n, true), /data is NULL/],
    ["data beyond user addresses", (all) => all.setBigUint64(32, 1n << 60n, true), /data is 0x1/],
    ["NULL shape", (all) => all.setBigUint64(56, 0n, true), /shape is NULL/],
    ["a negative size", (all) => all.setBigInt64(80, -3n, true), /shape\[0\] is -3/],
    ["a huge size", (all) => all.setBigInt64(80, 1n << 62n, true), /shape\[0\]/],
    ["a huge stride", (all) => all.setBigInt64(96, 1n << 46n, true), /leaves memory/],
    ["strides below address 0", (all) => all.setBigInt64(96, -(1n << 45n), true), /leaves memory/],
    ["a huge byte_offset", (all) => all.setBigUint64(72, 1n << 63n, true), /byte_offset/],
  ];
  test.each(cases)("%s", (_, spoil, message) => {
    const { memory, all } = written();
    spoil(all);
    expect(() => readManaged(memory, base)).toThrow(InputError);
    expect(() => readManaged(memory, base)).toThrow(message);
  });

  test.each([0, -8, NaN, 2 ** 60, 1.5])("address %p", (address) => {
    const { memory } = written();
    expect(() => readManaged(memory, address)).toThrow(InputError);
  });

  test("every truncation", () => {
    const { all, tensor } = written();
    for (let bytes = 0; bytes < flagOffset(2); bytes++) {
      const place = memoryOf(bytes);
      new Uint8Array(place.all.buffer).set(new Uint8Array(all.buffer as ArrayBuffer, 0, bytes));
      expect(() => readManaged(place.memory, base)).toThrow(InputError);
    }
    expect(tensor.shape).toEqual([3, 4]);
  });

  test("garbage, with nothing but InputError", () => {
    forSeeds(2000, (random) => {
      const { memory, all } = written();
      const flips = random.integer(1, 20);
      for (let i = 0; i < flips; i++)
        all.setUint8(random.integer(0, all.byteLength - 1), random.integer(0, 255));
      try {
        const found = readManaged(memory, base);
        expect(found.shape.length).toBeLessThanOrEqual(8);
      } catch (error) {
        expect(error).toBeInstanceOf(InputError);
      }
    });
  });
});

test("an imported struct calls its deleter once", () => {
  const calls: number[][] = [];
  const owner = new Imported(77, 88, (...call) => calls.push(call));
  owner[Symbol.dispose]();
  owner[Symbol.dispose]();
  expect(calls).toEqual([[77, 88]]);
  const unowned = new Imported(0, 88, (...call) => calls.push(call));
  unowned[Symbol.dispose]();
  expect(calls).toHaveLength(1);
});

describe("natively", () => {
  test("an exported tensor is read in place and freed once the consumer is done", async () => {
    await using device = await Device.open("cpu");
    const tensor = Tensor.from(device, [1, 2, 3, 4, 5, 6], [2, 3], "f32");
    const view = tensor.permute(1, 0);
    const managed = toDLPack(view);
    const imported = fromDLPack(device, managed);
    expect(imported.address).toBe(tensor.address);
    expect(imported.shape).toEqual([3, 2]);
    expect([...imported.toFloat64Array()]).toEqual([1, 4, 2, 5, 3, 6]);
    expect(sweepExports()).toBe(1);
    imported[Symbol.dispose]();
    expect(sweepExports()).toBe(0);
    expect(view.disposed).toBe(false);
    tensor[Symbol.dispose]();
  });

  test("a tensor that was handed over is disposed by the consumer's deleter", async () => {
    await using device = await Device.open("cpu");
    const tensor = Tensor.from(device, [1.5], [], "bf16");
    const imported = fromDLPack(device, toDLPack(tensor, { transfer: true }));
    imported[Symbol.dispose]();
    imported[Symbol.dispose]();
    while (!tensor.disposed) await Bun.sleep(10);
    expect(sweepExports()).toBe(0);
  });

  test("read-only memory is refused unless allowed, and stays the caller's", async () => {
    await using device = await Device.open("cpu");
    using tensor = Tensor.zeros(device, [4], "u8");
    const managed = toDLPack(tensor, { readOnly: true });
    expect(() => fromDLPack(device, managed)).toThrow(/read-only.*allowReadOnly/);
    expect(sweepExports()).toBe(1);
    fromDLPack(device, managed, { allowReadOnly: true })[Symbol.dispose]();
    expect(sweepExports()).toBe(0);
  });
});
