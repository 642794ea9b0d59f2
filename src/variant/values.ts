import { Axis, type Node, type Op, type ValueType } from "./expression.ts";
import type { Trace } from "./trace.ts";

/** How values are named in messages. */
const typeNames = { f32: "an F32", i32: "an I32", bool: "a Bool" } as const;

/** A value of a hook's expression: unknown while the hook is traced, computed by a kernel later. */
export abstract class Value {
  /** @internal */
  readonly trace: Trace;
  /** @internal */
  readonly node: Node;
  /** @internal How much the trace had noted when this was made. */
  readonly made: number;

  /** @internal */
  constructor(trace: Trace, node: Node) {
    this.trace = trace;
    this.node = node;
    this.made = trace.count();
  }

  /** For console.log. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    const { node, trace } = this;
    const name = typeNames[node.type].split(" ")[1];
    return `${name} (${node.op} in the ${trace.hook} hook: known only in the kernel)`;
  }

  /** Refuses to be a number, string or boolean of JavaScript: error VariantError. */
  [Symbol.toPrimitive](): never {
    return this.trace.fail(
      `${typeNames[this.node.type]} of a hook was used as a number or text of JavaScript`,
      "write a.add(b), a.le(b), a.eq(b) and so on instead of a + b, a <= b and a == b",
    );
  }
}

/** A 32-bit float; in query, key, value and output hooks maybe one for each element of a vector. */
export class F32 extends Value {
  add(other: F32 | number): F32 {
    return this.#with("add", other);
  }

  sub(other: F32 | number): F32 {
    return this.#with("sub", other);
  }

  mul(other: F32 | number): F32 {
    return this.#with("mul", other);
  }

  div(other: F32 | number): F32 {
    return this.#with("div", other);
  }

  /** this - other * floor(this / other). */
  mod(other: F32 | number): F32 {
    return this.#with("mod", other);
  }

  min(other: F32 | number): F32 {
    return this.#with("min", other);
  }

  /** The larger of two values; of a vector and nothing else: its largest element. */
  max(other?: F32 | number): F32 {
    return other === undefined ? this.#reduce("reduceMax") : this.#with("max", other);
  }

  /** The sum of a vector's elements. */
  sum(): F32 {
    return this.#reduce("reduceSum");
  }

  /** Whole numbers from 1 to 8 take any base, other exponents only bases above 0. */
  pow(exponent: F32 | number): F32 {
    if (typeof exponent !== "number" || !(exponent >= 1 && exponent <= 8 && exponent % 1 === 0))
      return this.#with("pow", exponent);
    if (exponent === 1) return this;
    const half = this.pow(exponent >> 1 || 1);
    return exponent % 2 === 0 ? half.mul(half) : this.mul(this.pow(exponent - 1));
  }

  neg(): F32 {
    return this.#alone("neg");
  }

  abs(): F32 {
    return this.#alone("abs");
  }

  floor(): F32 {
    return this.#alone("floor");
  }

  exp(): F32 {
    return this.#alone("exp");
  }

  /** The natural logarithm. */
  log(): F32 {
    return this.#alone("log");
  }

  tanh(): F32 {
    return this.#alone("tanh");
  }

  /** 1 / (1 + exp(-this)). */
  sigmoid(): F32 {
    return this.#alone("sigmoid");
  }

  sqrt(): F32 {
    return this.#alone("sqrt");
  }

  /** 1 / sqrt(this). */
  rsqrt(): F32 {
    return this.#alone("rsqrt");
  }

  sin(): F32 {
    return this.#alone("sin");
  }

  cos(): F32 {
    return this.#alone("cos");
  }

  lt(other: F32 | number): Bool {
    return compare(this, "lt", other);
  }

  le(other: F32 | number): Bool {
    return compare(this, "le", other);
  }

  gt(other: F32 | number): Bool {
    return compare(this, "lt", other, true);
  }

  ge(other: F32 | number): Bool {
    return compare(this, "le", other, true);
  }

  eq(other: F32 | number): Bool {
    return compare(this, "eq", other);
  }

