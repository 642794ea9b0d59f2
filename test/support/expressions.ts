import { arithmetic } from "../../src/variant/arithmetic.ts";
import { defineVariant } from "../../src/variant/define.ts";
import type { EvaluationTensor } from "../../src/variant/evaluate.ts";
import type { InputName, Op } from "../../src/variant/expression.ts";
import type { Value } from "../../src/variant/value.ts";
import { Bool, F32, I32 } from "../../src/variant/values.ts";
import type { Variant } from "../../src/variant/variant.ts";
import { type Random } from "./random.ts";

export const rowInputs = [
  "query",
  "queryToken",
  "queryIndex",
  "request",
  "head",
  "kvHead",
  "queryLength",
  "kvLength",
] as const;
export const keyInputs = ["key", "slot"] as const;

export type Inputs = Partial<Record<InputName, number>>;

/** Rows, keys, and a logit for each pair of them, [rows, keys], known to within `xError`. */
export interface Grid {
  rows: Inputs[];
  keys: Inputs[];
  x: Float64Array;
  xError: number;
}

/** An expression with what it is over a grid, computed beside it, without any graph. */
export interface RandomExpression {
  /** Its logits hook is the expression; no softmax, so that nothing is scaled. */
  variant: Variant;
  grid: Grid;
  scalars: number[];
  tensors: EvaluationTensor[];
  /** [rows, keys] */
  expected: Float64Array;
  /** What f32 and approximate functions may make of it, [rows, keys]. */
  error: Float64Array;
}

/** A traced value with its values and errors over the grid. */
interface Known {
  value: Value;
  at: Float64Array;
  error: Float64Array;
}

const realUnary = [
  "neg",
  "abs",
  "floor",
  "exp",
  "log",
  "tanh",
  "sigmoid",
  "sqrt",
  "rsqrt",
  "sin",
  "cos",
] as const;
const realBinary = ["add", "sub", "mul", "div", "mod", "min", "max", "pow"] as const;
const wholeUnary = ["not", "neg", "abs"] as const;
const wholeBinary = [
  "add",
  "sub",
  "mul",
  "div",
  "mod",
  "min",
  "max",
  "and",
  "or",
  "xor",
  "shl",
  "shr",
] as const;
const truthBinary = ["and", "or", "xor", "eq", "ne"] as const;
const comparisons = ["lt", "le", "gt", "ge", "eq", "ne"] as const;

const scalarSpecs = { a: "f32", b: "f32", n: "i32" } as const;
const tensorSpecs = {
  grid: { dtype: "f32", shape: [3, 5] },
  half: { dtype: "f16", shape: ["any"] },
  brain: { dtype: "bf16", shape: ["any", 2] },
  whole: { dtype: "i32", shape: [7] },
  byte: { dtype: "u8", shape: ["any"] },
} as const;
const tensorSizes = [[3, 5], [4], [6, 2], [7], [9]];

/** Rounding of f32 and of functions that are approximate on some devices. */
const unit = 2 ** -23;
const approximate = 2e-6;
/** How far from a step an inexact value has to be, in its errors and at least. */
const safety = 16;
const gapLeast = 1e-4;
const largest = 1e4;

/** A grid of usual inputs; logits in f32. */
export function randomGrid(random: Random, rows = 4, keys = 16): Grid {
  const whole = (names: readonly InputName[]) =>
    Object.fromEntries(names.map((name) => [name, random.integer(0, random.pick([4, 50, 5000]))]));
  return {
    rows: Array.from({ length: rows }, () => whole(rowInputs)),
    keys: Array.from({ length: keys }, () => whole(keyInputs)),
    x: new Float64Array(rows * keys).map(() => Math.fround(random.normal() * 3)),
    xError: 0,
  };
}

/**
 * A random expression of all operations on f32, i32 and bool, with loads in and out of bounds. No
 * value over the grid is close to a step or grows beyond what f32 computes well.
 */
