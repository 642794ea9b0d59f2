import { arithmetic } from "../../src/variant/arithmetic.ts";
import { type Environment, Evaluator } from "../../src/variant/evaluate.ts";
import type { Node, Op } from "../../src/variant/expression.ts";
import { nodesOf } from "../../src/variant/graph.ts";
import { functionErrors } from "./tolerance.ts";

/** Whose results are as exact as what they take. */
const exact: readonly Op[] = ["neg", "abs", "min", "max", "floor", "select"];

/** Rounding to f32, relative to the result; a fused operation leaves out some. */
const unit = 2 ** -24;

/**
 * What f32 makes of a hook's value at most, to first order: the roundings of its constants, inputs
 * and operations, each as far as it moves the value. Conditions are taken for exact.
 */
export function hookError(root: Node): (environment: Environment) => number {
  const nodes = nodesOf([root]);
  const evaluators = nodes.map((node) => new Evaluator(node));
  const places = new Map(nodes.map((node, place) => [node, place]));
  const inputs = nodes.map((node) => node.inputs.map((input) => places.get(input)!));
  return (environment) => {
    const values = evaluators.map((evaluator) => evaluator.run(environment));
    const errors = new Float64Array(nodes.length);
    nodes.forEach(({ op, type, inputs: from }, place) => {
      const value = values[place];
      const compute = from.length > 0 ? arithmetic(op, from[0].type) : undefined;
      if (type !== "f32") return;
      errors[place] = op === "input" ? unit * Math.abs(value) : roundingOf(op, value);
      if (compute === undefined) return;
      const operands = inputs[place].map((input) => values[input]);
      inputs[place].forEach((input, i) => {
        const moved = [-1, 1].map((sign) => {
          const near = operands.map((x, j) => (i === j ? x + sign * errors[input] : x));
          return Math.abs(compute(near[0], near[1], near[2]) - value);
        });
        errors[place] += Math.max(...moved);
      });
    });
    return errors[nodes.length - 1];
  };
}

/** What a result's own rounding does. */
function roundingOf(op: Op, value: number): number {
  if (["constant", "scalar", "load", "toF32"].includes(op))
    return Math.abs(Math.fround(value) - value);
  if (exact.includes(op)) return 0;
  if (!(op in functionErrors)) return unit * Math.abs(value);
  const { epsilons } = functionErrors[op as keyof typeof functionErrors];
  const size = op === "sin" || op === "cos" ? 1 : Math.abs(value);
  return epsilons * 2 * unit * size;
}
