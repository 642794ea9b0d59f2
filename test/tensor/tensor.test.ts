import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { DisposedError, OptionError } from "../../src/errors.ts";
import { type DType, dtypes, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { forSeeds } from "../support/random.ts";
import { deviceTargets } from "../support/targets.ts";

/** Equal as numbers: all NaNs are one, -0 is not 0. */
function expectSame(values: Float64Array, expected: Float64Array): void {
  const wrong = expected.findIndex((value, i) => !Object.is(value, values[i]));
  expect([wrong, values[wrong]]).toEqual([-1, undefined as never]);
}

describe.each(await deviceTargets())("tensors on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(() => device[Symbol.asyncDispose]());

  test("numbers go in and come out in every dtype", () => {
    const data = [0, 1, 1, 0, 1, 0];
    for (const dtype of dtypes) {
      using tensor = Tensor.from(device, data, [2, 3], dtype);
      expect([...tensor.toFloat64Array()]).toEqual(data);
    }
  });

  test("the device's conversions round as the host's", () => {
    const floats: DType[] = ["f32", "f16", "bf16", "f8e4m3", "f8e5m2"];
    forSeeds(20, (random) => {
      const data = Array.from({ length: 257 }, () => random.normal() * 10 ** random.integer(-6, 3));
      data.push(0, -0, Infinity, -Infinity, 1e-8, 65504, 65520, 448, 464, 57344, 1e30);
      const source = Float32Array.from(data);
      using tensor = Tensor.from(device, source, [source.length], "f32");
      for (const dtype of floats) {
        using converted = tensor.to(dtype);
        expectSame(converted.toFloat64Array(), roundTo(dtype, source));
      }
    });
  });

  test("every f16, bf16 and fp8 pattern survives the way through f32", () => {
    for (const [dtype, count] of [
      ["f16", 65536],
      ["bf16", 65536],
    ] as const) {
      const bits = Uint16Array.from({ length: count }, (_, i) => i);
      using tensor = Tensor.fromBits(device, bits, [count], dtype);
      using wide = tensor.to("f32");
      using back = wide.to(dtype);
      const [before, after] = [tensor.toFloat64Array(), back.toFloat64Array()];
      expectSame(after, before);
      expectSame(wide.toFloat64Array(), before);
    }
    for (const dtype of ["f8e4m3", "f8e5m2"] as const) {
      const bits = Uint8Array.from({ length: 256 }, (_, i) => i);
      using tensor = Tensor.fromBits(device, bits, [256], dtype);
      using wide = tensor.to("f32");
      expectSame(wide.toFloat64Array(), tensor.toFloat64Array());
    }
  });

  test("views are strided and share memory", () => {
    const data = Array.from({ length: 24 }, (_, i) => i);
    using tensor = Tensor.from(device, data, [2, 3, 4], "f32");
    const middle = tensor.slice(1, 1, 3).select(2, 2);
    expect(middle.shape).toEqual([2, 2]);
    expect([...middle.toFloat64Array()]).toEqual([6, 10, 18, 22]);
    const turned = tensor.permute(2, 0, 1);
    expect(turned.contiguous).toBe(false);
    expect([...turned.select(0, 1).toFloat64Array()]).toEqual([1, 5, 9, 13, 17, 21]);
    using dense = turned.to("f32");
    expect(dense.contiguous).toBe(true);
    expect([...dense.reshape(24).slice(0, 0, 6).toFloat64Array()]).toEqual([0, 4, 8, 12, 16, 20]);
    expect(tensor.reshape(6, 4).select(0, 5).toTypedArray()).toEqual(
      new Float32Array([20, 21, 22, 23]),
    );
  });

  test("random strided copies agree with indexing", () => {
    forSeeds(40, (random) => {
      const shape = Array.from({ length: random.integer(1, 4) }, () => random.integer(1, 6));
      const count = shape.reduce((a, b) => a * b, 1);
      using tensor = Tensor.from(
        device,
        Array.from({ length: count }, (_, i) => i),
        shape,
        "i32",
      );
      const axes = shape.map((_, axis) => axis).sort(() => random.next() - 0.5);
      const turned = tensor.permute(...axes);
      const values = turned.toFloat64Array();
      const index = shape.map(() => 0);
      for (let flat = 0; flat < count; flat++) {
        let rest = flat;
        for (let axis = axes.length - 1; axis >= 0; axis--) {
          index[axes[axis]] = rest % turned.shape[axis];
          rest = Math.floor(rest / turned.shape[axis]);
        }
        expect(values[flat]).toBe(index.reduce((sum, at, axis) => sum * shape[axis] + at, 0));
      }
    });
  });

  test("numbers and bits are written in place, into views too", () => {
    for (const dtype of dtypes) {
      using tensor = Tensor.from(device, [1, 1, 1, 1, 1, 1], [2, 3], dtype);
      tensor.slice(1, 1, 3).set([0, 1, 1, 0]);
      expect([...tensor.toFloat64Array()]).toEqual([1, 0, 1, 1, 1, 0]);
      using other = Tensor.from(device, [0, 1, 0, 1, 0, 1], [2, 3], dtype);
      tensor.setBits(other.toTypedArray());
      expect([...tensor.toFloat64Array()]).toEqual([0, 1, 0, 1, 0, 1]);
      tensor.permute(1, 0).setBits(other.toTypedArray());
      expect([...tensor.toFloat64Array()]).toEqual([0, 0, 0, 1, 1, 1]);
    }
    using rounded = Tensor.zeros(device, [2], "bf16");
    rounded.set([1.00390625, -3e38]);
    expect(rounded.toFloat64Array()).toEqual(roundTo("bf16", [1.00390625, -3e38]));
    const repeated = Tensor.fromPointer(device, rounded.address, [3], "bf16", { strides: [0] });
    expect(() => rounded.set([1, 2, 3])).toThrow(OptionError);
    expect(() => rounded.setBits(new Uint8Array(3))).toThrow(OptionError);
    expect(() => rounded.setBits([1, 2] as unknown as Uint8Array)).toThrow(OptionError);
    expect(() => repeated.set([1, 2, 3])).toThrow(OptionError);
    expect(rounded.toFloat64Array()).toEqual(roundTo("bf16", [1.00390625, -3e38]));
  });

  test("a view of the host is the elements themselves on the CPU, and refused elsewhere", () => {
    for (const dtype of dtypes) {
      using tensor = Tensor.from(device, [1, 0, 1, 0, 1, 1], [3, 2], dtype);
      const part = tensor.slice(0, 1, 3);
      if (target.kind !== "cpu") {
        expect(() => part.hostView()).toThrow("a tensor on the CPU");
        continue;
      }
      device.stream.wait();
      const view = part.hostView();
      expect(view).toEqual(part.toTypedArray());
      view[0] = tensor.hostView()[1];
      expect([...tensor.toFloat64Array()]).toEqual([1, 0, 0, 0, 1, 1]);
      expect(() => tensor.slice(1, 0, 1).hostView()).toThrow("contiguous");
      const foreign = Tensor.fromPointer(device, tensor.address, [2], dtype);
      expect(() => foreign.hostView()).toThrow("in memory of the device");
    }
    const gone = Tensor.zeros(device, [2], "f32");
    gone[Symbol.dispose]();
    expect(() => gone.hostView()).toThrow(DisposedError);
    expect(() => gone.set([1, 2])).toThrow(DisposedError);
  });

  test("foreign memory can be viewed, and stays referenced", () => {
    const memory = device.alloc(64, "foreign", true);
    new Float32Array(memory.hostBytes()).set([1, 2, 3, 4, 5, 6, 7, 8]);
    const view = Tensor.fromPointer(device, memory.address, [2, 2], "f32", {
      strides: [4, 2],
      keep: memory,
    });
    expect([...view.toFloat64Array()]).toEqual([1, 3, 5, 7]);
  });

  test("bad input is a typed error that names the option", () => {
    expect(() => Tensor.empty(device, [2, -1], "f32")).toThrow("shape must be");
    expect(() => Tensor.empty(device, [NaN], "f32")).toThrow(OptionError);
    expect(() => Tensor.empty(device, [2], "f64" as never)).toThrow("dtype must be");
    expect(() => Tensor.from(device, [1, 2, 3], [2], "f32")).toThrow("data must be 2 elements");
    expect(() => Tensor.fromPointer(device, NaN, [1], "f32")).toThrow("address must be");
    expect(() => Tensor.randomNormal(device, [1], "f32", { seed: -1 })).toThrow("seed must be");
    using tensor = Tensor.zeros(device, [2, 3], "f32");
    expect(() => tensor.slice(0, 1, 3)).toThrow("end must be");
    expect(() => tensor.select(1, 3)).toThrow("index must be");
    expect(() => tensor.permute(0, 0)).toThrow("axes must be");
    expect(() => tensor.reshape(5)).toThrow(
      "shape must be sizes of 6 elements (got [5]). Fix: match [2,3].",
    );
    using other = Tensor.zeros(device, [3, 2], "f32");
    expect(() => tensor.copyFrom(other)).toThrow("source must be");
    using square = Tensor.zeros(device, [3, 3], "f32");
    expect(() => square.copyFrom(square.permute(1, 0))).toThrow("target must be memory apart");
    expect(() => square.slice(0, 0, 2).copyFrom(square.slice(0, 1, 3))).toThrow("target must be");
    square.slice(1, 0, 1).copyFrom(square.slice(1, 2, 3));
    square.copyFrom(square);
  });

  test("a disposed tensor and views of it throw DisposedError", () => {
    const tensor = Tensor.zeros(device, [4], "f32");
    const view = tensor.slice(0, 0, 2);
    tensor[Symbol.dispose]();
    tensor[Symbol.dispose]();
    expect(() => tensor.toBytes()).toThrow(DisposedError);
    expect(() => view.toBytes()).toThrow(DisposedError);
  });
});