  ne(other: F32 | number): Bool {
    return compare(this, "ne", other);
  }

  /** Without its fraction; beyond what an I32 holds the nearest that it does. */
  toI32(): I32 {
    return new I32(this.trace, this.trace.graph.apply("toI32", this.node));
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
    const { dim, interleaved = false } = pairing;
    this.#wantVector("rotate");
    if (!Number.isInteger(dim) || dim < 2 || dim % 2 !== 0)
      trace.fail(`rotate got dim ${dim}`, "give an even number of 2 or more");
    const element = new I32(trace, trace.graph.input("element"));
    const half = dim / 2;
    const first = interleaved ? element.and(1).eq(0) : element.lt(half);
    const pair = pairOf(element, half, interleaved);
    const [cos, sin] = turn(pair);
    const { graph } = trace;
    const value = interleaved ? -dim : dim;
    const parts = { op: "partner", type: "f32", inputs: [this.node], value } as const;
    const partner = new F32(trace, graph.make(parts));
    const turned = this.mul(cos).add(partner.mul(first.select(sin.neg(), sin)));
    return element.lt(dim).select(turned, this);
  }

  #with(op: Op, other: F32 | number): F32 {
    const node = operand(this, op, other);
    if (op === "div" || op === "mod") refuseZero(this, op, node);
    return new F32(this.trace, this.trace.graph.apply(op, this.node, node));
  }

  #alone(op: Op): F32 {
    return new F32(this.trace, this.trace.graph.apply(op, this.node));
  }

  #reduce(op: "reduceSum" | "reduceMax"): F32 {
    this.#wantVector(op === "reduceSum" ? "sum" : "max");
    return this.#alone(op);
  }

  #wantVector(method: string): void {
    const { hook } = this.trace;
    if (!["query", "key", "value"].includes(hook)) {
      const fix = "use it in a query, key or value hook, or give a tensor with what is needed";
      this.trace.fail(`${method}() over a vector was asked for in the ${hook} hook`, fix);
    }
    if ((this.node.axes & Axis.element) === 0) {
      const fix = "apply it to x, or to what is made of x or element";
      this.trace.fail(`${method}() was asked of a value that is no vector`, fix);
    }
  }
}

/** A 32-bit integer that wraps around. */
export class I32 extends Value {
  add(other: I32 | number): I32 {
    return this.#with("add", other);
  }

  sub(other: I32 | number): I32 {
    return this.#with("sub", other);
  }

  mul(other: I32 | number): I32 {
    return this.#with("mul", other);
  }

  /** Rounds down; 0 for a divisor of 0. */
  div(other: I32 | number): I32 {
    return this.#with("div", other);
  }

  /** What remains of div: it has the divisor's sign. */
  mod(other: I32 | number): I32 {
    return this.#with("mod", other);
  }

  min(other: I32 | number): I32 {
    return this.#with("min", other);
  }

  max(other: I32 | number): I32 {
    return this.#with("max", other);
  }

  and(other: I32 | number): I32 {
    return this.#with("and", other);
  }

  or(other: I32 | number): I32 {
    return this.#with("or", other);
  }

  xor(other: I32 | number): I32 {
    return this.#with("xor", other);
  }

  /** Shifts left by the low five bits of a count. */
  shl(count: I32 | number): I32 {
    return this.#with("shl", count);
  }

  /** Shifts right by the low five bits of a count; the sign stays. */
  shr(count: I32 | number): I32 {
    return this.#with("shr", count);
  }

  not(): I32 {
    return this.#alone("not");
  }

  neg(): I32 {
    return this.#alone("neg");
  }

  abs(): I32 {
    return this.#alone("abs");
  }

  lt(other: I32 | number): Bool {
    return compare(this, "lt", other);
  }

  le(other: I32 | number): Bool {
    return compare(this, "le", other);
  }

  gt(other: I32 | number): Bool {
    return compare(this, "lt", other, true);
  }

  ge(other: I32 | number): Bool {
    return compare(this, "le", other, true);
  }

