import { beforeAll, describe, expect, test } from "bun:test";
import { addressOf, available, get, must } from "./cuda.ts";
import { kernelOf, run, start } from "./rig.ts";

describe.skipIf(!available)("clusters", () => {
  beforeAll(start);

  test("blocks reach each other's memory", async () => {
    const blocks = 6;
    const kernel = await kernelOf("clusters.cu", "reach");
    const bytes = blocks * 512;
    const out = new Uint32Array(run({ kernel, grid: blocks, cluster: 2, bytes }));
    for (let block = 0; block < blocks; block++) {
      const [rank, other] = [block % 2, block ^ 1];
      const part = [...out.subarray(block * 128, block * 128 + 128)];
      const line = (from: number) => Array.from({ length: 32 }, (_, i) => from + i);
      expect(part.slice(0, 32)).toEqual(line(1000 * other));
      expect(part.slice(32, 64)).toEqual(line(1000 * other));
      expect(part.slice(64, 96)).toEqual(line(5000 + 1000 * other));
      const from = rank ^ 1;
      // What the other block sent by st.async, and the start of what it then held.
      const floats = new Uint32Array(Float32Array.of(from, from + 50).buffer);
      const sent = [from, from + 10, from + 20, from + 30, from + 40, 0, ...floats];
      const copied = line(5000 + 1000 * block).slice(0, 16);
      expect(part.slice(96, 127)).toEqual([...sent, ...copied, ...new Array(7).fill(0)]);
      expect(part[127]).toBe(rank | (2 << 8));
    }
  });

  test("one load fills all blocks", async () => {
    const bytes = 1024;
    const data = new Uint32Array(bytes / 4).map((_, i) => i);
    const tile = data.map((i) => i + 1e6);
    const address = get("cuMemAlloc", BigInt(bytes));
    must("cuMemcpyAsync", address, addressOf(tile), BigInt(bytes), 0n);
    const map = {
      extents: [32, 8],
      strides: [128],
      box: [32, 8],
      swizzle: 0,
      type: "i32",
    } as const;
    const kernel = await kernelOf("clusters.cu", "multicast");
    const maps = [{ ...map, address }];
    const shape = { grid: 2, cluster: 2, shared: 2 * bytes, numbers: [bytes] };
    const out = new Uint32Array(run({ kernel, ...shape, maps, data, bytes: 4 * bytes }));
    expect([...out]).toEqual([...data, ...tile, ...data, ...tile]);
    must("cuMemFree", address);
  });
});
