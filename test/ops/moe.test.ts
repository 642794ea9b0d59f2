import { describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { OptionError } from "../../src/errors.ts";
import { ProbeParams } from "../../src/ffi/params.gen.ts";
import { matmul } from "../../src/ops/matmul.ts";
import { combineExperts, moe, type MoeOptions } from "../../src/ops/moe.ts";
import {
  type ExpertGroups,
  ExpertRouting,
  routeExperts,
  type RouteOptions,
} from "../../src/ops/routing.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { Weight } from "../../src/tensor/weight.ts";
import { expectedProduct, expectProduct } from "../support/matmul.ts";
import { forSeeds, type Random, seeded } from "../support/random.ts";
import { targetsHere } from "../support/targets.ts";
import { type Held, heldWeight, numbersOf } from "../support/weights.ts";

interface Chosen {
  expert: number;
  weight: number;
}

/** Whether an expert is of a group that is kept. */
function groupsOf(keys: ArrayLike<number>, { groups }: RouteOptions): (expert: number) => boolean {
  if (groups === undefined) return () => true;
  const { count, kept, best = 1 } = groups;
  const size = keys.length / count;
  const scores = Array.from({ length: count }, (_, g) => {
    const own = Array.from({ length: size }, (__, i) => keys[g * size + i]);
    const sorted = own.sort((a, b) => (b > a ? 1 : b < a ? -1 : 0));
    return sorted.slice(0, best).reduce((sum, key) => Math.fround(sum + key), 0);
  });
  const order = [...scores.keys()].sort((a, b) =>
    scores[b] > scores[a] ? 1 : scores[b] < scores[a] ? -1 : a - b,
  );
  const taken = new Set(order.slice(0, kept));
  return (expert) => taken.has(Math.floor(expert / size));
}

/** A token's experts in f64. */
function chosenOf(logits: Float64Array, options: RouteOptions, bias?: Float64Array): Chosen[] {
  const { topK, scoring = "softmax", renormalize = false, scale = 1 } = options;
  const clean = logits.map((x) => (Number.isNaN(x) ? -Infinity : x));
  const largest = Math.max(...clean);
  const sum = clean.reduce((total, x) => total + Math.exp(x - largest), 0);
  const scores = clean.map((x) =>
    scoring === "sigmoid" ? 1 / (1 + Math.exp(-x)) : Math.exp(x - largest) / sum,
  );
  const sums = scores.map((score, e) => score + (bias?.[e] ?? 0));
  const keys = bias ? sums.map((key) => (Number.isNaN(key) ? -Infinity : key)) : clean;
  const kept = groupsOf(keys, options);
  const order = [...keys.keys()]
    .filter((e) => kept(e))
    .sort((a, b) => (keys[b] > keys[a] ? 1 : keys[b] < keys[a] ? -1 : a - b));
  const best = order.slice(0, topK);
  const total = renormalize ? best.reduce((all, e) => all + scores[e], 0) : 1;
  return best.map((expert) => ({ expert, weight: (scale * scores[expert]) / total }));
}

/** Compares a routing with the definition, and its lists with each other. */
function checkRouting(routing: ExpertRouting, wanted: Chosen[][]): void {
  const { topK, expertCount } = routing;
  const [weights, experts] = [routing.weights.toFloat64Array(), routing.experts.toFloat64Array()];
  const [starts, rows] = [routing.starts.toFloat64Array(), routing.rows.toFloat64Array()];
  const places = routing.places.toFloat64Array();
  expect([...experts]).toEqual(wanted.flat().map(({ expert }) => expert));
  wanted.flat().forEach(({ weight }, i) => {
    if (Number.isNaN(weight)) expect(weights[i]).toBeNaN();
    else expect(Math.abs(weights[i] - weight)).toBeLessThan(2e-6 * Math.abs(weight) + 1e-12);
  });
  const sorted = [...experts.keys()].sort((a, b) => experts[a] - experts[b] || a - b);
  expect([...rows]).toEqual(sorted.map((entry) => Math.floor(entry / topK)));
  sorted.forEach((entry, place) => expect(places[entry]).toBe(place));
  for (let e = 0; e <= expertCount; e++)
    expect(starts[e]).toBe(experts.filter((expert) => expert < e).length);
}

function routed(device: Device, random: Random, tokens: number, experts: number, dtype: DType) {
  const values = numbersOf(random, tokens * experts, dtype, 2);
  // Some logits are equal, and some are NaN.
  for (let i = 0; i < values.length; i += 7) values[i] = i % 2 === 0 ? 0.5 : NaN;
  // A token that likes no expert has different ones all the same.
  if (random.chance(0.3)) values.fill(NaN, 0, experts);
  using logits = Tensor.from(device, values, [tokens, experts], dtype);
  const options: RouteOptions = {
    topK: random.integer(1, Math.min(experts, 8)),
    scoring: random.pick(["softmax", "sigmoid"]),
    renormalize: random.chance(0.5),
    scale: random.pick([1, 2.5]),
  };
  const biases = random.chance(0.4) ? numbersOf(random, experts, "f32", 0.3) : undefined;
  const groups = groupsFor(random, experts, options.topK, biases !== undefined);
  if (groups !== undefined) options.groups = groups;
  using bias = biases && Tensor.from(device, biases, [experts], "f32");
  const routing = routeExperts(logits, { ...options, bias });
  const rows = Array.from({ length: tokens }, (_, t) =>
    chosenOf(values.subarray(t * experts, (t + 1) * experts), options, biases),
  );
  return { routing, rows };
}

/** Groups of experts, often. */
function groupsFor(random: Random, experts: number, topK: number, hasBias: boolean) {
  const counts = [2, 4, 5, 8, 32].filter((count) => experts % count === 0);
  if (counts.length === 0 || random.chance(0.3)) return undefined;
  const count = random.pick(counts);
  const kept = random.integer(Math.ceil((topK * count) / experts), count);
  return {
    count,
    kept,
    best: hasBias && experts / count > 1 && random.chance(0.5) ? 2 : 1,
  } as const;
}

/** A product in which each row has the weight of its group, by the oracle of plain products. */
function groupsInF64(
  x: Float64Array,
  weights: Float64Array,
  starts: ArrayLike<number>,
  rows: ArrayLike<number>,
  [outputs, inputs]: number[],
  gated: boolean,
) {
  const columns = gated ? outputs / 2 : outputs;
  const out = new Float64Array(rows.length * columns);
  const limits = new Float64Array(rows.length * columns);
  for (let e = 0; e + 1 < starts.length; e++) {
    const weight = weights.subarray(e * outputs * inputs, (e + 1) * outputs * inputs);
    for (let row = starts[e]; row < starts[e + 1]; row++) {
      const from = x.subarray(rows[row] * inputs, (rows[row] + 1) * inputs);
      const one = { rows: 1, inputs, outputs, x: rows[row] < 0 ? new Float64Array(inputs) : from };
      const activation = gated ? ("silu" as const) : undefined;
      const wanted = expectedProduct({ ...one, weight, gated, activation });
      out.set(wanted.out, row * columns);
      limits.set(wanted.limits, row * columns);
    }
  }
  return { out, limits };
}

/** A stack of weights, and their numbers. */
function stackOf(device: Device, random: Random, experts: number, shape: number[], dtype: DType) {
  const [outputs, inputs] = shape;
  const count = experts * outputs * inputs;
  const values = numbersOf(random, count, dtype, 1 / Math.sqrt(inputs));
  return { values, weight: Weight.dense(Tensor.from(device, values, [experts, ...shape], dtype)) };
}

describe.each(await targetsHere())("mixtures of experts on $name", (target) => {
  test("tokens go to their best experts, and entries lie in the order of experts", async () => {
    await using device = await target.open(2);
    const random = seeded(11);
    const sizes = [
      [1, 1],
      [1, 8],
      [5, 3],
      [9, 64],
      [70, 40],
      [33, 130],
      [3, 1024],
      [0, 4],
    ];
    for (const [i, [tokens, experts]] of sizes.entries()) {
      const dtype = (["f32", "bf16", "f16"] as const)[i % 3];
      const { routing, rows } = routed(device, random, tokens, experts, dtype);
      checkRouting(routing, rows);
      routing[Symbol.dispose]();
    }
  });

  test("random routings agree", async () => {
    await using device = await target.open(2);
    forSeeds(20, (random) => {
      const [tokens, experts] = [random.integer(1, 100), random.integer(1, 90)];
      const { routing, rows } = routed(
        device,
        random,
        tokens,
        experts,
        random.pick(["f32", "bf16"]),
      );
      checkRouting(routing, rows);
      routing[Symbol.dispose]();
    });
  });

  test("rows of a group take its weight, gathered, of any sizes of groups", async () => {
    await using device = await target.open(2);
    const random = seeded(12);
    for (const [i, most] of [3, 20, 70, 200].entries()) {
      for (const dtype of ["bf16", "f16", "f32"] as const) {
        if (dtype === "f32" && most > 20) continue;
        const experts = [1, 5, 3, 2][i];
        const counts = Array.from({ length: experts }, () => random.pick([0, 1, most]));
        const starts = Int32Array.from([0, ...counts]).map(
          (
            (sum) => (n) =>
              (sum += n)
          )(0),
        );
        const count = starts[experts] + 2; // two rows belong to nobody
        const [xRows, inputs, outputs] = [7, 48 + 8 * i, 2 * random.integer(3, 40)];
        const x = numbersOf(random, xRows * inputs, dtype);
        const rows = Int32Array.from({ length: count }, () => random.integer(-1, xRows - 1));
        const { weight, values } = stackOf(device, random, experts, [outputs, inputs], dtype);
        using input = Tensor.from(device, x, [xRows, inputs], dtype);
        using list = Tensor.from(device, rows, [count], "i32");
        using begins = Tensor.from(device, starts, [experts + 1], "i32");
        const gated = i % 2 === 0;
        const columns = gated ? outputs / 2 : outputs;
        using out = Tensor.from(
          device,
          new Array(count * columns).fill(0),
          [count, columns],
          dtype,
        );
        const groups = { starts: begins, rows: list };
        matmul(input, weight, { groups, gated, activation: gated ? "silu" : "none", out });
        const wanted = groupsInF64(x, values, starts, rows, [outputs, inputs], gated);
        expectProduct(out.toFloat64Array(), wanted, dtype, `${dtype}, groups of ${counts}`);
        weight[Symbol.dispose]();
      }
    }
  });

  test("weights of experts may be held in codes, and have biases", async () => {
    await using device = await target.open(2);
    const random = seeded(13);
    const held: Held[] = [
      { dtype: "u8", group: 32, minimums: true },
      { dtype: "i8", group: 16, minimums: false },
      { dtype: "f8e4m3", scales: "output" },
      { dtype: "f8e4m3", scales: "block" },
    ];
    for (const each of held) {
      const [experts, outputs, inputs, rows] = [3, 128, 128, 10];
      const { weight, values } = heldWeight(device, random, each, [experts, outputs, inputs]);
      const x = numbersOf(random, rows * inputs, "bf16");
      const biases = numbersOf(random, experts * outputs, "f32");
      using input = Tensor.from(device, x, [rows, inputs], "bf16");
      using starts = Tensor.from(device, [0, 4, 4, 10], [4], "i32");
      using bias = Tensor.from(device, biases, [experts, outputs], "f32");
      using out = matmul(input, weight, { groups: { starts }, bias });
      const order = Int32Array.from({ length: rows }, (_, i) => i);
      const wanted = groupsInF64(x, values, [0, 4, 4, 10], order, [outputs, inputs], false);
      wanted.out.forEach((_, i) => {
        wanted.out[i] += biases[(i < 4 * outputs ? 0 : 2 * outputs) + (i % outputs)];
      });
      expectProduct(out.toFloat64Array(), wanted, "bf16", JSON.stringify(each));
      weight[Symbol.dispose]();
    }
  });

  test("a routing on another stream does not wait for the device's own, nor is it undone", async () => {
    await using device = await target.open(2);
    const second = device.createStream("second");
    using logits = Tensor.from(device, [1, 3, 2, 4, 0, 1], [2, 3], "f32");
    await device.stream.done();
    const busy = new ProbeParams();
    busy.microseconds = 100_000;
    device.launch(device.stream, device.kernel("probe_spin"), busy, 1);
    using routing = routeExperts(logits, { topK: 1, stream: second });
    await second.done();
    await device.stream.done();
    const wanted = [
      [1, 3, 2],
      [4, 0, 1],
    ].map((row) => chosenOf(Float64Array.from(row), { topK: 1 }));
    checkRouting(routing, wanted);
    // Nor does a graph that was not replayed yet leave the ticket as it was found.
    using fresh = ExpertRouting.create(device, 2, 1, 3);
    fresh.ticket.set([5]);
    using graph = device.capture(second, () => {
      routeExperts(logits, { topK: 1, out: fresh, stream: second });
    });
    routeExperts(logits, { topK: 1, out: fresh });
    checkRouting(fresh, wanted);
    graph.replay(device.stream);
    checkRouting(fresh, wanted);
  });

  test("a layer is the weighted sum of its experts, in a graph too", async () => {
    await using device = await target.open(2);
    const random = seeded(14);
    const [tokens, dim, hidden, experts, topK] = [13, 64, 40, 6, 2];
    const gateUp = stackOf(device, random, experts, [2 * hidden, dim], "f16");
    const down = stackOf(device, random, experts, [dim, hidden], "f16");
    using logits = Tensor.from(
      device,
      numbersOf(random, tokens * experts, "f32"),
      [tokens, experts],
      "f32",
    );
    const values = numbersOf(random, tokens * dim, "f16");
    using x = Tensor.from(device, values, [tokens, dim], "f16");
    using routing = ExpertRouting.create(device, tokens, topK, experts);
    using between = Tensor.empty(device, [tokens * topK, hidden], "f16");
    using results = Tensor.empty(device, [tokens * topK, dim], "f16");
    using out = Tensor.zeros(device, [tokens, dim], "f32");
    const options: MoeOptions = { gateUp: gateUp.weight, down: down.weight };
    const queue = () => {
      routeExperts(logits, { topK, renormalize: true, out: routing });
      moe(x, routing, { ...options, hidden: between, results, residual: x, out });
    };
    expect(() => moe(x, routing, { ...options, residual: x, out: x })).not.toThrow();
    x.copyFrom(Tensor.from(device, values, [tokens, dim], "f16"));
    queue();
    const got = out.toFloat64Array();
    const weights = routing.weights.toFloat64Array();
    const chosen = routing.experts.toFloat64Array();
    for (let t = 0; t < tokens; t++) {
      const row = values.subarray(t * dim, (t + 1) * dim);
      const sum = Float64Array.from(row);
      for (let slot = 0; slot < topK; slot++) {
        const e = chosen[t * topK + slot];
        const part = (all: Float64Array) =>
          all.subarray((e * all.length) / experts, ((e + 1) * all.length) / experts);
        const gate = { rows: 1, x: row, gated: true, activation: "silu" as const };
        const inner = expectedProduct({
          ...gate,
          inputs: dim,
          outputs: 2 * hidden,
          weight: part(gateUp.values),
        });
        const last = { rows: 1, x: roundTo("f16", inner.out), inputs: hidden, outputs: dim };
        const { out: y } = expectedProduct({ ...last, weight: part(down.values) });
        y.forEach((value, i) => (sum[i] += weights[t * topK + slot] * value));
      }
      sum.forEach((value, i) => expect(Math.abs(got[t * dim + i] - value)).toBeLessThan(6e-3));
    }
    using graph = device.capture(device.stream, queue);
    out.copyFrom(x);
    graph.replay(device.stream);
    expect(out.toFloat64Array()).toEqual(got);
    for (const { weight } of [gateUp, down]) weight[Symbol.dispose]();
  });
});

test.each(await targetsHere())("bad input is refused by name, on $name", async (target) => {
  await using device = await target.open(1);
  const zeros = (shape: number[], dtype: DType = "f32") => Tensor.zeros(device, shape, dtype);
  const logits = zeros([3, 4]);
  const routing = routeExperts(logits, { topK: 2 });
  const stack = Weight.dense(zeros([4, 6, 8]));
  const x = zeros([3, 8]);
  const { starts, places } = routing;
  const overPlaces = Tensor.fromPointer(device, places.address, [3, 2], "f32");
  const [gateUp, down] = [stack, Weight.dense(zeros([4, 8, 3]))];
  const refused: [string, () => unknown][] = [
    ["topK", () => routeExperts(logits, { topK: 0 })],
    ["topK", () => routeExperts(logits, { topK: 5 })],
    ["logits", () => routeExperts(zeros([4]), { topK: 1 })],
    ["logits", () => routeExperts(zeros([2, 4], "i32"), { topK: 1 })],
    ["logits", () => routeExperts(zeros([1, 1025]), { topK: 1 })],
    ["scoring", () => routeExperts(logits, { topK: 1, scoring: "max" as "softmax" })],
    ["renormalize", () => routeExperts(logits, { topK: 1, renormalize: 1 as unknown as boolean })],
    ["scale", () => routeExperts(logits, { topK: 1, scale: NaN })],
    ["bias", () => routeExperts(logits, { topK: 1, bias: zeros([3]) })],
    ["out", () => routeExperts(logits, { topK: 1, out: routing })],
    ["groups", () => routeExperts(logits, { topK: 1, groups: 2 as unknown as ExpertGroups })],
    ["groups.count", () => routeExperts(logits, { topK: 1, groups: { count: 3, kept: 1 } })],
    ["groups.kept", () => routeExperts(logits, { topK: 3, groups: { count: 2, kept: 1 } })],
    [
      "groups.best",
      () => routeExperts(logits, { topK: 1, groups: { count: 2, kept: 1, best: 2 } }),
    ],
    ["groups", () => matmul(x, stack)],
    ["groups", () => matmul(x, Weight.dense(zeros([6, 8])), { groups: { starts } })],
    ["groups.starts", () => matmul(x, stack, { groups: { starts: zeros([4], "i32") } })],
    ["groups.rows", () => matmul(x, stack, { groups: { starts, rows: zeros([3]) } })],
    ["bias", () => matmul(x, stack, { groups: { starts }, bias: zeros([6]) })],
    ["y", () => combineExperts(zeros([5, 8]), routing)],
    ["routing", () => combineExperts(zeros([6, 8]), {} as ExpertRouting)],
    ["residual", () => combineExperts(zeros([6, 8]), routing, { residual: zeros([3, 7]) })],
    ["out", () => combineExperts(zeros([6, 8]), routing, { out: zeros([3, 7]) })],
    ["out", () => combineExperts(zeros([6, 2]), routing, { out: routing.weights })],
    ["out", () => combineExperts(zeros([6, 2]), routing, { out: overPlaces })],
    ["gateUp", () => moe(x, routing, { gateUp: Weight.dense(zeros([6, 8])), down })],
    ["down", () => moe(x, routing, { gateUp, down: Weight.dense(zeros([3, 8, 3])) })],
    ["x", () => moe(zeros([2, 8]), routing, { gateUp, down })],
  ];
  for (const [option, call] of refused) {
    let error: unknown;
    try {
      call();
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(OptionError);
    expect({ option: (error as OptionError).option }).toEqual({ option });
  }
});
