import { made } from "../made.ts";
import {
  Axis,
  type InputName,
  inputAxes,
  type Node,
  type Op,
  type Parts,
  type ValueType,
} from "./expression.ts";
import { fold, type NodeMaker } from "./fold.ts";

const inputNames = Object.keys(inputAxes) as InputName[];

/** Name of an input node. */
export function inputName(node: Node): InputName {
  return inputNames[node.value];
}

/** Whether a node is an input of this name. */
export function isInput(node: Node, name: InputName): boolean {
  return node.op === "input" && inputNames[node.value] === name;
}

/** Makes the nodes of expressions: equal ones are one, and what is constant is folded. */
export class Graph implements NodeMaker {
  readonly #nodes = new Map<string, Node>();

  /** Nodes so far. */
  get size(): number {
    return this.#nodes.size;
  }

  constant(type: ValueType, value: number): Node {
    return this.#intern({ op: "constant", type, inputs: [], value }, 0);
  }

  scalar(type: ValueType, index: number): Node {
    return this.#intern({ op: "scalar", type, inputs: [], value: index }, 0);
  }

  /** @param axes other axes than the input's own: those of x in vector hooks */
  input(name: InputName, axes: number = inputAxes[name]): Node {
    const type = name === "x" || name === "lse" ? "f32" : "i32";
    return this.#intern({ op: "input", type, inputs: [], value: inputNames.indexOf(name) }, axes);
  }

  /** An operation on nodes, or a simpler node of the same value. */
  apply(op: Op, ...inputs: Node[]): Node {
    return this.make({ op, type: resultType(op, inputs), inputs });
  }

  /** As apply, for operations that need more than their inputs. */
  make(parts: Parts): Node {
    return fold(this, parts) ?? this.#intern(parts, axesOf(parts));
  }

  #intern({ op, type, inputs, value = 0, clamped = 0 }: Parts, axes: number): Node {
    const number = Object.is(value, -0) ? "-0" : value;
    const key = `${op} ${type} ${axes} ${number} ${clamped} ${inputs.map(({ id }) => id).join()}`;
    let node = this.#nodes.get(key);
    if (node === undefined) {
      node = made("expression", { id: this.#nodes.size, op, type, axes, inputs, value, clamped });
      this.#nodes.set(key, node);
    }
    return node;
  }
}

function resultType(op: Op, inputs: readonly Node[]): ValueType {
  if (op === "lt" || op === "le" || op === "eq" || op === "ne") return "bool";
  if (op === "toF32") return "f32";
  if (op === "toI32") return "i32";
  return inputs[op === "select" ? 1 : 0].type;
}

function axesOf({ op, inputs }: Parts): number {
  const axes = inputs.reduce((all, input) => all | input.axes, 0);
  return op === "reduceSum" || op === "reduceMax" ? axes & ~Axis.element : axes;
}

/**
 * Rebuilds expressions in a graph. `replace` may give a node's replacement, itself in the graph;
 * undefined: the same operation on the rebuilt inputs.
 */
export function rebuild(
  graph: Graph,
  replace: (node: Node, inputs: readonly Node[]) => Node | undefined,
): (node: Node) => Node {
  const done = new Map<Node, Node>();
  const visit = (node: Node): Node => {
    let made = done.get(node);
    if (made === undefined) {
      const inputs = node.inputs.map(visit);
      made = replace(node, inputs) ?? copy(graph, node, inputs);
      done.set(node, made);
    }
    return made;
  };
  return visit;
}

function copy(graph: Graph, node: Node, inputs: readonly Node[]): Node {
  if (node.op === "input") return graph.input(inputName(node), node.axes);
  return graph.make({ ...node, inputs });
}

/** All nodes of expressions, inputs before what is made of them. */
export function nodesOf(roots: Iterable<Node>): Node[] {
  const found = new Set<Node>();
  const visit = (node: Node): void => {
    if (found.has(node)) return;
    for (const input of node.inputs) visit(input);
    found.add(node);
  };
  for (const root of roots) visit(root);
  return [...found];
}
