/** Expressions as statements of CUDA C++, in the words of kernels/attention/hooks.h. */
import {
  Axis,
  type InputName,
  type Node,
  type Op,
  tensorAxesMax,
  type TensorDtype,
  type TensorSpec,
  type ValueType,
} from "./expression.ts";
import { inputName, isInput, nodesOf } from "./graph.ts";
import { isPair } from "./products.ts";
import type { Store } from "./stages.ts";

/** Where the kernels find a tensor that is not among the variant's own parameters. */
export interface TensorPlace {
  readonly data: string;
  readonly sizes: readonly string[];
  readonly strides: readonly string[];
}

/** Inputs that are not in the variant's part of the parameters, by index. */
export interface Places {
  readonly tensors: readonly (TensorPlace | undefined)[];
  readonly scalars: readonly (string | undefined)[];
}

/** What expressions refer to. */
export interface Declarations {
  readonly tensors: readonly TensorSpec[];
  readonly places: Places;
}

/** Name of a type in C++. */
export const typeNames: Readonly<Record<ValueType, string>> = {
  f32: "float",
  i32: "int32_t",
  bool: "bool",
};

/** The macro of a tensor's dtype in kernels/params/types.h. */
export function dtypeMacro(dtype: TensorDtype): string {
  return `FB_${dtype.toUpperCase()}`;
}

type Print = (a: string, b: string, c: string) => string;

const named =
  (name: string): Print =>
  (...inputs) =>
    `${name}(${inputs.filter((each) => each !== "").join(", ")})`;
const infix =
  (sign: string): Print =>
  (a, b) =>
    `${a} ${sign} ${b}`;

const either: Partial<Record<Op, Print>> = {
  lt: infix("<"),
  le: infix("<="),
  eq: infix("=="),
  ne: infix("!="),
  select: (a, b, c) => `${a} ? ${b} : ${c}`,
};

const prints: Readonly<Record<ValueType, Partial<Record<Op, Print>>>> = {
  f32: {
    ...either,
    add: infix("+"),
    sub: infix("-"),
    mul: infix("*"),
    neg: (a) => `-${a}`,
    div: named("div_approx"),
    mod: named("mod_f32"),
    min: named("min_nan"),
    max: named("max_nan"),
    abs: named("fabsf"),
    floor: named("floorf"),
    pow: named("pow_f32"),
    exp: named("exp_f32"),
    log: named("log_f32"),
    tanh: named("tanh_f32"),
    sigmoid: named("sigmoid_f32"),
    sqrt: named("sqrt_approx"),
    rsqrt: named("rsqrt_approx"),
    sin: named("sin_f32"),
    cos: named("cos_f32"),
    toI32: named("float_to_i32"),
  },
  i32: {
    ...either,
    add: named("add_i32"),
    sub: named("sub_i32"),
    mul: named("mul_i32"),
    div: named("div_i32"),
    mod: named("mod_i32"),
    min: named("min"),
    max: named("max"),
    neg: named("neg_i32"),
    abs: named("abs_i32"),
    toF32: named("float"),
    and: infix("&"),
    or: infix("|"),
    xor: infix("^"),
    not: (a) => `~${a}`,
    shl: named("shl_i32"),
    shr: named("shr_i32"),
  },
  bool: {
    ...either,
    and: infix("&&"),
    or: infix("||"),
    xor: infix("!="),
    not: (a) => `!${a}`,
  },
};

/** How the inputs of a kernel function are written. */
export type Spelling = (input: InputName) => string;

/** Statements of one block of code, which also sees the names of the blocks around it. */
export class Block {
  readonly lines: string[] = [];
  readonly #names = new Map<Node, string>();
  readonly #parent: Block | undefined;
  readonly #partner: ((node: Node) => string) | undefined;

  /** @param partner writes partners, where there are any */
  constructor(
    readonly declarations: Declarations,
    readonly spell: Spelling,
    parent?: Block,
    partner?: (node: Node) => string,
  ) {
    this.#parent = parent;
    this.#partner = partner;
  }

  /** The name of a node, or an expression that is as short. */
  name(node: Node): string {
    const known = this.#known(node) ?? this.#short(node);
    if (known !== undefined) return known;
    return this.declare(node, this.#print(node));
  }

  /** Declares a node's value; returns its name. */
  declare(node: Node, value: string): string {
    const name = `t${node.id}`;
    this.lines.push(`const ${typeNames[node.type]} ${name} = ${value};`);
    return this.call(node, name);
  }

  /** From here on a node has this name. */
  call(node: Node, name: string): string {
    this.#names.set(node, name);
    return name;
  }

  #known(node: Node): string | undefined {
    const name = this.#names.get(node);
    if (name !== undefined || this.#parent === undefined) return name;
    return this.#parent.#known(node);
  }

  #short(node: Node): string | undefined {
    if (node.op === "constant") return literal(node);
    if (node.op === "input") return this.spell(inputName(node));
    if (node.op !== "scalar") return undefined;
    const bits = `p.variant.scalars[${node.value}]`;
    const own = node.type === "f32" ? `__int_as_float(${bits})` : bits;
    return this.declarations.places.scalars[node.value] ?? own;
  }