  eq(other: I32 | number): Bool {
    return compare(this, "eq", other);
  }

  ne(other: I32 | number): Bool {
    return compare(this, "ne", other);
  }

  /** Rounds to the nearest F32. */
  toF32(): F32 {
    return new F32(this.trace, this.trace.graph.apply("toF32", this.node));
  }

  #with(op: Op, other: I32 | number): I32 {
    const node = operand(this, op, other);
    if (op === "div" || op === "mod") refuseZero(this, op, node);
    return new I32(this.trace, this.trace.graph.apply(op, this.node, node));
  }

  #alone(op: Op): I32 {
    return new I32(this.trace, this.trace.graph.apply(op, this.node));
  }
}

/** True or false, known only in the kernel: no branch of JavaScript can look at it. */
export class Bool extends Value {
  /** @internal */
  constructor(trace: Trace, node: Node) {
    super(trace, node);
    trace.unused.add(this);
  }

  and(other: Bool): Bool {
    return this.#with("and", other);
  }

  or(other: Bool): Bool {
    return this.#with("or", other);
  }

  xor(other: Bool): Bool {
    return this.#with("xor", other);
  }

  eq(other: Bool): Bool {
    return this.#with("eq", other);
  }

  ne(other: Bool): Bool {
    return this.#with("ne", other);
  }

  not(): Bool {
    return new Bool(this.trace, this.trace.graph.apply("not", used(this)));
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

  #with(op: Op, other: Bool): Bool {
    const node = operand(this, op, other);
    return new Bool(this.trace, this.trace.graph.apply(op, used(this), node));
  }
}

/**
 * Makes each method note where it is looked up: a hook that ends in a call has left the stack when
 * the call begins, but not before.
 */
export function noteUses({ prototype }: { readonly prototype: object }): void {
  for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
    if (name === "constructor" || typeof value !== "function") continue;
    const get = function (this: { trace?: Trace }): unknown {
      this.trace?.note();
      return value;
    };
    Object.defineProperty(prototype, name, { get });
  }
}

for (const type of [F32, I32, Bool]) noteUses(type);

/** The pair of an element; within 0 and half - 1 at once where that is a mask of bits. */
function pairOf(element: I32, half: number, interleaved: boolean): I32 {
  const isPower = (half & (half - 1)) === 0;
  if (interleaved) return isPower ? element.shr(1).and(half - 1) : element.shr(1);
  return isPower ? element.and(half - 1) : element.lt(half).select(element, element.sub(half));
}

/** The value of a node, by its type. */
export function wrap(trace: Trace, node: Node): F32 | I32 | Bool {
  if (node.type === "f32") return new F32(trace, node);
  return node.type === "i32" ? new I32(trace, node) : new Bool(trace, node);
}

/** A value or anything else, as messages name it. */
export function kindOf(value: unknown): string {
  if (value instanceof Value) return typeNames[value.node.type];
  if (value === undefined || value === null) return String(value);
  if (typeof value === "number" || typeof value === "boolean")
    return `the ${typeof value} ${value}`;
  if (value instanceof Promise) return "a promise";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

/** The node of a value that something takes: a Bool then was not made in vain. */
export function used(value: Value): Node {
  if (value instanceof Bool) value.trace.unused.delete(value);
  return value.node;
}

function operand(self: Value, op: Op, other: Value | number): Node {
  return self.trace.coerce(op, other, self.node.type);
}

function compare(self: Value, op: Op, other: Value | number, swapped = false): Bool {
  const node = operand(self, op, other);
  const inputs = swapped ? [node, self.node] : [self.node, node];
  return new Bool(self.trace, self.trace.graph.apply(op, ...inputs));
}

function refuseZero({ trace }: Value, op: Op, divisor: Node): void {
  if (divisor.op !== "constant" || divisor.value !== 0) return;
  trace.fail(`${op} by a constant 0`, "divide by something else, or leave the division out");
}

/** What an operation takes, in words. */
export function wanted(type: ValueType): string {
  return type === "bool" ? "a Bool" : `${typeNames[type]} or a number`;
}
