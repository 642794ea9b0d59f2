import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { attend } from "../../src/attention/attend.ts";
import { Device } from "../../src/device/device.ts";
import { VariantError } from "../../src/errors.ts";
import { dtypeBytes, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { arithmetic } from "../../src/variant/arithmetic.ts";
import { limits } from "../../src/variant/bytecode.ts";
import { defineVariant } from "../../src/variant/define.ts";
import { emitBytecode } from "../../src/variant/emit-bytecode.ts";
import { type Environment, evaluate, Evaluator } from "../../src/variant/evaluate.ts";
import type { InputName, TensorDtype } from "../../src/variant/expression.ts";
import { stage } from "../../src/variant/stages.ts";
import type { F32, I32 } from "../../src/variant/values.ts";
import type { Variant } from "../../src/variant/variant.ts";
import { type Inputs, randomExpression, randomGrid } from "../support/expressions.ts";
import { forSeeds, type Random, seeded } from "../support/random.ts";
import { levelsHere } from "../support/targets.ts";
import { functionErrors } from "../support/tolerance.ts";
import { VariantProbe } from "../support/variant-probe.ts";

const epsilon = 2 ** -23;

function compile(variant: Variant): Int32Array {
  return emitBytecode(stage(variant));
}

/** What a tensor is for the probe. */
function placed({ address, shape: sizes, strides }: Tensor) {
  return { address, sizes, strides };
}

function numbers(count: number, make: (index: number) => number): Float64Array {
  return Float64Array.from({ length: count }, (_, index) => make(index));
}

const vectors = {
  norm: (x) => x.mul(x.mul(x).sum().mul(0.01).add(1e-6).rsqrt()),
  peak: (x, { element }) => x.sub(x.max()).exp().add(element.toF32().mul(0.01)),
  halves: (x, { at }) =>
    x.rotate({ dim: 6 }, (pair) => {
      const angle = at.and(15).toF32().mul(pair.toF32().mul(-0.7).exp());
      return [angle.cos(), angle.sin()];
    }),
  neighbours: (x, { at, kvHead }) =>
    x.rotate({ dim: 8, interleaved: true }, (pair) => {
      const angle = at.add(kvHead).and(15).toF32().mul(0.1).add(pair.toF32());
      return [angle.cos(), angle.sin()];
    }),
  nested: (x, { element }) => x.mul(element.and(3).toF32()).sum().mul(x).add(x.abs().max().tanh()),
} satisfies Record<string, (x: F32, context: { element: I32; kvHead: I32; at: I32 }) => F32>;

const vectorHooks = ["query", "key", "value"] as const;

function vectorVariant(
  hook: (typeof vectorHooks)[number],
  body: (x: F32, context: { element: I32; kvHead: I32; at: I32 }) => F32,
): Variant {
  return defineVariant({
    name: "vectors",
    [hook]: (x: F32, context: Record<string, I32>) => {
      const at = context[hook === "query" ? "query" : "slot"];
      return body(x, { element: context.element, kvHead: context.kvHead, at });
    },
  });
}

/** Loads one of every dtype, some of them out of bounds; f32 or i32 becomes f32. */
const dtypes = ["f32", "f16", "bf16", "f8e4m3", "f8e5m2", "i32", "u8", "bool"] as const;

function loading(dtype: TensorDtype) {
  return defineVariant({
    name: dtype,
    softmax: false,
    tensors: { t: { dtype, shape: ["any", "any", 3] } },
    logits: (x, { t, key, query, head }) => {
      const value = t.at(query.sub(3), key, head.and(1)) as F32 & I32;
      return x.add(["i32", "u8", "bool"].includes(dtype) ? value.toF32() : value);
    },
  });
}

const levels = await levelsHere();
describe.each(levels)("bytecode on %s", (level) => {
  let device: Device;
  let probe: VariantProbe;
  beforeAll(async () => {
    device = await Device.open("cpu", { level, threads: 1 });
    probe = new VariantProbe(device);
  });
  afterAll(async () => {
    probe[Symbol.dispose]();
    await device[Symbol.asyncDispose]();
  });

  test("2,000 random expressions give what they mean, in both layouts", () => {
    forSeeds(2000, (random) => {
      const made = randomExpression(random);
      const { variant, grid, scalars } = made;
      const tensors = variant.tensors.map(({ dtype }, i) => {
        const { data, sizes } = made.tensors[i];
        return Tensor.from(device, Float64Array.from(data), [...sizes], dtype);
      });
      const given = {
        program: compile(variant),
        section: "logits" as const,
        tensors: tensors.map(placed),
        scalars,
        whole: variant.scalars.map(({ type }) => type === "i32"),
      };
      const got = probe.run({ ...grid, ...given });
      expect(probe.run({ ...grid, ...given, keysInside: true })).toEqual(got);
      made.expected.forEach((expected, at) => {
        if (Math.abs(got[at] - expected) <= made.error[at]) return;
        const range = `${expected} to within ${made.error[at]}`;
        throw new Error(`pair ${at} is ${got[at]}, expected ${range}`);
      });
      for (const tensor of tensors) tensor[Symbol.dispose]();
    });
  });

  test.each(Object.entries(functionErrors))("%s errs as the table says", (name, limit) => {
    const op = name as keyof typeof functionErrors;
    const random = seeded(1);
    const [rows, keys] = [64, 128].map((count) => Array.from({ length: count }, () => ({})));
    for (const exponent of op === "pow" ? [-1.75, 0.01, 0.5, 1.75] : [0]) {
      const variant = defineVariant({
        name,
        softmax: false,
        logits: (x) => (op === "pow" ? x.pow(exponent) : x[op]()),
      });
      const x = numbers(rows.length * keys.length, (i) => inRange(random, limit, i));
      const got = probe.run({ program: compile(variant), section: "logits", rows, keys, x });
      const compute = arithmetic(op, "f32")!;
      const absolute = op === "sin" || op === "cos";
      const worst = x.reduce((most, value, i) => {
        const exact = compute(value, Math.fround(exponent), 0);
        return Math.max(most, Math.abs(got[i] - exact) / (absolute ? 1 : Math.abs(exact)));
      }, 0);
      expect(worst / epsilon).toBeLessThan(limit.epsilons);
      expect(worst).toBeGreaterThan(epsilon / 8);
    }
  });

  test("functions at the ends of their ranges", () => {
    const x = [Infinity, -Infinity, NaN, 0, -1, 1e30, -1e30, 1e-45];
    const rows = [{}];
    const keys = x.map(() => ({}));
    for (const op of ["exp", "log", "tanh", "sigmoid", "sqrt", "floor", "abs"] as const) {
      const variant = defineVariant({ name: op, softmax: false, logits: (v) => v[op]() });
      const got = probe.run({ program: compile(variant), section: "logits", rows, keys, x });
      const exact = x.map((value) => arithmetic(op, "f32")!(Math.fround(value), 0, 0));
      exact.forEach((value, i) => {
        if (
          Math.abs(got[i] - value) > 1e-6 * Math.abs(value) + 1e-40 ||
          isNaN(value) !== isNaN(got[i])
        )
          throw new Error(`${op}(${x[i]}) is ${got[i]}, expected ${value}`);
      });
    }
  });

  test.each(vectorHooks)("%s hooks change vectors", (hook) => {
    const random = seeded(3);
    for (const dim of [8, 12, 33, 64, 128, 576]) {
      for (const [name, body] of Object.entries(vectors)) {
        const count = random.pick([1, 5, 30]);
        const variant = vectorVariant(hook, body);
        const grid = randomGrid(random, count, count);
        // A pass knows one head of keys.
        for (const row of grid.rows) row.kvHead = grid.rows[0].kvHead;
        const x = numbers(count * dim, () => Math.fround(random.normal()));
        const got = probe.run({ program: compile(variant), section: hook, ...grid, x, dim });
        const evaluator = new Evaluator(variant.hooks[hook]!);
        for (let i = 0; i < count; i++) {
          const inputs = { ...grid.rows[0], ...grid.rows[i], ...grid.keys[i] };
          const exact = evaluator.vector(x.subarray(i * dim, i * dim + dim), { inputs });
          const scale = Math.hypot(...exact) / Math.sqrt(dim) + 1;
          exact.forEach((value, d) => {
            if (Math.abs(got[i * dim + d] - value) <= 2e-5 * scale) return;
            const at = `${hook} ${name} of ${dim}, vector ${i}, element ${d}`;
            throw new Error(`${at} is ${got[i * dim + d]}, expected ${value}`);
          });
        }
      }
    }
  });

  test("output hooks change rows, with what their row is", () => {
    const variant = defineVariant({
      name: "output",
      output: (x, { element, head, queryLength, lse }) =>
        x
          .mul(head.toF32())
          .add(lse.mul(element.and(3).toF32()))
          .add(queryLength.toF32()),
    });
    const [count, dim] = [40, 100];
    const rows = Array.from({ length: count }, (_, head) => {
      return { head, queryLength: 3 * head, lse: head / 8 - 1 };
    });
    const x = numbers(count * dim, (i) => (i % 17) - 8);
    const given = { program: compile(variant), section: "output" as const, rows, keys: [{}] };
    probe.run({ ...given, x, dim }).forEach((value, i) => {
      const { head, queryLength, lse } = rows[Math.floor(i / dim)];
      expect(value).toBe(x[i] * head + lse * ((i % dim) & 3) + queryLength);
    });
  });

  test.each(dtypes)("loads of %s are within the tensor, whatever its strides", (dtype) => {
    const random = seeded(7);
    const variant = loading(dtype);
    const whole = ["i32", "u8", "bool"].includes(dtype);
    const most = dtype === "bool" ? 1 : dtype === "u8" ? 255 : 400;
    const make = () =>
      whole ? random.integer(dtype === "i32" ? -most : 0, most) : random.normal();
    // Rows of 5, of which the view leaves out the first and the last of the innermost axis.
    const raw = numbers(6 * 19 * 5, make);
    const rounded = whole ? raw : roundTo(dtype as "f32", raw);
    using base = Tensor.from(device, rounded, [6, 19, 5], dtype);
    const view = base.slice(2, 1, 4);
    const rows = Array.from({ length: 12 }, (_, query) => ({ query, head: query * 7 }));
    const keys = Array.from({ length: 40 }, (_, key) => ({ key: key - 9 }));
    const x = numbers(rows.length * keys.length, () => 0);
    const given = { program: compile(variant), rows, keys, x, tensors: [placed(view)] };
    const data = view.toFloat64Array();
    for (const keysInside of [false, true]) {
      const got = probe.run({ ...given, section: "logits", keysInside });
      rows.forEach((row, i) =>
        keys.forEach((key, j) => {
          const at = clamp(row.query - 3, 5) * 19 + clamp(key.key, 18);
          expect(got[i * keys.length + j]).toBe(data[at * 3 + (row.head & 1)]);
        }),
      );
    }
    expect(dtypeBytes(dtype)).toBeGreaterThan(0);
  });

  test.each(["f32", "f16", "bf16", "i32"] as const)("stores of %s: visible pairs only", (dtype) => {
    const variant = defineVariant({
      name: "stores",
      softmax: false,
      tensors: { t: { dtype, shape: ["any", "any"] } },
      mask: ({ query, key }) => key.le(query.add(2)).and(key.add(query).mod(3).ne(0)),
      logits: (x, { t, query, key }) => {
        t.put((dtype === "i32" ? query.mul(key) : x.mul(0.5)) as F32 & I32, query, key.add(1));
        return x.add(1);
      },
    });
    const [rows, keys] = [23, 37].map((count, axis) =>
      Array.from({ length: count }, (_, at) => ({ [axis ? "key" : "query"]: at }) as Inputs),
    );
    const x = numbers(rows.length * keys.length, (i) => (i % 31) - 15);
    for (const keysInside of [false, true]) {
      for (const masked of [false, true]) {
        using t = Tensor.from(
          device,
          numbers(20 * 30, () => -99),
          [20, 30],
          dtype,
        );
        const given = { program: compile(variant), tensors: [placed(t)], keysInside, masked };
        const got = probe.run({ section: "logits", ...given, rows, keys, x });
        const expected = numbers(20 * 30, () => -99);
        rows.forEach((_, query) =>
          keys.forEach((_, key) => {
            const at = query * keys.length + key;
            // Where the planner knows all to be visible, the rest of the mask is not asked.
            const sees = key <= query + 2 && (!masked || (key + query) % 3 !== 0);
            expect(got[at]).toBe(sees ? x[at] + 1 : 0);
            if (!sees || query >= 20 || key >= 29) return;
            expected[query * 30 + key + 1] = dtype === "i32" ? query * key : x[at] / 2;
          }),
        );
        expect(t.toFloat64Array()).toEqual(expected);
      }
    }
  });

  test("hooks leave alone what pads odd dims", () => {
    const variant = defineVariant({
      name: "plus",
      query: (x) => x.add(1),
      key: (x, { key }) => x.add(key.toF32().mul(0.05)),
      value: (x) => x.add(1),
      output: (x) => x.sub(1),
    });
    for (const dim of [24, 40]) {
      for (const queries of [1, 40]) {
        const random = seeded(dim);
        const make = (tokens: number) => numbers(tokens * dim, () => Math.fround(random.normal()));
        const [q, k, v] = [queries, 70, 70].map(make);
        const upload = (values: Float64Array, added: number, byToken = 0) => {
          const token = (i: number) => Math.floor(i / dim);
          const plus = values.map((value, i) => value + added + byToken * token(i));
          return Tensor.from(device, plus, [values.length / dim, 1, dim], "f32");
        };
        const hooked = attend(upload(q, 0), upload(k, 0), upload(v, 0), { variant });
        const plain = attend(upload(q, 1), upload(k, 0, 0.05), upload(v, 0));
        const expected = plain.out.toFloat64Array();
        hooked.out
          .toFloat64Array()
          .forEach((value, i) => expect(value).toBeCloseTo(expected[i], 4));
      }
    }
  });

  test("masks hide what bounds and the rest of them say", () => {
    forSeeds(100, (random) => {
      const [window, period] = [random.integer(1, 20), random.integer(2, 5)];
      const variant = defineVariant({
        name: "mask",
        mask: ({ query, key, head }) => {
          const near = key.le(query).and(query.sub(key).lt(window));
          return random.chance(0.5) ? near : near.and(key.add(head).mod(period).eq(0));
        },
      });
      const { rows, keys, x } = randomGrid(random, random.integer(1, 70), random.integer(1, 70));
      const places = random.integer(0, 40);
      keys.forEach((key, at) => (key.key = places + at));
      rows.forEach((row) => (row.query = random.integer(0, 90)));
      const given = { program: compile(variant), section: "logits" as const, rows, keys, x };
      const got = probe.run({ ...given, masked: true });
      expect(probe.run({ ...given, masked: true, keysInside: true })).toEqual(got);
      rows.forEach((row, i) =>
        keys.forEach((key, j) => {
          const at = i * keys.length + j;
          const inputs = { ...row, ...key } as Environment["inputs"];
          const sees = evaluate(variant.hooks.mask!, { inputs }) !== 0;
          expect(got[at]).toBe(sees ? x[at] : -Infinity);
        }),
      );
    });
  });
});

function clamp(index: number, most: number): number {
  return Math.max(0, Math.min(most, index));
}

/** Evenly, and near the end that is closest to 0. */
function inRange(random: Random, { from, to }: { from: number; to: number }, i: number): number {
  if (i % 2 === 0) return Math.fround(from + (to - from) * random.next());
  if (from > 0) return Math.fround(from * (to / from) ** random.next());
  return Math.fround((random.chance(0.5) ? from : to) * 10 ** (-30 * random.next()));
}

test("words that a program has no room for are computed where they are read", async () => {
  await using device = await Device.open("cpu", { threads: 1 });
  using probe = new VariantProbe(device);
  const count = 2 * limits.row;
  const variant = defineVariant({
    name: "many words",
    softmax: false,
    logits: (x, { query, key }) => {
      let sum = x;
      for (let i = 1; i <= count; i++)
        sum = sum.add(
          query
            .add(i)
            .toF32()
            .sin()
            .mul(
              key
                .add(i)
                .toF32()
                .add(i / 1024)
                .cos(),
            ),
        );
      return sum;
    },
  });
  const { rows, keys, x } = randomGrid(seeded(5), 20, 30);
  const got = probe.run({ program: compile(variant), section: "logits", rows, keys, x });
  const evaluator = new Evaluator(variant.hooks.logits!);
  got.forEach((value, at) => {
    const inputs = { ...rows[Math.floor(at / 30)], ...keys[at % 30], x: x[at] };
    expect(value).toBeCloseTo(evaluator.run({ inputs: inputs as Record<InputName, number> }), 3);
  });
});

test("a hook that holds more values than there are registers is refused", () => {
  const variant = defineVariant({
    name: "wide",
    softmax: false,
    logits: (x) => {
      const values = Array.from({ length: limits.registers }, (_, i) => x.add(i + 0.5).sin());
      const sum = values.reduce((total, value) => total.add(value));
      return values.reduceRight((total, value) => total.mul(value), sum);
    },
  });
  expect(() => compile(variant)).toThrow(VariantError);
  expect(() => compile(variant)).toThrow(/more than 256 values at a time/);
});
