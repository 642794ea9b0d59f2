import { describe, expect, test } from "bun:test";
import { attend } from "../../src/attention/attend.ts";
import type { Device } from "../../src/device/device.ts";
import { DisposedError, OptionError } from "../../src/errors.ts";
import { applyRope } from "../../src/ops/apply-rope.ts";
import { Rope, ropeFrequencies, type RopeOptions } from "../../src/ops/rope.ts";
import { attentionFactorOf, type RopeScaling } from "../../src/ops/rope-scaling.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { rotate } from "../support/oracle.ts";
import { forSeeds, type Random, seeded } from "../support/random.ts";
import { targetsHere } from "../support/targets.ts";
import { onesOn } from "../support/rows.ts";

/** Half a unit in the last place of a dtype, relative; then half the distance of its least. */
const roundings: Partial<Record<DType, [number, number]>> = {
  f32: [2 ** -23, 0],
  f16: [2 ** -11, 2 ** -25],
  bf16: [2 ** -8, 0],
};
/** What an angle may be off. */
const angleError = { cpu: 1e-6, cuda: 1e-5 };

const yarn = { kind: "yarn", factor: 8, originalPositions: 512 } as const;
const scalings: readonly (RopeScaling | undefined)[] = [
  undefined,
  { kind: "linear", factor: 3 },
  { ...yarn, kind: "llama3", lowFrequencyFactor: 1, highFrequencyFactor: 4 },
  yarn,
  { ...yarn, kind: "dynamic", lengthTokens: 3000 },
];

interface Case {
  tokens: number;
  /** Heads of queries and of keys. */
  heads: [number, number];
  headDim: number;
  dtype: DType;
  options: RopeOptions;
  /** Heads first in memory. */
  headsFirst?: boolean;
  /** Elements between heads that belong to nobody. */
  gap?: number;
}

/** [tokens, heads, dim] and the whole that holds it, the rest of which is NaN. */
function spaced(device: Device, values: Float64Array, heads: number, c: Case) {
  const { tokens, headDim, dtype, gap = 0, headsFirst = false } = c;
  const [outer, inner] = headsFirst ? [heads, tokens] : [tokens, heads];
  const all = new Float64Array(outer * inner * (headDim + gap)).fill(NaN);
  for (let token = 0; token < tokens; token++)
    for (let head = 0; head < heads; head++) {
      const row = headsFirst ? head * tokens + token : token * heads + head;
      const from = (token * heads + head) * headDim;
      all.set(values.subarray(from, from + headDim), row * (headDim + gap));
    }
  const memory = Tensor.from(device, all, [outer, inner, headDim + gap], dtype);
  const view = memory.slice(2, 0, headDim);
  return { memory, view: headsFirst ? view.permute(1, 0, 2) : view };
}

/** The axis of a pair's positions, as Qwen2-VL and Qwen3-VL cut them. */
function axisOf({ sections = [], interleavedSections }: RopeOptions, pair: number): number {
  if (interleavedSections) {
    const axis = pair % sections.length;
    return Math.floor(pair / sections.length) < sections[axis] ? axis : 0;
  }
  let end = 0;
  for (const [axis, count] of sections.entries()) if (pair < (end += count)) return axis;
  return 0;
}

/** Throws unless `got` is `values` turned in f64, within a rounding and what angles may be off. */
function compare(
  got: Float64Array,
  values: Float64Array,
  positions: Int32Array,
  heads: number,
  c: Case,
  error: number,
) {
  const { tokens, headDim, options, dtype } = c;
  const { first = 0, interleaved = false, scaling } = options;
  const frequencies = ropeFrequencies(options, headDim);
  const factor = attentionFactorOf(scaling);
  const rope = { frequencies, first, interleaved, factor };
  const axes = positions.length / tokens;
  const [relative, least] = roundings[dtype]!;
  for (let row = 0; row < tokens * heads; row++) {
    const token = Math.floor(row / heads);
    const wanted = values.slice(row * headDim, (row + 1) * headDim);
    const size = factor * Math.max(...wanted.map(Math.abs)) * Math.SQRT2;
    rotate(
      wanted,
      rope,
      (pair) => positions[(axes > 1 ? axisOf(options, pair) : 0) * tokens + token],
    );
    wanted.forEach((value, i) => {
      const isTurned = i >= first && i < first + 2 * frequencies.length;
      const most = isTurned ? Math.abs(value) * relative * 1.01 + least + size * error : 0;
      const off = Math.abs(got[row * headDim + i] - value);
      if (off <= most) return;
      throw new Error(`${JSON.stringify(c)}: row ${row}, ${i}: ${off} > ${most}`);
    });
  }
}

