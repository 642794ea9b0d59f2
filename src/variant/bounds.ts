import { Axis, type Node, type TensorSpec } from "./expression.ts";
import { type Graph, isInput } from "./graph.ts";
import { exactRange, fits, int32, Ranges } from "./ranges.ts";

/** A mask in parts that all have to hold. */
export interface SplitMask {
  /** Key positions from `low` to `high`, both included, i32 that change with the row only. */
  readonly low?: Node;
  readonly high?: Node;
  /** What is left to be tested for each pair. */
  readonly residual?: Node;
}

/** Splits the bounds on key positions off a mask, so that tiles outside of them are skipped. */
export function splitMask(graph: Graph, mask: Node, tensors: readonly TensorSpec[]): SplitMask {
  const { low, high, residual } = new Splitter(graph, tensors).split(mask);
  const says = (node: Node | undefined, nothing: (value: number) => boolean) =>
    node?.op === "constant" && nothing(node.value) ? undefined : node;
  return {
    low: says(low, (position) => position <= 0),
    high: says(high, (position) => position === int32.most),
    residual: says(residual, (value) => value !== 0),
  };
}

/** A key's position times `sign` plus `added`, without an overflow in between. */
interface Line {
  readonly sign: 1 | -1;
  readonly added: Node;
}

class Splitter {
  readonly #graph: Graph;
  readonly #ranges: Ranges;
  readonly #done = new Map<Node, SplitMask>();

  constructor(graph: Graph, tensors: readonly TensorSpec[]) {
    this.#graph = graph;
    this.#ranges = new Ranges(tensors);
  }

  split(mask: Node): SplitMask {
    let parts = this.#done.get(mask);
    if (parts === undefined) this.#done.set(mask, (parts = this.#split(mask)));
    return parts;
  }