export function randomExpression(
  random: Random,
  options: { operations?: number; grid?: Grid } = {},
): RandomExpression {
  const { operations = random.integer(3, 40), grid = randomGrid(random) } = options;
  const scalars = [0.5 + random.next(), Math.fround(random.normal()), random.integer(-9, 99)];
  const eighth = () => random.integer(-16, 16) / 8;
  const tensors = tensorSizes.map((sizes, at) => {
    const length = sizes.reduce((product, size) => product * size, 1);
    const make = at < 3 ? eighth : () => random.integer(at === 3 ? -300 : 0, 255);
    return { data: Array.from({ length }, make), sizes };
  });
  scalars[0] = Math.fround(scalars[0]);
  let result: Known | undefined;
  const variant = defineVariant({
    name: `random expression ${random.seed}`,
    tensors: tensorSpecs,
    scalars: scalarSpecs,
    softmax: false,
    logits: (x, context) => {
      const growing = new Growing(random, grid, scalars, tensors, x, context as never);
      for (let i = 0; i < operations; i++) growing.step();
      result = growing.finish();
      return result.value as F32;
    },
  });
  return { variant, grid, scalars, tensors, expected: result!.at, error: result!.error };
}

type Indexed = { at(...indices: Value[]): F32 | I32 };

/** Values made so far; `step` makes another one from them. */
class Growing {
  readonly #random: Random;
  readonly #points: number;
  readonly #tensors: EvaluationTensor[];
  readonly #handles: Indexed[];
  readonly #f32: Known[] = [];
  readonly #i32: Known[] = [];
  readonly #bool: Known[] = [];
  readonly #unused = new Set<Known>();

  constructor(
    random: Random,
    grid: Grid,
    scalars: number[],
    tensors: EvaluationTensor[],
    x: F32,
    context: Record<string, Value>,
  ) {
    const keys = grid.keys.length;
    this.#random = random;
    this.#points = grid.rows.length * keys;
    this.#tensors = tensors;
    this.#handles = Object.keys(tensorSpecs).map((name) => context[name] as unknown as Indexed);
    this.#keep(
      x,
      (at) => grid.x[at],
      () => grid.xError,
    );
    Object.keys(scalarSpecs).forEach((name, at) => this.#keep(context[name], () => scalars[at]));
    for (const name of rowInputs)
      this.#keep(context[name], (at) => grid.rows[Math.floor(at / keys)][name] ?? 0);
    for (const name of keyInputs)
      this.#keep(context[name], (at) => grid.keys[at % keys][name] ?? 0);
  }

  step(): void {
    for (let attempt = 0; attempt < 20; attempt++) {
      const kind = this.#random.integer(0, 99);
      const made =
        kind < 40
          ? this.#real()
          : kind < 60
            ? this.#whole()
            : kind < 70
              ? this.#compare()
              : kind < 76
                ? this.#truth()
                : kind < 85
                  ? this.#select()
                  : kind < 92
                    ? this.#convert()
                    : this.#load();
      if (made) return;
    }
  }