function numbersOf(random: Random, count: number, dtype: DType): Float64Array {
  return roundTo(
    dtype,
    Float64Array.from({ length: count }, () => random.normal()),
  );
}

function check(device: Device, c: Case, random: Random, given?: Int32Array): void {
  const { tokens, heads, headDim, dtype, options } = c;
  const axes = options.sections?.length ?? 1;
  const positions =
    given ?? Int32Array.from({ length: axes * tokens }, () => random.integer(0, 5000));
  const numbers = heads.map((count) => numbersOf(random, tokens * count * headDim, dtype));
  const rows = numbers.map((values, i) => spaced(device, values, heads[i], c));
  using rope = Rope.create(device, headDim, options);
  const shape = positions.length > tokens ? [axes, tokens] : [tokens];
  using at = Tensor.from(device, positions, shape, "i32");
  applyRope(rows[0].view, heads[1] === 0 ? undefined : rows[1].view, at, rope);
  for (const [i, { memory, view }] of rows.entries()) {
    if (heads[i] === 0) continue;
    const got = view.toFloat64Array();
    compare(got, numbers[i], positions, heads[i], c, angleError[device.kind]);
    const nobodys = memory.toFloat64Array().filter(Number.isNaN).length;
    expect(nobodys).toBe(tokens * heads[i] * (c.gap ?? 0));
    memory[Symbol.dispose]();
  }
}

