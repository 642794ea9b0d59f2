import { OptionError } from "../errors.ts";
import { isMade } from "../made.ts";
import { requireInteger, requireList, requireOptions } from "../require.ts";
import { counted, showAsText } from "../shown.ts";
import { arithmetic } from "./arithmetic.ts";
import { Axis, type InputName, type Node } from "./expression.ts";
import { Graph, inputName, nodesOf } from "./graph.ts";
import { type Projection, splitProduct } from "./projection.ts";

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

/** A node, the places of its inputs among the steps, and how its value follows from theirs. */
interface Step {
  readonly node: Node;
  readonly inputs: readonly number[];
  readonly compute: (operands: Float64Array) => number;
}

/**
 * Evaluates an expression directly: f32 in f64, without any rounding, and i32 exactly. This is what
 * an expression means; every device is tested against it.
 */
export class Evaluator {
  readonly #steps: readonly Step[];
  /** Of a hook with a product: what comes before it, and how it is made; steps come after it. */
  readonly #product: { before: Evaluator | undefined; made: Projection } | undefined;
  readonly #operands = new Float64Array(8);
  #environment: Environment = { inputs: {} };
  /** In vector hooks: the current element. */
  #element: { x: number; element: number } | undefined;

  constructor(root: Node) {
    if (!isMade("expression", root))
      throw new OptionError("root", root, "an expression", "pass a hook of a variant.");
    const made = splitProduct(new Graph(), root);
    if (made !== undefined)
      this.#product = { before: made.before && new Evaluator(made.before), made };
    // Without anything after it, the product is what there is.
    const nodes = made === undefined ? nodesOf([root]) : nodesOf(made.after ? [made.after] : []);
    const places = new Map(nodes.map((node, place) => [node, place]));
    this.#steps = nodes.map((node) => {
      const inputs = node.inputs.map((input) => places.get(input)!);
      return { node, inputs, compute: this.#computing(node) };
    });
  }

  /** The value, bool as 0 and 1, of an expression without elements. */
  run(environment: Environment): number {
    this.#environment = checkEnvironment(environment);
    this.#element = undefined;
    const values = new Float64Array(this.#steps.length);
    this.#steps.forEach(({ inputs, compute }, place) => {
      for (let i = 0; i < inputs.length; i++) this.#operands[i] = values[inputs[i]];
      values[place] = compute(this.#operands);
    });
    return values[values.length - 1];
  }

  /**
   * The values of a vector hook for a whole vector of raw elements `x`; of a hook with a product,
   * as many as that has.
   */
  vector(x: ArrayLike<number>, environment: Environment): Float64Array {
    this.#environment = checkEnvironment(environment);
    const count = requireList("x", x);
    for (let i = 0; i < count; i++) requireValue(`x[${i}]`, x[i]);
    if (this.#product === undefined) return this.#vector(x);
    const { before, made } = this.#product;
    const row = before?.vector(x, environment) ?? Float64Array.from(x);
    const product = this.#multiplied(row, made);
    return made.after === undefined ? product : this.#vector(product);
  }

  #vector(x: ArrayLike<number>): Float64Array {
    const vectors: Float64Array[] = [];
    for (const step of this.#steps) {
      const { op, value: pairing } = step.node;
      const source = vectors[step.inputs[0]];
      const values = new Float64Array(x.length);
      if (op === "partner") values.forEach((_, d) => (values[d] = source[partnerOf(d, pairing)]));
      else if (op === "reduceSum") values.fill(source.reduce((sum, value) => sum + value, 0));
      else if (op === "reduceMax") values.fill(Math.max(...source));
      else this.#fill(values, step, vectors, x);
      vectors.push(values);
    }
    return vectors[vectors.length - 1];
  }

  /** @internal */
  toString(): string {
    return `Evaluator of ${counted(this.#steps.length, "step")}`;
  }

  /** A row times a matrix, with what is left of the row behind it. */
  #multiplied(row: Float64Array, { tensor, perHead }: Projection): Float64Array {
    const { data, sizes, strides = rowMajor(sizes) } = this.#tensor(tensor);
    const [rows, columns] = sizes.slice(-2);
    const [down, across] = strides.slice(-2);
    const head = perHead ? requireValue("inputs.head", this.#environment.inputs.head) : 0;
    const first = perHead ? head * strides[0] : 0;
    const product = Float64Array.from({ length: columns }, (_, j) => {
      let sum = 0;
      for (let i = 0; i < rows; i++) {
        const at = first + i * down + j * across;
        sum += row[i] * requireValue(`tensors[${tensor}].data[${at}]`, data[at]);
      }
      return sum;
    });
    return Float64Array.from([...product, ...row.subarray(rows)]);
  }

  #fill(
    values: Float64Array,
    { node, inputs, compute }: Step,
    vectors: readonly Float64Array[],
    x: ArrayLike<number>,
  ): void {
    const isVector = (node.axes & Axis.element) !== 0;
    const count = isVector ? values.length : 1;
    for (let d = 0; d < count; d++) {
      this.#element = { x: x[d], element: d };
      for (let i = 0; i < inputs.length; i++) this.#operands[i] = vectors[inputs[i]][d];
      values[d] = compute(this.#operands);
    }
    if (!isVector) values.fill(values[0]);
  }

  /** What computes a node's value from those of its inputs. */
  #computing(node: Node): Step["compute"] {
    const { op, value } = node;
    if (op === "constant") return () => value;
    if (op === "scalar")
      return () => requireValue(`scalars[${value}]`, this.#environment.scalars?.[value]);
    if (op === "input") return this.#reading(inputName(node));
    if (op === "load") return (indices) => this.#load(node, indices);
    if (op === "store") return (operands) => this.#store(node, operands);
    const compute = arithmetic(op, node.inputs[0].type);
    if (compute !== undefined) return (operands) => compute(operands[0], operands[1], operands[2]);
    return () => {
      throw new OptionError("root", op, "without vectors in run", "use vector().");
    };
  }

  #reading(name: InputName): Step["compute"] {
    const read = () => requireValue(`inputs.${name}`, this.#environment.inputs[name]);
    if (name !== "x" && name !== "element") return read;
    return () => (this.#element === undefined ? read() : this.#element[name]);
  }

  #load(node: Node, indices: Float64Array): number {
    const { data, sizes, strides = rowMajor(sizes) } = this.#tensor(node.value);
    const offset = sizes.reduce((sum, size, axis) => {
      const clamped = ((node.clamped >> axis) & 1) !== 0;
      const index = clamped ? Math.max(0, Math.min(size - 1, indices[axis])) : indices[axis];
      return sum + index * strides[axis];
    }, 0);
    return requireValue(`tensors[${node.value}].data[${offset}]`, data[offset]);
  }

  #tensor(index: number): EvaluationTensor {
    const tensor = this.#environment.tensors?.[index];
    requireOptions(`tensors[${index}]`, tensor, ["data", "sizes", "strides", "put"]);
    const { data, sizes, strides } = tensor;
    requireList(`tensors[${index}].data`, data);
    for (const axes of [sizes, strides ?? []])
      for (let i = 0; i < requireList(`tensors[${index}].sizes`, axes); i++)
        requireInteger(`tensors[${index}].sizes`, axes[i], -(2 ** 31));
    return tensor;
  }

  #store(node: Node, operands: Float64Array): number {
    const { sizes, strides = rowMajor(sizes), put } = this.#tensor(node.value);
    const indices = sizes.map((_, axis) => operands[axis + 2]);
    if (indices.every((index, axis) => index >= 0 && index < sizes[axis])) {
      const offset = indices.reduce((sum, index, axis) => sum + index * strides[axis], 0);
      put?.(offset, operands[1]);
    }
    return operands[0];
  }
}

showAsText(Evaluator.prototype);

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

function rowMajor(sizes: readonly number[]): number[] {
  const strides = sizes.map(() => 1);
  for (let axis = sizes.length - 2; axis >= 0; axis--)
    strides[axis] = strides[axis + 1] * sizes[axis + 1];
  return strides;
}

/** What is in the environment is looked at where the expression needs it. Errors: OptionError. */
function checkEnvironment(environment: Environment): Environment {
  requireOptions("environment", environment, ["inputs", "scalars", "tensors"]);
  const { inputs } = environment;
  if (typeof inputs === "object" && inputs !== null) return environment;
  throw new OptionError("inputs", inputs, "an object of numbers by name", "pass {} for none.");
}

function requireValue(option: string, value: unknown): number {
  if (typeof value === "number") return value;
  throw new OptionError(option, value, "a number", "the expression needs it.");
}
