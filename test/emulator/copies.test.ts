import { beforeAll, describe, expect, test } from "bun:test";
import { addressOf, available, get, launch, must, type TensorMapSpec } from "./cuda.ts";
import { kernelOf, run, start } from "./rig.ts";

/** A tensor of u16, dense but for the padding of its rows, whose element i holds i. */
interface Tensor {
  readonly extents: readonly number[];
  readonly box: readonly number[];
  readonly swizzle: 0 | 32 | 64 | 128;
  readonly at: readonly number[];
}

/** Elements from one coordinate to the next, for each axis. */
function stridesOf(extents: readonly number[]): number[] {
  const row = Math.ceil(extents[0] / 8) * 8; // strides are multiples of 16 bytes
  const strides = [1];
  let stride = row;
  for (const extent of extents.slice(1)) {
    strides.push(stride);
    stride *= extent;
  }
  return [...strides, stride];
}

function mapOf({ extents, box, swizzle }: Tensor, address: bigint): TensorMapSpec {
  const strides = stridesOf(extents);
  const bytes = strides.slice(1, extents.length).map((elements) => elements * 2);
  return { address, type: "u16", extents, strides: bytes, box, swizzle };
}

/** Element of the tensor for each element of the tile; -1 outside. */
function elementsOf({ extents, box, at }: Tensor): number[] {
  const strides = stridesOf(extents);
  const count = box.reduce((a, b) => a * b);
  return Array.from({ length: count }, (_, i) => {
    let element = 0;
    for (const [axis, size] of box.entries()) {
      const x = at[axis] + (i % size);
      i = Math.floor(i / size);
      if (x < 0 || x >= extents[axis]) element = -Infinity;
      element += x * strides[axis];
    }
    return element >= 0 ? element : -1;
  });
}

/** Where element i of a tile lies, in elements from its 1024-byte aligned start. */
function placeOf({ box, swizzle }: Tensor, i: number): number {
  const pitch = swizzle || box[0] * 2;
  const byte = Math.floor(i / box[0]) * pitch + (i % box[0]) * 2;
  const rows = swizzle === 0 ? 0 : swizzle / 16 - 1;
  return (byte ^ (((byte >> 7) & rows) << 4)) / 2;
}

const tensors: Tensor[] = [
  { extents: [100], box: [64], swizzle: 0, at: [-8] },
  { extents: [100], box: [64], swizzle: 0, at: [56] },
  { extents: [64, 40], box: [64, 16], swizzle: 128, at: [0, 8] },
  { extents: [200, 40], box: [64, 32], swizzle: 128, at: [152, 20] },
  { extents: [70, 33], box: [32, 24], swizzle: 64, at: [-8, -2] },
  { extents: [33, 20], box: [16, 16], swizzle: 32, at: [24, 9] },
  { extents: [64, 20], box: [16, 12], swizzle: 128, at: [16, 9] }, // narrower than the swizzle
  { extents: [64, 20], box: [8, 16], swizzle: 64, at: [40, -5] },
  { extents: [24, 9, 7], box: [8, 4, 3], swizzle: 0, at: [16, 6, -1] },
  { extents: [64, 3, 9], box: [64, 2, 8], swizzle: 128, at: [0, 1, 4] },
  { extents: [16, 5, 4, 3], box: [16, 2, 2, 2], swizzle: 32, at: [8, 4, 1, 2] },
  { extents: [16, 3, 3, 3, 3], box: [8, 2, 2, 2, 2], swizzle: 0, at: [8, 2, -1, 1, 2] },
];

/** Bytes of shared memory that a tile takes. */
function sizeOf({ box, swizzle }: Tensor): number {
  return (swizzle || box[0] * 2) * box.slice(1).reduce((a, b) => a * b, 1);
}

function describeTensor({ extents, box, swizzle, at }: Tensor): string {
  return `${extents.join("x")} box ${box.join("x")} at ${at.join()} swizzle ${swizzle}`;
}

/**
 * A store writes the 16 bytes that hold a row's last element as a whole, and wants no negatives.
 */
const storable = tensors
  .filter(({ at }) => at.every((x) => x >= 0))
  .map((tensor) => {
    const [row, ...outer] = tensor.extents;
    return [describeTensor(tensor), tensor, [Math.ceil(row / 8) * 8, ...outer]] as const;
  });
const named = tensors.map((tensor) => [describeTensor(tensor), tensor] as const);

