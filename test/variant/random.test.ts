import { describe, expect, test } from "bun:test";
import { Evaluator } from "../../src/variant/evaluate.ts";
import type { Node } from "../../src/variant/expression.ts";
import { nodesOf } from "../../src/variant/graph.ts";
import { stage } from "../../src/variant/stages.ts";
import { randomExpression, type RandomExpression } from "../support/expressions.ts";
import { forSeeds } from "../support/random.ts";

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
      "add sub mul div mod min max pow neg abs floor exp log tanh sigmoid sqrt rsqrt sin cos toI32 " +
      "lt le eq ne constant scalar input";
    const whole =
      "add sub mul div mod min max neg abs and or xor not shl shr lt le eq ne toF32 constant scalar " +
      "input load";
    const truth = "and or xor not select eq ne";
    const wanted = Object.entries({ f32: real, i32: whole, bool: truth }).flatMap(([type, ops]) =>
      ops.split(" ").map((op) => `${op} ${type}`),
    );
    expect(wanted.filter((name) => !seen.has(name))).toEqual([]);
  });
});