describe.each(await targetsHere())("applyRope on $name", (target) => {
  test("agrees with f64 for every scaling, pairing, type and part of a head", async () => {
    await using device = await target.open(2);
    const random = seeded(3);
    const parts: [headDim: number, first: number, dim: number][] = [
      [128, 0, 128],
      [64, 0, 64],
      [96, 0, 48],
      [80, 16, 64],
      [576, 512, 64],
      [576, 0, 576],
      [30, 3, 22],
      [7, 2, 2],
      [256, 8, 240],
    ];
    let turn = 0;
    for (const [headDim, first, dim] of parts)
      for (const interleaved of [false, true]) {
        const dtype = (["f32", "f16", "bf16"] as const)[turn % 3];
        const scaling = scalings[turn % scalings.length];
        const options = { first, dim, interleaved, ...(scaling && { scaling }) };
        const heads: [number, number] = turn % 4 === 0 ? [3, 0] : [5, 2];
        const gap = [0, 8, 1][turn % 3];
        const headsFirst = turn % 2 === 1;
        check(device, { tokens: 9, heads, headDim, dtype, options, gap, headsFirst }, random);
        turn++;
      }
  });

  test("angles are right at any position", async () => {
    await using device = await target.open(1);
    const options = { theta: 5e6 };
    const at = [0, 1, -1, 999_999, 1_000_000, 2 ** 24 + 1, -1_000_000, 2 ** 31 - 1, -(2 ** 31)];
    for (const interleaved of [false, true])
      for (const dtype of ["f32", "bf16"] as const) {
        const c: Case = {
          tokens: at.length,
          heads: [2, 1],
          headDim: 128,
          dtype,
          options: { ...options, interleaved },
        };
        check(device, c, seeded(4), Int32Array.from(at));
      }
  });

  test("sections turn by axes of positions, in turn or one after another", async () => {
    await using device = await target.open(1);
    const shape = {
      tokens: 7,
      heads: [3, 1] as [number, number],
      headDim: 128,
      dtype: "f32" as const,
    };
    const all: RopeOptions[] = [
      { sections: [16, 24, 24] },
      { sections: [24, 20, 20], interleavedSections: true },
      { sections: [10, 22], interleaved: true, first: 64 },
      { sections: [64, 0] },
    ];
    for (const options of all) {
      check(device, { ...shape, options }, seeded(5));
      // Text has one position for all axes.
      check(device, { ...shape, options }, seeded(6), Int32Array.of(0, 1, 2, 3, 99, 5, 6));
    }
  });

  test("random cases agree", async () => {
    await using device = await target.open(2);
    forSeeds(30, (random) => {
      const headDim = random.integer(2, 300);
      const first = random.integer(0, headDim - 2);
      const dim = 2 * random.integer(1, Math.floor((headDim - first) / 2));
      const scaling = random.pick(scalings);
      const options = { first, dim, interleaved: random.chance(0.5), ...(scaling && { scaling }) };
      check(
        device,
        {
          tokens: random.integer(0, 20),
          heads: [random.integer(1, 9), random.integer(0, 3)],
          headDim,
          dtype: random.pick(["f32", "f16", "bf16"] as const),
          options,
          headsFirst: random.chance(0.5),
          gap: random.integer(0, 9),
        },
        random,
      );
    });
  });

  test("a token's bits are its own, and the same each time", async () => {
    await using device = await target.open(2);
    const numbers = numbersOf(seeded(8), 40 * 6 * 64, "bf16");
    using positions = Tensor.from(
      device,
      Int32Array.from({ length: 40 }, (_, i) => 99 * i),
      [40],
      "i32",
    );
    using rope = Rope.create(device, 64, { scaling: yarn });
    const turned = (from: number, to: number) => {
      using x = Tensor.from(device, numbers, [40, 6, 64], "bf16");
      applyRope(x.slice(0, from, to), undefined, positions.slice(0, from, to), rope);
      return x.slice(0, from, to).toBytes();
    };
    const all = turned(0, 40);
    expect(turned(0, 40)).toEqual(all);
    const tokenBytes = 6 * 64 * 2;
    for (const token of [0, 17, 39])
      expect(turned(token, token + 1)).toEqual(
        all.slice(token * tokenBytes, (token + 1) * tokenBytes),
      );
  });

  test("a row count of the device leaves what lies behind it alone", async () => {
    await using device = await target.open(1);
    using x = Tensor.from(device, new Array(5 * 2 * 4).fill(1), [5, 2, 4], "f32");
    using positions = Tensor.from(device, [1, 1, 1, 1, 1], [5], "i32");
    using rope = Rope.create(device, 4);
    for (const [count, turned] of [
      [3, 3],
      [-1, 0],
      [9, 5],
    ]) {
      using rowCount = Tensor.from(device, [count], [1], "i32");
      using before = x.to("f32");
      applyRope(x, undefined, positions, rope, { rowCount });
      const [was, is] = [before.toFloat64Array(), x.toFloat64Array()];
      for (let row = 0; row < 5; row++) expect(is[row * 8] !== was[row * 8]).toBe(row < turned);
    }
  });

  test("a graph replays it at new positions", async () => {
    await using device = await target.open(1);
    using x = Tensor.from(device, [1, 0], [1, 1, 2], "f32");
    using positions = Tensor.from(device, [0], [1], "i32");
    using rope = Rope.create(device, 2);
    applyRope(x, undefined, positions, rope);
    using graph = device.capture(device.stream, () => applyRope(x, undefined, positions, rope));
    using next = Tensor.from(device, [2], [1], "i32");
    positions.copyFrom(next);
    graph.replay(device.stream);
    const [cos, sin] = x.toFloat64Array();
    expect(cos).toBeCloseTo(Math.cos(2), 5);
    expect(sin).toBeCloseTo(Math.sin(2), 5);
    rope[Symbol.dispose]();
    expect(() => graph.replay(device.stream)).toThrow(DisposedError);
  });

  test("is what attention does that turns queries and keys itself", async () => {
    await using device = await target.open(1);
    const dtype = device.kind === "cpu" ? "f32" : "f16";
    const random = seeded(9);
    const options: RopeOptions = { dim: 48, scaling: { ...yarn, attentionFactor: 1.3 } };
    const made = (heads: number) =>
      Tensor.from(device, numbersOf(random, 20 * heads * 64, dtype), [20, heads, 64], dtype);
    const [q, k, v] = [made(4), made(2), made(2)];
    const { out: fused } = attend(q, k, v, { rope: options });
    using positions = Tensor.from(device, Int32Array.from(new Array(20).keys()), [20], "i32");
    using rope = Rope.create(device, 64, options);
    applyRope(q, k, positions, rope);
    const plain = attend(q, k, v).out.toFloat64Array();
    const most = dtype === "f32" ? 1e-5 : 4e-3;
    fused
      .toFloat64Array()
      .forEach((value, i) => expect(Math.abs(value - plain[i])).toBeLessThan(most));
  });
});

