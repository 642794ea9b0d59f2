import { arithmetic } from "./arithmetic.ts";
import type { Node, Op, Parts, ValueType } from "./expression.ts";

/** What folding makes nodes with: the graph. */
export interface NodeMaker {
  /** A constant of a type. */
  constant(type: ValueType, value: number): Node;
  /** An operation on nodes, or a simpler node of the same value. */
  apply(op: Op, ...inputs: Node[]): Node;
  /** As apply, for operations that need more than their inputs. */
  make(parts: Parts): Node;
}

/** Operations whose inputs may be swapped. */
const commutative: ReadonlySet<string> = new Set([
  "add",
  "mul",
  "min",
  "max",
  "and",
  "or",
  "xor",
  "eq",
  "ne",
]);

/**
 * The simpler node that an operation is equal to, if there is one: constants, neutral elements, and
 * integer forms that are cheaper everywhere. Never changes a value, NaN included.
 */
export function fold(graph: NodeMaker, parts: Parts): Node | undefined {
  const { op, inputs } = parts;
  if (inputs.length === 0 || op === "load" || op === "store" || op === "matmul") return undefined;
  const compute = arithmetic(op, inputs[0].type);
  if (compute === undefined) return undefined;
  if (inputs.every(isConstant)) {
    const [a, b, c] = inputs.map(({ value }) => value);
    return graph.constant(parts.type, compute(a, b, c));
  }
  if (commutative.has(op) && comesLater(inputs[0], inputs[1]))
    return graph.make({ ...parts, inputs: [inputs[1], inputs[0]] });
  if (op === "select") return foldSelect(graph, inputs);
  if (inputs.length === 1) return foldUnary(graph, parts);
  return foldBinary(graph, parts) ?? (isInteger(inputs[0]) ? foldInteger(graph, parts) : undefined);
}

function isConstant(node: Node): boolean {
  return node.op === "constant";
}

function isInteger(node: Node): boolean {
  return node.type !== "f32";
}

/** Constants come last, others in the order in which they were made. */
function comesLater(a: Node, b: Node): boolean {
  return isConstant(a) !== isConstant(b) ? isConstant(a) : a.id > b.id;
}

function foldSelect(graph: NodeMaker, [condition, yes, no]: readonly Node[]): Node | undefined {
  if (isConstant(condition)) return condition.value !== 0 ? yes : no;
  if (yes === no) return yes;
  if (condition.op === "not") return graph.apply("select", condition.inputs[0], no, yes);
  if (yes.type !== "bool") return undefined;
  if (isConstant(yes))
    return yes.value !== 0
      ? graph.apply("or", condition, no)
      : graph.apply("and", graph.apply("not", condition), no);
  if (isConstant(no))
    return no.value === 0
      ? graph.apply("and", condition, yes)
      : graph.apply("or", graph.apply("not", condition), yes);
  return undefined;
}

function foldUnary(graph: NodeMaker, { op, inputs: [a] }: Parts): Node | undefined {
  const [inner] = a.inputs;
  if ((op === "neg" || op === "not") && a.op === op) return inner;
  if (op === "abs" && (a.op === "abs" || a.op === "neg")) return graph.apply("abs", inner);
  if (op === "floor" && (a.op === "floor" || a.op === "toF32")) return a;
  if (op !== "not") return undefined;
  if (a.op === "eq") return graph.apply("ne", ...a.inputs);
  if (a.op === "ne") return graph.apply("eq", ...a.inputs);
  if (a.op === "lt" && isInteger(inner)) return graph.apply("le", a.inputs[1], inner);
  if (a.op === "le" && isInteger(inner)) return graph.apply("lt", a.inputs[1], inner);
  return undefined;
}

/** Rules that hold for every type that has the operation. */
function foldBinary(graph: NodeMaker, { op, inputs: [a, b] }: Parts): Node | undefined {
  const right = isConstant(b) ? b.value : undefined;
  const left = isConstant(a) ? a.value : undefined;
  switch (op) {
    case "add":
      if (right === 0) return a;
      if (b.op === "neg") return graph.apply("sub", a, b.inputs[0]);
      if (a.op === "neg") return graph.apply("sub", b, a.inputs[0]);
      return undefined;
    case "sub":
      if (right === 0) return a;
      if (left === 0) return graph.apply("neg", b);
      if (b.op === "neg") return graph.apply("add", a, b.inputs[0]);
      return undefined;
    case "mul":
      if (right === 1) return a;
      return right === -1 ? graph.apply("neg", a) : undefined;
    case "div":
      if (right === 1) return a;
      return right === -1 ? graph.apply("neg", a) : undefined;
    case "min":
    case "max":
      return a === b ? a : undefined;
    default:
      return undefined;
  }
}

/** Rules for i32 and bool, whose values equal themselves and wrap around. */
function foldInteger(graph: NodeMaker, { op, inputs: [a, b] }: Parts): Node | undefined {
  const { type } = a;
  const right = isConstant(b) ? b.value : undefined;
  const none = (value = 0) => graph.constant(type, value);
  const ones = type === "bool" ? 1 : -1;
  switch (op) {
    case "add":
    case "mul":
    case "and":
    case "or":
    case "xor":
      return foldAssociative(graph, op, a, b, ones);
    case "sub":
      if (a === b) return none();
      return right === undefined ? undefined : graph.apply("add", a, none(-right | 0));
    case "div":
      return isPower(right) ? graph.apply("shr", a, none(Math.log2(right))) : undefined;
    case "mod":
      return isPower(right) ? graph.apply("and", a, none(right - 1)) : undefined;
    case "shl":
    case "shr":
      return right !== undefined && (right & 31) === 0 ? a : undefined;
    case "lt":
    case "ne":
      if (op === "ne" && type === "bool" && right !== undefined)
        return right === 0 ? a : graph.apply("not", a);
      return a === b ? graph.constant("bool", 0) : undefined;
    case "le":
    case "eq":
      if (op === "eq" && type === "bool" && right !== undefined)
        return right === 0 ? graph.apply("not", a) : a;
      return a === b ? graph.constant("bool", 1) : undefined;
    default:
      return undefined;
  }
}

function foldAssociative(
  graph: NodeMaker,
  op: "add" | "mul" | "and" | "or" | "xor",
  a: Node,
  b: Node,
  ones: number,
): Node | undefined {
  if (a === b && (op === "and" || op === "or")) return a;
  if (a === b && op === "xor") return graph.constant(a.type, 0);
  if (!isConstant(b)) return undefined;
  if (b.value === 0) return op === "mul" || op === "and" ? b : a;
  if (b.value === ones && op === "and") return a;
  if (b.value === ones && op === "or") return b;
  if (b.value === ones && op === "xor") return graph.apply("not", a);
  // (a . c) . d = a . (c . d)
  if (a.op !== op || !isConstant(a.inputs[1])) return undefined;
  return graph.apply(op, a.inputs[0], graph.apply(op, a.inputs[1], b));
}

function isPower(value: number | undefined): value is number {
  return value !== undefined && value > 0 && (value & (value - 1)) === 0;
}