  #split(mask: Node): SplitMask {
    const { op, inputs } = mask;
    if (isRowOnly(mask)) return this.#choose(mask, {}, { high: this.#constant(-1) });
    const residual = { residual: mask };
    if (op === "and") return this.#both(this.split(inputs[0]), this.split(inputs[1]));
    if (op === "or") return this.#either(inputs[0], inputs[1]);
    if (op === "not") return this.#negated(inputs[0]) ?? residual;
    if (op === "select" && isRowOnly(inputs[0]))
      return this.#choose(inputs[0], this.split(inputs[1]), this.split(inputs[2]));
    if (op === "le" || op === "lt" || op === "eq") return this.#compared(mask) ?? residual;
    return residual;
  }

  #both(a: SplitMask, b: SplitMask): SplitMask {
    return {
      low: this.#joined("max", a.low, b.low),
      high: this.#joined("min", a.high, b.high),
      residual: this.#joined("and", a.residual, b.residual),
    };
  }

  #either(a: Node, b: Node): SplitMask {
    if (isRowOnly(a)) return this.#choose(a, {}, this.split(b));
    if (isRowOnly(b)) return this.#choose(b, {}, this.split(a));
    const one = this.split(a);
    const other = this.split(b);
    // Whatever one of two masks shows is within the wider of their bounds.
    const low = one.low && other.low && this.#graph.apply("min", one.low, other.low);
    const high = one.high && other.high && this.#graph.apply("max", one.high, other.high);
    const isOneSided = (side: "low" | "high") =>
      one[side] === undefined && other[side] === undefined;
    const isBounds = one.residual === undefined && other.residual === undefined;
    const exact = isBounds && (isOneSided("low") || isOneSided("high"));
    return { low, high, residual: exact ? undefined : this.#graph.apply("or", a, b) };
  }

  #negated({ op, inputs }: Node): SplitMask | undefined {
    if (op !== "and" && op !== "or") return undefined;
    const [a, b] = inputs.map((input) => this.#graph.apply("not", input));
    return this.split(this.#graph.apply(op === "and" ? "or" : "and", a, b));
  }

  /** The parts of one of two masks, by a condition on the row. */
  #choose(condition: Node, yes: SplitMask, no: SplitMask): SplitMask {
    const pick = (a: Node | undefined, b: Node | undefined, none: Node) =>
      a === b ? a : this.#graph.apply("select", condition, a ?? none, b ?? none);
    return {
      low: pick(yes.low, no.low, this.#constant(0)),
      high: pick(yes.high, no.high, this.#constant(int32.most)),
      residual: pick(yes.residual, no.residual, this.#graph.constant("bool", 1)),
    };
  }

  #compared({ op, inputs: [a, b] }: Node): SplitMask | undefined {
    if (a.type !== "i32") return undefined;
    const strict = op === "lt";
    const left = this.#line(a);
    const right = this.#line(b);
    if (op === "eq") {
      const key = left ?? right;
      const at = key && this.#solved(key, left === undefined ? a : b);
      return at && { low: at, high: at };
    }
    if (left !== undefined && isRowOnly(b)) {
      const at = this.#solved(left, b);
      return at && (left.sign === 1 ? this.#upTo(at, strict) : this.#downTo(at, strict));
    }
    if (right !== undefined && isRowOnly(a)) {
      const at = this.#solved(right, a);
      return at && (right.sign === 1 ? this.#downTo(at, strict) : this.#upTo(at, strict));
    }
    return undefined;
  }

  #upTo(at: Node, strict: boolean): SplitMask {
    return { high: strict ? this.#difference(at, this.#constant(1)) : at };
  }

  #downTo(at: Node, strict: boolean): SplitMask {
    return { low: strict ? this.#difference(at, this.#constant(-1)) : at };
  }

  /** The position at which a line has a value of the row; the nearest i32 to it. */
  #solved({ sign, added }: Line, value: Node): Node | undefined {
    if (!isRowOnly(value)) return undefined;
    return sign === 1 ? this.#difference(value, added) : this.#difference(added, value);
  }

  #line(node: Node): Line | undefined {
    const { op, inputs } = node;
    if (isInput(node, "key")) return { sign: 1, added: this.#constant(0) };
    if ((op !== "add" && op !== "sub") || !this.#isExact(op, inputs)) return undefined;
    const [a, b] = inputs;
    const [line, other] = isRowOnly(b) ? [this.#line(a), b] : [this.#line(b), a];
    if (line === undefined || !isRowOnly(other)) return undefined;
    const turned = op === "sub" && other === a;
    // other - (sign * key + added), or (sign * key + added) - other, or their sum.
    const [first, second] = turned ? [other, line.added] : [line.added, other];
    // No overflow here either: it is the line's value at position 0.
    const added = this.#graph.apply(op, first, second);
    return { sign: turned ? (-line.sign as 1 | -1) : line.sign, added };
  }

  /** Whether a sum or difference never wraps around. */
  #isExact(op: "add" | "sub", [a, b]: readonly Node[]): boolean {
    return fits(exactRange(op, this.#ranges.of(a), this.#ranges.of(b)));
  }

  /** a - b, or the end of i32 that it passes; undefined where that takes too much. */
  #difference(a: Node, b: Node): Node | undefined {
    const { least, most } = this.#ranges.of(b);
    const plus = (node: Node, end: number) => this.#graph.apply("add", node, this.#constant(end));
    const minus = (x: Node, y: Node) => this.#graph.apply("sub", x, y);
    if (this.#isExact("sub", [a, b])) return minus(a, b);
    if (least >= 0) return minus(this.#graph.apply("max", a, plus(b, int32.least)), b);
    if (most <= 0) return minus(this.#graph.apply("min", a, plus(b, int32.most)), b);
    if (this.#ranges.of(a).least < 0) return undefined;
    return minus(a, this.#graph.apply("max", b, plus(a, -int32.most)));
  }

  #joined(op: "min" | "max" | "and", a: Node | undefined, b: Node | undefined): Node | undefined {
    return a && b ? this.#graph.apply(op, a, b) : (a ?? b);
  }

  #constant(value: number): Node {
    return this.#graph.constant("i32", value);
  }
}

function isRowOnly(node: Node): boolean {
  return (node.axes & ~Axis.row) === 0;
}