test.each(await targetsHere())(
  "bad input is refused by name, and nothing is written, on $name",
  async (target) => {
    await using device = await target.open(1);
    await using elsewhere = await target.open(1);
    using rope = Rope.create(device, 8);
    const ones = onesOn(device);
    const [q, k, positions] = [ones([3, 2, 8]), ones([3, 1, 8]), ones([3], "i32")];
    const twice = { strides: [8, 8, 1] };
    const countOver = ({ address }: Tensor) => Tensor.fromPointer(device, address, [1], "i32");
    const refused: [string, ...Parameters<typeof applyRope>][] = [
      ["q", ones([3, 16]), k, positions, rope],
      ["q", ones([3, 2, 6]), k, positions, rope],
      ["q", ones([3, 0, 8]), k, positions, rope],
      ["q", ones([3, 8, 2]).permute(0, 2, 1), k, positions, rope],
      ["q", ones([3, 2, 8], "f8e4m3"), k, positions, rope],
      ["q", ones([3, 2, 8], "f32", elsewhere), k, positions, rope],
      ["q", Tensor.fromPointer(device, q.address, [3, 2, 8], "f32", twice), k, positions, rope],
      ["q", undefined as unknown as Tensor, k, positions, rope],
      ["k", q, ones([2, 1, 8]), positions, rope],
      ["k", q, q, positions, rope],
      ["k", q, q.slice(1, 1, 2), positions, rope],
      ["positions", q, k, ones([2], "i32"), rope],
      ["positions", q, k, ones([3]), rope],
      ["positions", q, k, ones([3, 3], "i32"), rope],
      ["positions", q, k, ones([3, 2], "i32").select(1, 0), rope],
      ["rope", q, k, positions, {} as Rope],
      ["rowCount", q, k, positions, rope, { rowCount: positions }],
      ["rowCount", q, k, positions, rope, { rowCount: countOver(q) }],
      ["rowCount", q, k, positions, rope, { rowCount: countOver(k) }],
      ["stream", q, k, positions, rope, { stream: elsewhere.stream }],
      ["options.out", q, k, positions, rope, { out: q } as object],
    ];
    for (const [option, ...args] of refused) {
      let error: unknown;
      try {
        applyRope(...args);
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toBeInstanceOf(OptionError);
      expect({ option: (error as OptionError).option }).toEqual({ option });
    }
    for (const tensor of [q, k])
      expect(tensor.toFloat64Array().every((value) => value === 1)).toBe(true);
    const options: [RopeOptions, string][] = [
      [{ sections: [1, 2] }, "rope.sections must be 1 to 4 numbers of pairs, 4 together"],
      [{ sections: [1, 3], interleavedSections: true }, "rope.sections must be 1 to 4 numbers"],
      [{ sections: [1, -1, 4] }, "rope.sections[1] must be an integer"],
      [{ interleavedSections: true }, "rope.interleavedSections must be false without sections"],
      [{ theta: -1 }, "rope.theta must be a finite number above 0"],
      [{ dim: 10 }, "rope.dim must be an integer from 2 to 8"],
    ];
    for (const [each, message] of options)
      expect(() => Rope.create(device, 8, each)).toThrow(message);
    expect(() => attend(q, k, k, { rope: { sections: [2, 2] } })).toThrow(
      "rope.sections must be left",
    );
    rope[Symbol.dispose]();
    expect(() => applyRope(q, k, positions, rope)).toThrow("was disposed");
  },
);