describe.skipIf(!available)("copies", () => {
  beforeAll(start);

  test.each([16, 8, 3, 0])("by threads, %d bytes at most, the rest zeros", async (most) => {
    const data = new Uint8Array(32 * 64).map((_, i) => (i * 7) % 255);
    const kernel = await kernelOf("copies.cu", "by_threads");
    const out = new Uint8Array(run({ kernel, bytes: 32 * 64, data, numbers: [most] }));
    const sizes = [16, 16, 16, 8, 4, 4];
    const within = sizes.flatMap((size) => Array.from({ length: size }, (_, i) => i));
    expect(out).toEqual(data.map((byte, i) => (within[i % 64] < most ? byte : 0)));
  });

  test("count on barriers with phases", async () => {
    const data = new Uint32Array(32).map((_, i) => 100 + i);
    const kernel = await kernelOf("copies.cu", "phases");
    const out = new Uint32Array(run({ kernel, threads: 64, bytes: 4 * 64, data }));
    expect([...out.subarray(0, 7)]).toEqual([1, 0, 0, 1, 0, 0, 105]);
    expect([...out.subarray(8, 40)]).toEqual([...data].reverse());
  });

  test.each([16, 512, 4096])("in bulk: load, store, add (%d bytes)", async (bytes) => {
    const data = new Float32Array(bytes / 4).map((_, i) => i + 0.5);
    const kernel = await kernelOf("copies.cu", "bulk");
    const numbers = [bytes];
    const out = new Float32Array(run({ kernel, bytes, data, numbers, shared: 2 * bytes }));
    expect(out).toEqual(data.map((x) => 4 * x)); // doubled, stored, and added once more
  });

  test.each(named)("tiles from tensors: %s", async (_, tensor) => {
    const elements = elementsOf(tensor);
    const total = stridesOf(tensor.extents).at(-1)!;
    const data = new Uint16Array(total).map((_, i) => i + 1);
    const address = get("cuMemAlloc", BigInt(data.byteLength));
    must("cuMemcpyAsync", address, addressOf(data), BigInt(data.byteLength), 0n);
    const bytes = sizeOf(tensor);
    const rank = tensor.extents.length;
    const kernel = await kernelOf("copies.cu", "tensor_in", { FB_RANK: rank });
    const pad = new Array<number>(6 - rank).fill(0);
    for (const hinted of [0, 1]) {
      const numbers = [...tensor.at, ...pad, elements.length * 2, hinted, bytes];
      const maps = [mapOf(tensor, address)];
      const out = new Uint16Array(run({ kernel, bytes, numbers, maps, shared: bytes }));
      const want = new Uint16Array(bytes / 2); // between narrow rows nothing is written
      for (const [i, element] of elements.entries())
        want[placeOf(tensor, i)] = element < 0 ? 0 : element + 1;
      expect(out).toEqual(want);
    }
    must("cuMemFree", address);
  });

  test.each(storable)("tiles to tensors: %s", async (_, tensor, extents) => {
    const elements = elementsOf({ ...tensor, extents });
    const total = stridesOf(tensor.extents).at(-1)!;
    const data = new Uint16Array(sizeOf(tensor) / 2);
    for (const i of elements.keys()) data[placeOf(tensor, i)] = i + 1;
    const input = get("cuMemAlloc", BigInt(data.byteLength));
    const address = get("cuMemAlloc", BigInt(total * 2));
    must("cuMemcpyAsync", input, addressOf(data), BigInt(data.byteLength), 0n);
    must("cuMemsetD8Async", address, 0, BigInt(total * 2), 0n);
    const rank = tensor.extents.length;
    const kernel = await kernelOf("copies.cu", "tensor_out", { FB_RANK: rank });
    const pad = new Array<number>(6 - rank).fill(0);
    const numbers = [...tensor.at, ...pad, data.byteLength, 0];
    const maps = [mapOf(tensor, address)];
    expect(launch({ kernel, numbers, maps, input, shared: data.byteLength })).toBe(0);
    const out = new Uint16Array(total);
    must("cuMemcpyAsync", addressOf(out), address, BigInt(total * 2), 0n);
    must("cuCtxSynchronize");
    const want = new Uint16Array(total);
    for (const [i, element] of elements.entries()) if (element >= 0) want[element] = i + 1;
    expect(out).toEqual(want);
    must("cuMemFree", address);
    must("cuMemFree", input);
  });

  test.each(["f32", "f16", "bf16"] as const)("tiles are added to tensors of %s", async (type) => {
    const one = { f32: 0x3f800000, f16: 0x3c003c00, bf16: 0x3f803f80 }[type];
    const two = { f32: 0x40000000, f16: 0x40004000, bf16: 0x40004000 }[type];
    const words = new Uint32Array(64).fill(one);
    const [address, input] = [get("cuMemAlloc", 256n), get("cuMemAlloc", 256n)];
    for (const at of [address, input]) must("cuMemcpyAsync", at, addressOf(words), 256n, 0n);
    const width = type === "f32" ? 8 : 16;
    const box = [width, 4];
    const map = { address, type, extents: [width, 8], strides: [32], box, swizzle: 0 } as const;
    const kernel = await kernelOf("copies.cu", "tensor_out", { FB_RANK: 2 });
    const numbers = [0, 6, 0, 0, 0, 0, 128, 1];
    expect(launch({ kernel, numbers, maps: [map], input, shared: 128 })).toBe(0);
    const out = new Uint32Array(64);
    must("cuMemcpyAsync", addressOf(out), address, 256n, 0n);
    must("cuCtxSynchronize");
    expect(out).toEqual(words.map((_, i) => (i < 48 ? one : two)));
    for (const at of [address, input]) must("cuMemFree", at);
  });
});
