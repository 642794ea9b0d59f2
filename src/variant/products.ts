import { Axis, type Node, type Op } from "./expression.ts";
import { type Graph, isInput, nodesOf, rebuild } from "./graph.ts";

/** Rewrites what the logits of pairs multiply, so that as little as possible is left for a pair. */
export class Products {
  readonly #graph: Graph;
  /** By how many inputs of other nodes each node is read. */
  readonly #reads = new Map<Node, number>();

  constructor(graph: Graph) {
    this.#graph = graph;
  }

  /**
   * The expressions with what does not change with the pair multiplied first, rows apart from keys;
   * divisions by such become products. The first is multiplied by `factor`, above 0.
   */
  gather([first, ...others]: readonly Node[], factor: number): Node[] {
    const regroup = rebuild(this.#graph, (node, inputs) =>
      isPair(node) && node.type === "f32" ? this.#regrouped(node, inputs) : undefined,
    );
    const roots = [first, ...others].map(regroup);
    const reads = [...roots.slice(1), ...nodesOf(roots).flatMap(({ inputs }) => inputs)];
    for (const node of reads) this.#reads.set(node, (this.#reads.get(node) ?? 0) + 1);
    if (factor !== 1) roots[0] = this.#scaled(roots[0], this.#graph.constant("f32", factor));
    return roots;
  }

  /**
   * Takes a factor without axes off x where all expressions multiply it by the same: they then see
   * x times that factor.
   */
  absorb(roots: readonly Node[]): { roots: readonly Node[]; factor: Node | undefined } {
    const factors = new Set<Node | undefined>();
    for (const root of roots) if (isInput(root, "x")) factors.add(undefined);
    for (const node of nodesOf(roots)) {
      for (const input of node.inputs) {
        if (isInput(input, "x")) factors.add(this.#factorOfX(node));
      }
    }
    const [factor] = factors;
    if (factors.size !== 1 || factor === undefined) return { roots, factor: undefined };
    const x = this.#graph.input("x");
    const take = rebuild(this.#graph, (node) => (this.#factorOfX(node) === factor ? x : undefined));
    return { roots: roots.map(take), factor };
  }

  #factorOfX({ op, inputs: [a, b] }: Node): Node | undefined {
    if (op !== "mul") return undefined;
    if (isInput(a, "x") && b.axes === 0) return b;
    return isInput(b, "x") && a.axes === 0 ? a : undefined;
  }

  #regrouped({ op, inputs: before }: Node, [a, b]: readonly Node[]): Node | undefined {
    if (op === "mul") return this.#product([...factorsOf(a), ...factorsOf(b)]);
    if (op !== "div" || isPair(before[1])) return undefined;
    const reciprocal = this.#graph.apply("div", this.#graph.constant("f32", 1), b);
    return this.#product([...factorsOf(a), reciprocal]);
  }

  /** Pair factors in their order, then what changes with rows or not at all, then keys. */
  #product(factors: readonly Node[]): Node {
    const constants = factors.filter(({ op }) => op === "constant");
    const plain = factors.filter(({ op, axes }) => axes === 0 && op !== "constant");
    const rows = factors.filter(({ axes }) => axes === Axis.row);
    const keys = factors.filter(({ axes }) => axes === Axis.key);
    const still = [...constants, ...plain];
    const groups = rows.length > 0 ? [[...still, ...rows], keys] : [[...still, ...keys]];
    const words = groups.filter((group) => group.length > 0).map((group) => this.#all(group));
    return this.#all([...factors.filter(isPair), ...words]);
  }

  #all(factors: readonly Node[]): Node {
    return factors.reduce((product, factor) => this.#graph.apply("mul", product, factor));
  }

  /** A node times a factor without axes, which goes to where it costs nothing. */
  #scaled(node: Node, factor: Node): Node {
    const { op, inputs } = node;
    const [a, b, c] = inputs;
    const scale = (input: Node) => this.#scaled(input, factor);
    if (isFree(node)) return this.#product([...factorsOf(node), factor]);
    if (this.#isShared(node) || this.#cost(node) > 1) return this.#graph.apply("mul", node, factor);
    if (op === "neg") return this.#graph.apply("neg", scale(a));
    if (op === "div") return this.#graph.apply("div", scale(a), b);
    if (op === "select") return this.#graph.apply("select", a, scale(b), scale(c));
    if (isTermwise(op)) return this.#graph.apply(op, scale(a), scale(b));
    return this.#graph.apply("mul", node, factor);
  }

  /** Multiplications for a pair that scaling a node takes. */
  #cost(node: Node): number {
    const { op, inputs } = node;
    const [a, b, c] = inputs;
    if (isFree(node)) return 0;
    if (this.#isShared(node)) return 1;
    // The factor of the only x can be taken off it.
    if (isInput(node, "x")) return 0;
    if (op === "neg" || op === "div") return this.#cost(a);
    if (op === "select") return this.#cost(b) + this.#cost(c);
    return isTermwise(op) ? this.#cost(a) + this.#cost(b) : 1;
  }

  #isShared(node: Node): boolean {
    return (this.#reads.get(node) ?? 0) > 1;
  }
}

/** Whether a node changes with the pair of a query and a key. */
export function isPair({ axes }: Node): boolean {
  return (axes & Axis.score) !== 0 || (axes & (Axis.row | Axis.key)) === (Axis.row | Axis.key);
}

/** Operations that scale with both of their inputs. */
function isTermwise(op: Op): boolean {
  return op === "add" || op === "sub" || op === "min" || op === "max";
}

/** Whether another factor costs a pair nothing. */
function isFree(node: Node): boolean {
  return !factorsOf(node).every(isPair);
}

/** What a product multiplies a pair's value by, and that value; a product of pair values is one. */
function factorsOf(node: Node): Node[] {
  if (node.op !== "mul" || !isPair(node)) return [node];
  const [a, b] = node.inputs;
  if (isPair(a) && isPair(b)) return [node];
  return isPair(a) ? [...factorsOf(a), b] : isPair(b) ? [...factorsOf(b), a] : [a, b];
}
