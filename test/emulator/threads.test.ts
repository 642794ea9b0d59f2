import { describe, expect, test } from "bun:test";
import { available } from "./cuda.ts";
import { kernelOf, run } from "./rig.ts";

const lanes = Array.from({ length: 32 }, (_, lane) => lane);

/** What lane `lane` has after the kernel `warps`, by the definition of each function. */
function expectedOfWarps(v: readonly number[], lane: number): number[] {
  const ballot = (yes: (other: number) => boolean) =>
    lanes.reduce((bits, other) => bits | (yes(other) ? 1 << other : 0), 0) >>> 0;
  const sum = v.reduce((a, b) => a + b);
  const segment = lane & ~7;
  const x = v[lane];
  const ones = x.toString(2).replaceAll("0", "").length;
  const lowest = x === 0 ? 0 : 32 - Math.clz32(x & -x);
  const float = new Uint32Array(new Float32Array([v[lane ^ 1]]).buffer)[0];
  return [
    v[5],
    v[segment + ((lane + 3) & 7)],
    lane < 2 ? x : v[lane - 2],
    (lane & 15) + 4 > 15 ? x : v[lane + 4],
    v[lane ^ 16],
    float,
    ballot((other) => (v[other] & 1) === 1),
    (v.includes(1000) ? 1 : 0) | (v.every((one) => one < 1000) ? 2 : 0),
    ballot((other) => v[other] % 5 === x % 5),
    sum,
    Math.max(...v),
    Math.min(...v),
    lane < 8 ? v[lane ^ 1] : 1 << 9,
    v[7],
    ones | (Math.clz32(x) << 8) | (lowest << 16),
    // Bytes 0, 4, 1 and 7 of (x, ~x).
    ((x & 255) | ((~x & 255) << 8) | (((x >> 8) & 255) << 16) | ((~x >>> 24) << 24)) >>> 0,
  ];
}

describe.skipIf(!available)("threads", () => {
  test("know their place", async () => {
    const kernel = await kernelOf("threads.cu", "places");
    const out = new Uint32Array(run({ kernel, grid: 5, threads: 96, bytes: 5 * 96 * 4 }));
    const want = out.map((_, i) => (i % 96) | (Math.floor(i / 96) << 8) | (96 << 16) | (5 << 24));
    expect(out).toEqual(want);
  });

  test.each([997, 1000])("exchange values within a warp (%d)", async (largest) => {
    const kernel = await kernelOf("threads.cu", "warps");
    const data = new Uint32Array(32).map((_, lane) => (lane === 20 ? largest : (lane * 37) % 101));
    const out = new Uint32Array(run({ kernel, bytes: 32 * 64, data }));
    for (const lane of lanes)
      expect([...out.subarray(lane * 16, lane * 16 + 16)]).toEqual(
        expectedOfWarps([...data], lane),
      );
  });

  test("meet at named barriers, some without waiting", async () => {
    const kernel = await kernelOf("threads.cu", "named_barriers");
    const out = new Uint32Array(run({ kernel, threads: 64, bytes: 128 }));
    expect([...out]).toEqual(lanes.map((lane) => 1000 + 5 * (31 - lane)));
  });

  test("vote in a block", async () => {
    const kernel = await kernelOf("threads.cu", "block_votes");
    const out = new Uint32Array(run({ kernel, threads: 96, bytes: 96 * 12 }));
    for (let t = 0; t < 96; t++) {
      const [count, some, every] = out.subarray(3 * t);
      expect([count, some !== 0, every !== 0]).toEqual([32, true, false]);
    }
  });

  test("change words at once", async () => {
    const kernel = await kernelOf("threads.cu", "atomics");
    const out = new Uint32Array(run({ kernel, grid: 4, threads: 96, bytes: 32, zeroed: true }));
    expect([...out.subarray(0, 5)]).toEqual([384, 95, 0, 0xffffffff, 0]);
    expect(out[5]).toBeGreaterThan(0);
    expect(out[6]).toBe(out[5]);
    expect(new Float32Array(out.buffer)[7]).toBe(96);
  });
});
