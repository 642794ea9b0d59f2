import { describe, expect, test } from "bun:test";
import { defineVariant } from "../../src/variant/define.ts";
import { Evaluator, partnerOf } from "../../src/variant/evaluate.ts";
import type { Node } from "../../src/variant/expression.ts";
import { nodesOf } from "../../src/variant/graph.ts";
import { stage } from "../../src/variant/stages.ts";
import type { F32 } from "../../src/variant/values.ts";
import { randomExpression, type RandomExpression } from "../support/expressions.ts";
import { forSeeds, type Random } from "../support/random.ts";

/** Values over the grid; `factor` is what x is multiplied by. */
function over({ grid, scalars, tensors }: RandomExpression, node: Node, factor?: Node) {
  const evaluator = new Evaluator(node);
  const scale = factor === undefined ? 1 : new Evaluator(factor).run({ inputs: {}, scalars });
  const keys = grid.keys.length;
  return grid.x.map((x, at) => {
    const inputs = { ...grid.rows[Math.floor(at / keys)], ...grid.keys[at % keys], x: x * scale };
    return evaluator.run({ inputs, scalars, tensors });
  });
}

/** Far below what f32 makes of the value, and far above what f64 does. */
function expectNear(got: Float64Array, { expected, error }: RandomExpression): void {
  got.forEach((value, at) => {
    const allowed = Math.max(error[at], 1e-6) * 1e-3 + Math.abs(expected[at]) * 1e-9;
    if (!(Math.abs(value - expected[at]) <= allowed))
      throw new Error(`point ${at} is ${value}, expected ${expected[at]} to within ${allowed}`);
  });
}

describe("random expressions", () => {
  test("mean the same folded and shared as computed one by one", () => {
    forSeeds(600, (random) => {
      const made = randomExpression(random);
      expectNear(over(made, made.variant.hooks.logits!), made);
    });
  });

  test("mean the same in stages", () => {
    forSeeds(600, (random) => {
      const made = randomExpression(random);
      const { logits, logitsFactor } = stage(made.variant);
      expectNear(over(made, logits!, logitsFactor), made);
    });
  });

  test("mean the same in base 2", () => {
    forSeeds(400, (random) => {
      const made = randomExpression(random);
      const { logits, logitsFactor } = stage({ ...made.variant, softmax: true });
      const got = over(made, logits!, logitsFactor).map((value) => value * Math.LN2);
      expectNear(got, made);
    });
  });

  test("hold every operation, of every type that has it", () => {
    const seen = new Set<string>();
    forSeeds(
      300,
      (random) => {
        const { variant } = randomExpression(random);
        for (const { op, type, inputs } of nodesOf([variant.hooks.logits!]))
          seen.add(`${op} ${inputs[0]?.type ?? type}`);
      },
      5000,
    );
    const real =
      "add sub mul div mod min max pow neg abs floor exp log tanh sigmoid sqrt rsqrt sin cos " +
      "toI32 " +
      "lt le eq ne constant scalar input";
    const whole =
      "add sub mul div mod min max neg abs and or xor not shl shr lt le eq ne toF32 constant " +
      "scalar " +
      "input load";
    const truth = "and or xor not select eq ne";
    const wanted = Object.entries({ f32: real, i32: whole, bool: truth }).flatMap(([type, ops]) =>
      ops.split(" ").map((op) => `${op} ${type}`),
    );
    expect(wanted.filter((name) => !seen.has(name))).toEqual([]);
  });
});

/** A value of a vector hook with its elements. */
type Vector = [value: F32, elements: number[]];

/** Steps of a vector hook: the operation on a value, and on its elements. */
function randomStep(random: Random, [x, a]: Vector, [y, b]: Vector, position: F32): Vector {
  const dim = 2 * random.integer(1, a.length >> 1);
  const interleaved = random.chance(0.5);
  const each = (compute: (value: number, d: number) => number) => a.map(compute);
  const sum = a.reduce((total, value) => total + value, 0);
  return random.pick<() => Vector>([
    () => [x.add(y), each((value, d) => value + b[d])],
    () => [x.mul(y), each((value, d) => value * b[d])],
    () => [x.sub(0.5).neg(), each((value) => 0.5 - value)],
    () => [x.tanh(), each(Math.tanh)],
    () => [x.lt(y).select(x, 0), each((value, d) => (value < b[d] ? value : 0))],
    () => [x.sub(x.sum().div(8)), each((value) => value - sum / 8)],
    () => [x.mul(x.abs().max().add(1).rsqrt()), each((v) => v / Math.sqrt(1 + largest(a)))],
    () => [
      x.rotate({ dim, interleaved }, (pair) => [position, pair.toF32()]),
      each((value, d) => {
        const first = interleaved ? d % 2 === 0 : d < dim / 2;
        const pair = interleaved ? d >> 1 : d % (dim / 2);
        const other = a[partnerOf(d, interleaved ? -dim : dim)];
        return d < dim ? value * 3 + (first ? -other : other) * pair : value;
      }),
    ],
  ])();
}

function largest(values: readonly number[]): number {
  return Math.max(...values.map(Math.abs));
}

test("random vector hooks mean the same folded, shared and staged", () => {
  forSeeds(400, (random) => {
    const x = Array.from({ length: random.integer(4, 12) }, () => random.normal());
    let expected: number[] = [];
    const variant = defineVariant({
      name: "random vector",
      key: (raw, { key, element }) => {
        const made: Vector[] = [
          [raw, x],
          [element.toF32(), x.map((_, d) => d)],
        ];
        for (let i = random.integer(1, 12); i > 0; i--) {
          const step = randomStep(random, made.at(-1)!, random.pick(made), key.toF32());
          if (largest(step[1]) < 1e6) made.push(step);
        }
        const last: Vector = [made.at(-1)![0].add(raw), made.at(-1)![1].map((v, d) => v + x[d])];
        expected = last[1];
        return last[0];
      },
    });
    for (const hook of [variant.hooks.key!, stage(variant).key!]) {
      const got = new Evaluator(hook).vector(x, { inputs: { key: 3 } });
      got.forEach((value, d) => {
        if (!(Math.abs(value - expected[d]) <= 1e-9 * (1 + largest(expected))))
          throw new Error(`element ${d} is ${value}, expected ${expected[d]}`);
      });
    }
  });
});