  #print(node: Node): string {
    const [a, b = a] = node.inputs;
    if (node.op === "load") return this.#load(node);
    if (node.op === "partner") return this.#partner!(node);
    const scaled = node.op === "mul" ? this.#scaledLogit(a, b) : undefined;
    if (scaled !== undefined) return scaled;
    const [x, y = "", z = ""] = node.inputs.map((input) => this.name(input));
    // Within a unit of the last place, and without a division.
    if (node.op === "div" && node.type === "f32" && b.op === "constant" && isOrdinary(1 / b.value))
      return `${x} * ${literal({ ...b, value: 1 / b.value })}`;
    const print = prints[a.type][node.op];
    if (print === undefined) throw new Error(`${node.op} of ${a.type} has no text in CUDA`);
    return print(x, y, z);
  }

  /** A logit times what several pairs have in common: one product per pair. */
  #scaledLogit(a: Node, b: Node): string | undefined {
    const [x, factor] = a.axes === Axis.score ? [a, b] : [b, a];
    if (!isInput(x, "x") || x.axes !== Axis.score || isPair(factor)) return undefined;
    return `pair.product * (pair.factor * ${this.name(factor)})`;
  }

  #place(index: number): TensorPlace {
    const own = (what: string) =>
      Array.from(
        { length: tensorAxesMax },
        (_, axis) => `p.variant.${what}[${index * tensorAxesMax + axis}]`,
      );
    return (
      this.declarations.places.tensors[index] ?? {
        data: `p.variant.data[${index}]`,
        sizes: own("sizes"),
        strides: own("strides"),
      }
    );
  }

  /** The offset of an element; what a row's keys share comes first. */
  #offset({ strides }: TensorPlace, indices: readonly Node[], names: readonly string[]): string {
    const terms = indices
      .map((node, axis) => ({ axes: node.axes, term: times(names[axis], strides[axis]) }))
      .filter(({ term }) => term !== "0")
      .sort((a, b) => (a.axes & Axis.key) - (b.axes & Axis.key));
    return terms.length === 0 ? "0" : terms.map(({ term }) => term).join(" + ");
  }

  #load(node: Node): string {
    const place = this.#place(node.value);
    const names = node.inputs.map((index, axis) => {
      const name = this.name(index);
      return (node.clamped >> axis) & 1 ? `clamp_index(${name}, ${place.sizes[axis]})` : name;
    });
    const { dtype } = this.declarations.tensors[node.value];
    const offset = this.#offset(place, node.inputs, names);
    return `load_element<${dtypeMacro(dtype)}>(${place.data}, ${offset})`;
  }

  /** Writes a value for a visible pair, if all indices are within the tensor. */
  store({ tensor, value, indices, clamped }: Store): void {
    const place = this.#place(tensor);
    const names = indices.map((index) => this.name(index));
    const inside = names.flatMap((index, axis) =>
      (clamped >> axis) & 1 ? [`uint32_t(${index}) < uint32_t(${place.sizes[axis]})`] : [],
    );
    const { dtype } = this.declarations.tensors[tensor];
    const what = `${place.data}, ${this.#offset(place, indices, names)}, ${this.name(value)}`;
    this.lines.push(
      `if (${["pair.visible", ...inside].join(" && ")})`,
      `    store_element<${dtypeMacro(dtype)}>(${what});`,
    );
  }
}

function times(index: string, stride: string): string {
  if (index === "0" || stride === "1") return index;
  return `${index} * ${stride}`;
}

/** A constant, exactly. */
function literal({ type, value }: Node): string {
  if (type === "bool") return value === 0 ? "false" : "true";
  if (type === "i32") return value === -(2 ** 31) ? "(-2147483647 - 1)" : parenthesized(`${value}`);
  if (Number.isNaN(value)) return "__int_as_float(0x7fc00000)";
  const rounded = Math.fround(value);
  if (!Number.isFinite(rounded)) return rounded > 0 ? "FB_INFINITY" : "(-FB_INFINITY)";
  const digits = Object.is(rounded, -0) ? "-0" : `${rounded}`;
  return parenthesized(`${/[.e]/.test(digits) ? digits : `${digits}.0`}f`);
}

/** Whether f32 holds a number exactly. */
function isOrdinary(value: number): boolean {
  return Math.abs(value) > 2 ** -120 && Math.abs(value) < 2 ** 120;
}

function parenthesized(number: string): string {
  return number.startsWith("-") ? `(${number})` : number;
}

/**
 * The largest parts of expressions that change with these axes alone, inputs among them; none that
 * sums over a vector.
 */
export function partsOf(roots: Iterable<Node>, axes: number): Node[] {
  const nodes = nodesOf(roots);
  const reduced = new Set<Node>();
  for (const node of nodes) {
    const sums = node.op === "reduceSum" || node.op === "reduceMax";
    if (sums || node.inputs.some((input) => reduced.has(input))) reduced.add(node);
  }
  const fits = (node: Node) => node.axes === axes && !reduced.has(node);
  const inner = new Set(nodes.filter(fits).flatMap(({ inputs }) => inputs));
  const outer = new Set(nodes.filter((node) => !fits(node)).flatMap(({ inputs }) => inputs));
  for (const root of roots) outer.add(root);
  return nodes.filter((node) => fits(node) && (outer.has(node) || !inner.has(node)));
}

/** Whether an expression reads an input. */
export function reads(roots: Iterable<Node>, name: InputName): boolean {
  return nodesOf(roots).some((node) => isInput(node, name));
}
