import { describe } from "../describe.ts";
import { Axis, type Node, type Op } from "./expression.ts";
import { kindOf, noteUses, type Tracer, used, Value, VariantMatrix } from "./value.ts";

/** What F32 and I32 have in common. */
export abstract class Numeric<Self extends Value> extends Value {
  add(other: Self | number): Self {
    return combine(this, "add", other);
  }

  sub(other: Self | number): Self {
    return combine(this, "sub", other);
  }

  mul(other: Self | number): Self {
    return combine(this, "mul", other);
  }

  /** The quotient; of an I32 rounded down, and 0 for a divisor of 0. */
  div(other: Self | number): Self {
    return combine(this, "div", other);
  }

  /** this - other * floor(this / other): it has the divisor's sign. */
  mod(other: Self | number): Self {
    return combine(this, "mod", other);
  }

  min(other: Self | number): Self {
    return combine(this, "min", other);
  }

  neg(): Self {
    return alone(this, "neg");
  }

  abs(): Self {
    return alone(this, "abs");
  }

  lt(other: Self | number): Bool {
    return combine(this, "lt", other);
  }

  le(other: Self | number): Bool {
    return combine(this, "le", other);
  }

  gt(other: Self | number): Bool {
    return swapped(this, "lt", other);
  }

  ge(other: Self | number): Bool {
    return swapped(this, "le", other);
  }

  eq(other: Self | number): Bool {
    return combine(this, "eq", other);
  }

  ne(other: Self | number): Bool {
    return combine(this, "ne", other);
  }
}

/** A 32-bit float; in query, key, value and output hooks maybe one for each element of a vector. */
export class F32 extends Numeric<F32> {
  /** The larger of two values; without an argument, the largest element of a vector. */
  max(other?: F32 | number): F32 {
    return other === undefined ? this.#reduce("reduceMax") : combine(this, "max", other);
  }

  /** The sum of a vector's elements. */
  sum(): F32 {
    return this.#reduce("reduceSum");
  }

  /** With whole exponents from 1 to 8 any base is allowed, with others only bases above 0. */
  pow(exponent: F32 | number): F32 {
    if (typeof exponent !== "number" || !(exponent >= 1 && exponent <= 8 && exponent % 1 === 0))
      return combine(this, "pow", exponent);
    if (exponent === 1) return this;
    const half = this.pow(exponent >> 1 || 1);
    return exponent % 2 === 0 ? half.mul(half) : this.mul(this.pow(exponent - 1));
  }

  floor(): F32 {
    return alone(this, "floor");
  }

  exp(): F32 {
    return alone(this, "exp");
  }

  /** The natural logarithm. */
  log(): F32 {
    return alone(this, "log");
  }

  tanh(): F32 {
    return alone(this, "tanh");
  }

  /** 1 / (1 + exp(-this)). */
  sigmoid(): F32 {
    return alone(this, "sigmoid");
  }

  sqrt(): F32 {
    return alone(this, "sqrt");
  }

  /** 1 / sqrt(this). */
  rsqrt(): F32 {
    return alone(this, "rsqrt");
  }

  sin(): F32 {
    return alone(this, "sin");
  }

  cos(): F32 {
    return alone(this, "cos");
  }

  /** Without its fraction; beyond the range of an I32, the nearest end of it. */
  toI32(): I32 {
    return alone(this, "toI32");
  }

  /**
   * A vector whose leading pairs of elements are turned: (a, b) to (a cos - b sin, a sin + b cos).
   *
   * @param pairing dim: leading elements that turn, even and at most the vector's length;
   *   interleaved: pairs are neighbours, otherwise (i, i + dim / 2)
   * @param turn cosine and sine of the pair with an index from 0 to dim / 2 - 1
   */
  rotate(
    pairing: { dim: number; interleaved?: boolean },
    turn: (pair: I32) => readonly [cos: F32, sin: F32],
  ): F32 {
    const { trace } = this;
    this.#wantVector("rotate");
    if (typeof pairing !== "object" || pairing === null || typeof turn !== "function")
      trace.fail("rotate got no pairing or no function", "write x.rotate({ dim }, (pair) => ...)");
    const { dim, interleaved = false, ...others } = pairing;
    const [other] = Object.keys(others);
    if (other !== undefined) trace.fail(`rotate got ${other}`, "give dim and interleaved alone");
    if (!Number.isInteger(dim) || dim < 2 || dim % 2 !== 0)
      trace.fail(`rotate got dim ${describe(dim)}`, "give an even number of 2 or more");
    const element = new I32(trace, trace.graph.input("element"));
    const half = dim / 2;
    const first = interleaved ? element.and(1).eq(0) : element.lt(half);
    const turned = turn(pairOf(element, half, interleaved));
    if (!Array.isArray(turned))
      trace.fail(`rotate's function gave ${kindOf(turned)}`, "return [cosine, sine]");
    const [cos, sin] = turned as readonly [F32, F32];
    const value = interleaved ? -dim : dim;
    const parts = { op: "partner", type: "f32", inputs: [this.node], value } as const;
    const partner = new F32(trace, trace.graph.make(parts));
    const result = this.mul(cos).add(partner.mul(first.select(sin.neg(), sin)));
    return element.lt(dim).select(result, this);
  }