  /** A sum that the latest values take part in; all comparisons decide something. */
  finish(): Known {
    let sum = this.#f32[0];
    for (const part of this.#f32.slice(-4)) sum = this.#apply("add", sum, part) ?? sum;
    for (const part of this.#i32.slice(-3)) {
      const term = this.#apply("toF32", this.#apply("and", part, this.#number(63, "i32"))!)!;
      sum = this.#apply("add", sum, term) ?? sum;
    }
    for (const condition of this.#unused)
      sum = this.#choose(condition, sum, this.#apply("neg", sum)!);
    return sum;
  }

  #real(): Known | undefined {
    const { pick, chance } = this.#random;
    if (chance(0.4)) return this.#apply(pick(realUnary), this.#recent(this.#f32));
    const op = pick(realBinary);
    const other = chance(0.25) ? this.#number(pick([0.5, 1, 2, -1, 3.25]), "f32") : undefined;
    return this.#apply(op, this.#recent(this.#f32), other ?? this.#recent(this.#f32));
  }

  #whole(): Known | undefined {
    const { pick, chance } = this.#random;
    if (chance(0.2)) return this.#apply(pick(wholeUnary), this.#recent(this.#i32));
    const other = chance(0.4) ? this.#number(pick([1, 2, 3, 4, 7, 31, -5]), "i32") : undefined;
    return this.#apply(
      pick(wholeBinary),
      this.#recent(this.#i32),
      other ?? this.#recent(this.#i32),
    );
  }

  #compare(): Known | undefined {
    const { pick, chance } = this.#random;
    const from = chance(0.5) ? this.#f32 : this.#i32;
    return this.#apply(pick(comparisons), this.#recent(from), this.#recent(from));
  }

  #truth(): Known | undefined {
    if (this.#bool.length === 0) return undefined;
    const a = this.#recent(this.#bool);
    if (this.#random.chance(0.2)) return this.#apply("not", a);
    return this.#apply(this.#random.pick(truthBinary), a, this.#recent(this.#bool));
  }

  #select(): Known | undefined {
    if (this.#bool.length === 0) return undefined;
    const from = this.#random.pick([this.#f32, this.#f32, this.#i32, this.#bool]);
    return this.#choose(this.#recent(this.#bool), this.#recent(from), this.#recent(from));
  }

  #choose(condition: Known, yes: Known, no: Known): Known {
    const value = (condition.value as Bool).select(yes.value as F32, no.value as F32);
    for (const used of [condition, yes, no]) this.#unused.delete(used);
    const from = (at: number) => (condition.at[at] === 0 ? no : yes);
    return this.#keep(
      value,
      (at) => from(at).at[at],
      (at) => from(at).error[at],
    );
  }

  #convert(): Known | undefined {
    return this.#random.chance(0.5)
      ? this.#apply("toF32", this.#recent(this.#i32))
      : this.#apply("toI32", this.#recent(this.#f32));
  }

  #load(): Known | undefined {
    const which = this.#random.integer(0, tensorSizes.length - 1);
    const { data, sizes } = this.#tensors[which];
    const indices = sizes.map(() => this.#recent(this.#i32));
    const value = this.#handles[which].at(...indices.map((index) => index.value));
    return this.#keep(value, (at) => {
      const offset = indices.reduce((sum, index, axis) => {
        const clamped = Math.max(0, Math.min(sizes[axis] - 1, index.at[at]));
        return sum * sizes[axis] + clamped;
      }, 0);
      return data[offset];
    });
  }

  /** One of the values, rather a late one. */
  #recent(values: readonly Known[]): Known {
    const back = Math.floor(this.#random.next() ** 2 * values.length);
    return values[values.length - 1 - back];
  }

  #number(value: number, type: "f32" | "i32"): Known {
    const zero = (type === "f32" ? this.#f32 : this.#i32)[0];
    const at = new Float64Array(this.#points).fill(value);
    return { value: value as unknown as Value, at, error: zero.at.map(() => 0) };
  }

  /** The operation on values, if it is safe at all points of the grid. */
  #apply(method: Op | "gt" | "ge", a: Known, b: Known = a): Known | undefined {
    const type = a.value.node.type;
    const swapped = method === "gt" || method === "ge";
    const op = method === "gt" ? "lt" : method === "ge" ? "le" : method;
    const compute = arithmetic(op, type)!;
    const at = a.at.map((x, i) => (swapped ? compute(b.at[i], x, 0) : compute(x, b.at[i], 0)));
    const error = at.map((r, i) =>
      type === "f32" ? errorOf(op, a.at[i], b.at[i], r, a.error[i], b.error[i]) : 0,
    );
    const isReal = (type === "f32" || op === "toF32") && !isComparison(op) && op !== "toI32";
    const isSafe = at.every(
      (r, i) =>
        Number.isFinite(r + error[i]) && (!isReal || Math.abs(r) + error[i] * 1e3 < largest),
    );
    if (!isSafe) return undefined;
    const receiver = a.value as unknown as Record<string, (other?: Value) => Value>;
    const isZero = b.at.every((x) => x === 0) && (op === "div" || op === "mod");
    if (isZero) return undefined;
    const value = a === b && arity(op) === 1 ? receiver[method]() : receiver[method](b.value);
    for (const used of [a, b]) this.#unused.delete(used);
    return this.#keep(
      value,
      (i) => at[i],
      (i) => error[i],
    );
  }

  #keep(
    value: Value,
    at: (point: number) => number,
    error: (point: number) => number = () => 0,
  ): Known {
    const points = Array.from({ length: this.#points }, (_, point) => point);
    const known = {
      value,
      at: Float64Array.from(points, at),
      error: Float64Array.from(points, error),
    };
    if (value instanceof Bool) this.#unused.add(known);
    (value instanceof F32 ? this.#f32 : value instanceof I32 ? this.#i32 : this.#bool).push(known);
    return known;
  }
}

function arity(op: Op): number {
  return [...realUnary, ...wholeUnary, "toF32", "toI32"].includes(op) ? 1 : 2;
}

function isComparison(op: Op): boolean {
  return op === "lt" || op === "le" || op === "eq" || op === "ne";
}

/** Bound on the error of an operation on f32; Infinity where it is close to a step. */
function errorOf(op: Op, a: number, b: number, r: number, ea: number, eb: number): number {
  const rounding = Math.abs(r) * unit;
  const clear = (distance: number, error: number) =>
    error === 0 || distance > safety * error + gapLeast;
  const toStep = (x: number) => Math.abs(x - Math.round(x));
  const when = (safe: boolean, error: number) => (safe ? error : Number.POSITIVE_INFINITY);
  switch (op) {
    case "add":
    case "sub":
      return ea + eb + rounding;
    case "mul":
      return Math.abs(a) * eb + Math.abs(b) * ea + ea * eb + 2 * rounding;
    case "div":
      return when(Math.abs(b) > 0.05, (ea + Math.abs(r) * eb) / Math.abs(b) + 4 * rounding);
    case "mod": {
      const turns = a / b;
      const error = (ea + Math.abs(turns) * eb) / Math.abs(b) + Math.abs(turns) * 4 * unit;
      const safe = Math.abs(b) > 0.05 && toStep(turns) > safety * error + gapLeast;
      return when(safe, ea + (Math.abs(turns) + 1) * (eb + Math.abs(b) * 4 * unit));
    }
    case "min":
    case "max":
      return Math.max(ea, eb);
    case "pow": {
      const log = Math.abs(Math.log(a));
      const error = Math.abs(r) * ((Math.abs(b) * ea) / a + log * eb + 1e-5 * (1 + log));
      return when(a > 0.05 && a < 20 && Math.abs(b) < 4, error);
    }
    case "neg":
    case "abs":
      return ea;
    case "floor":
      return when(clear(toStep(a), ea), 0);
    case "toI32":
      return when(clear(Math.abs(a) < 0.5 ? 1 : toStep(a), ea), 0);
    case "exp":
      return when(a < 8 && a > -30, r * (ea + approximate * (1 + Math.abs(a))));
    case "log":
      return when(a > 0.01, ea / a + approximate * (1 + Math.abs(r)));
    case "tanh":
    case "sigmoid":
      return ea + approximate;
    case "sqrt":
      return when(a > 0.01, ea / r + 4 * rounding);
    case "rsqrt":
      return when(a > 0.01, ea * r ** 3 + 4 * rounding);
    case "sin":
    case "cos":
      return when(Math.abs(a) < 8, ea + approximate);
    default:
      return when(clear(Math.abs(a - b), ea + eb), 0);
  }
}
