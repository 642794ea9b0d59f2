import { arithmetic } from "./arithmetic.ts";
import { Axis, type InputName, type Node } from "./expression.ts";
import { inputName, nodesOf } from "./graph.ts";

/** A tensor's values as numbers, with strides in elements; default row-major. */
export interface EvaluationTensor {
  readonly data: ArrayLike<number>;
  readonly sizes: readonly number[];
  readonly strides?: readonly number[];
  /** Takes what is stored, at an offset in elements. */
  put?(offset: number, value: number): void;
}

/** What an expression is evaluated over. */
export interface Environment {
  readonly inputs: Readonly<Partial<Record<InputName, number>>>;
  readonly scalars?: readonly number[];
  readonly tensors?: readonly EvaluationTensor[];
}

/**
 * Evaluates an expression directly: f32 in f64, without any rounding, and i32 exactly. This is what
 * an expression means; every device is tested against it.
 */
export class Evaluator {
  readonly #root: Node;
  readonly #nodes: readonly Node[];
  /** Values by the node's place among the nodes. */
  readonly #values: Float64Array;
  readonly #places = new Map<Node, number>();
  #environment: Environment = { inputs: {} };

  constructor(root: Node) {
    this.#root = root;
    this.#nodes = nodesOf([root]);
    this.#nodes.forEach((node, place) => this.#places.set(node, place));
    this.#values = new Float64Array(this.#nodes.length);
  }

  /** The value, bool as 0 and 1, of an expression without elements. */
  run(environment: Environment): number {
    this.#environment = environment;
    for (const node of this.#nodes) this.#set(node, this.#compute(node));
    return this.#value(this.#root);
  }

  /** The values of a vector hook for a whole vector of raw elements `x`. */
  vector(x: ArrayLike<number>, environment: Environment): Float64Array {
    const vectors = new Map<Node, Float64Array>();
    const of = (node: Node): Float64Array => {
      let values = vectors.get(node);
      if (values === undefined) vectors.set(node, (values = new Float64Array(x.length)));
      return values;
    };
    for (const node of this.#nodes) {
      const [input] = node.inputs;
      if (node.op === "partner") {
        const source = of(input);
        of(node).forEach((_, d, values) => (values[d] = source[partnerOf(d, node.value)]));
      } else if (node.op === "reduceSum" || node.op === "reduceMax") {
        const source = of(input);
        const sum = source.reduce((total, value) => total + value, 0);
        of(node).fill(node.op === "reduceSum" ? sum : Math.max(...source));
      } else {
        const elements = (node.axes & Axis.element) !== 0 ? x.length : 1;
        for (let d = 0; d < elements; d++) {
          this.#environment = withElement(environment, x[d], d);
          for (const from of node.inputs) this.#set(from, of(from)[d]);
          of(node)[d] = this.#compute(node);
        }
        if (elements === 1) of(node).fill(of(node)[0]);
      }
    }
    return of(this.#root);
  }

  #value(node: Node): number {
    return this.#values[this.#places.get(node)!];
  }

  #set(node: Node, value: number): void {
    this.#values[this.#places.get(node)!] = value;
  }

  #compute(node: Node): number {
    const { inputs, scalars = [], tensors = [] } = this.#environment;
    switch (node.op) {
      case "constant":
        return node.value;
      case "scalar":
        return scalars[node.value];
      case "input":
        return inputs[inputName(node)] ?? missing(node);
      case "load":
        return this.#load(node, tensors[node.value]);
      case "store":
        this.#store(node, tensors[node.value]);
        return this.#value(node.inputs[0]);
      default: {
        const [a, b = a, c = a] = node.inputs;
        const compute = arithmetic(node.op, a.type);
        if (compute === undefined) throw new Error(`no value of ${node.op} outside of vectors`);
        return compute(this.#value(a), this.#value(b), this.#value(c));
      }
    }
  }

  #load(node: Node, { data, sizes, strides = rowMajor(sizes) }: EvaluationTensor): number {
    let offset = 0;
    node.inputs.forEach((input, axis) => {
      const index = this.#value(input);
      const clamped = (node.clamped >> axis) & 1;
      const at = clamped ? Math.max(0, Math.min(sizes[axis] - 1, index)) : index;
      offset += at * strides[axis];
    });
    return data[offset];
  }

  #store(node: Node, { sizes, strides = rowMajor(sizes), put }: EvaluationTensor): void {
    const [, written, ...indices] = node.inputs;
    const at = indices.map((index) => this.#value(index));
    if (at.some((index, axis) => index < 0 || index >= sizes[axis])) return;
    put?.(
      at.reduce((offset, index, axis) => offset + index * strides[axis], 0),
      this.#value(written),
    );
  }
}

/** The value of an expression without elements, evaluated once; see Evaluator. */
export function evaluate(node: Node, environment: Environment): number {
  return new Evaluator(node).run(environment);
}

/**
 * The partner of element `d` in a rotation of |pairing| elements: the other half's, or, where
 * `pairing` is negative, the neighbour.
 */
export function partnerOf(d: number, pairing: number): number {
  if (d >= Math.abs(pairing)) return d;
  if (pairing < 0) return d ^ 1;
  return d < pairing / 2 ? d + pairing / 2 : d - pairing / 2;
}

function withElement({ inputs, ...rest }: Environment, x: number, element: number): Environment {
  return { ...rest, inputs: { ...inputs, x, element } };
}

function rowMajor(sizes: readonly number[]): number[] {
  const strides = sizes.map(() => 1);
  for (let axis = sizes.length - 2; axis >= 0; axis--)
    strides[axis] = strides[axis + 1] * sizes[axis + 1];
  return strides;
}

function missing(node: Node): never {
  throw new Error(`the expression needs the input ${inputName(node)}`);
}