  /**
   * In query and output hooks, once: this times a tensor [rows, columns] or [queryHeads, rows,
   * columns]. Elements from `rows` on follow behind the products, so that widths may differ.
   */
  matmul(matrix: VariantMatrix): F32 {
    this.#wantVector("matmul", ["query", "output"]);
    if (!(matrix instanceof VariantMatrix))
      this.trace.fail(`matmul() got ${kindOf(matrix)}`, "give a tensor that the variant declares");
    return new F32(this.trace, matrix.multiplied(this.node));
  }

  #reduce(op: "reduceSum" | "reduceMax"): F32 {
    this.#wantVector(op === "reduceSum" ? "sum" : "max");
    return alone(this, op);
  }

  #wantVector(method: string, hooks = ["query", "key", "value"]): void {
    const { hook } = this.trace;
    if (!hooks.includes(hook)) {
      const fix = `use it in ${hooks.join(", ")} hooks, or give a tensor with what is needed`;
      this.trace.fail(`${method}() over a vector was asked for in the ${hook} hook`, fix);
    }
    if ((this.node.axes & Axis.element) === 0) {
      const fix = "apply it to x, or to what is made of x or element";
      this.trace.fail(`${method}() was asked of a value that is no vector`, fix);
    }
  }
}

/** A 32-bit integer that wraps around. */
export class I32 extends Numeric<I32> {
  max(other: I32 | number): I32 {
    return combine(this, "max", other);
  }

  and(other: I32 | number): I32 {
    return combine(this, "and", other);
  }

  or(other: I32 | number): I32 {
    return combine(this, "or", other);
  }

  xor(other: I32 | number): I32 {
    return combine(this, "xor", other);
  }

  /** Shifts left by the low five bits of a count. */
  shl(count: I32 | number): I32 {
    return combine(this, "shl", count);
  }

  /** Shifts right by the low five bits of a count; the sign stays. */
  shr(count: I32 | number): I32 {
    return combine(this, "shr", count);
  }

  not(): I32 {
    return alone(this, "not");
  }

  /** Rounds to the nearest F32. */
  toF32(): F32 {
    return alone(this, "toF32");
  }
}

/** True or false, known only in the kernel: no branch of JavaScript can look at it. */
export class Bool extends Value {
  /** @internal */
  constructor(trace: Tracer, node: Node) {
    super(trace, node);
    trace.unused.add(this);
  }

  and(other: Bool): Bool {
    return combine(this, "and", other);
  }

  or(other: Bool): Bool {
    return combine(this, "or", other);
  }

  xor(other: Bool): Bool {
    return combine(this, "xor", other);
  }

  eq(other: Bool): Bool {
    return combine(this, "eq", other);
  }

  ne(other: Bool): Bool {
    return combine(this, "ne", other);
  }

  not(): Bool {
    return alone(this, "not");
  }

  /** `yes` where this is true, `no` elsewhere: both of one type; two numbers are F32. */
  select(yes: Bool, no: Bool): Bool;
  select(yes: I32, no: I32 | number): I32;
  select(yes: number, no: I32): I32;
  select(yes: F32 | number, no: F32 | number): F32;
  select(yes: Value | number, no: Value | number): Value {
    const { trace } = this;
    const guide = yes instanceof Value ? yes : no;
    const type = guide instanceof Value ? guide.node.type : "f32";
    const inputs = [yes, no].map((value) => trace.coerce("select", value, type));
    return wrap(trace, trace.graph.apply("select", used(this), ...inputs));
  }

  /** 1 where true, 0 elsewhere. */
  toF32(): F32 {
    return this.select(1, 0);
  }

  /** 1 where true, 0 elsewhere. */
  toI32(): I32 {
    return this.select(new I32(this.trace, this.trace.graph.constant("i32", 1)), 0);
  }
}

for (const type of [Numeric, F32, I32, Bool]) noteUses(type);

/** The pair of an element, from 0 to half - 1; a mask of bits where half is a power of two. */
function pairOf(element: I32, half: number, interleaved: boolean): I32 {
  const isPower = (half & (half - 1)) === 0;
  if (interleaved) return isPower ? element.shr(1).and(half - 1) : element.shr(1);
  return isPower ? element.and(half - 1) : element.lt(half).select(element, element.sub(half));
}

/** The value of a node, by its type. */
export function wrap(trace: Tracer, node: Node): F32 | I32 | Bool {
  if (node.type === "f32") return new F32(trace, node);
  return node.type === "i32" ? new I32(trace, node) : new Bool(trace, node);
}

function combine<T extends Value>(self: Value, op: Op, other: Value | number): T {
  const { trace } = self;
  const node = trace.coerce(op, other, self.node.type);
  if ((op === "div" || op === "mod") && node.op === "constant" && node.value === 0)
    trace.fail(`${op} by a constant 0`, "divide by something else, or leave the division out");
  return wrap(trace, trace.graph.apply(op, used(self), node)) as Value as T;
}

/** As combine, with the operands in the other order. */
function swapped(self: Value, op: Op, other: Value | number): Bool {
  const { trace } = self;
  const node = trace.coerce(op, other, self.node.type);
  return new Bool(trace, trace.graph.apply(op, node, self.node));
}

function alone<T extends Value>(self: Value, op: Op): T {
  return wrap(self.trace, self.trace.graph.apply(op, used(self))) as Value as T;
}
