import type { InputName, Node, TensorSpec } from "./expression.ts";
import { inputName } from "./graph.ts";

/** Values that an i32 may have, both ends included. */
export interface Range {
  readonly least: number;
  readonly most: number;
}

/** The ends of i32. */
export const int32 = { least: -0x80000000, most: 0x7fffffff } as const;

/** Positions and lengths stay below this. */
const tokensMax = 2 ** 30;
const counted: ReadonlySet<InputName> = new Set([
  "query",
  "queryIndex",
  "key",
  "queryLength",
  "kvLength",
]);

/** Ranges of i32 nodes, and of bool ones as 0 and 1. */
export class Ranges {
  readonly #tensors: readonly TensorSpec[];
  readonly #known = new Map<Node, Range>();

  constructor(tensors: readonly TensorSpec[]) {
    this.#tensors = tensors;
  }

  of(node: Node): Range {
    let range = this.#known.get(node);
    if (range === undefined) this.#known.set(node, (range = this.#find(node)));
    return range;
  }

  #find(node: Node): Range {
    switch (node.op) {
      case "constant":
        return { least: node.value, most: node.value };
      case "input":
        return { least: 0, most: counted.has(inputName(node)) ? tokensMax : int32.most };
      case "load": {
        const { dtype } = this.#tensors[node.value];
        return dtype === "i32" ? int32 : { least: 0, most: dtype === "u8" ? 255 : 1 };
      }
      case "select":
        return join("min", "max", this.of(node.inputs[1]), this.of(node.inputs[2]));
      case "neg":
        return combine("sub", { least: 0, most: 0 }, this.of(node.inputs[0]));
      case "add":
      case "sub":
      case "min":
      case "max":
      case "and":
      case "shr":
        if (node.type === "bool") return { least: 0, most: 1 };
        return combine(node.op, this.of(node.inputs[0]), this.of(node.inputs[1]));
      default:
        return node.type === "bool" ? { least: 0, most: 1 } : int32;
    }
  }
}

function combine(op: "add" | "sub" | "min" | "max" | "and" | "shr", a: Range, b: Range): Range {
  if (op === "min" || op === "max") return join(op, op, a, b);
  if (op === "add" || op === "sub") {
    const exact = exactRange(op, a, b);
    return fits(exact) ? exact : int32;
  }
  if (op === "shr") {
    if (b.least !== b.most) return { least: Math.min(a.least, 0), most: Math.max(a.most, 0) };
    return { least: a.least >> (b.least & 31), most: a.most >> (b.least & 31) };
  }
  const signless = [a, b].filter(({ least }) => least >= 0);
  return signless.length === 0
    ? int32
    : { least: 0, most: Math.min(...signless.map(({ most }) => most)) };
}

function join(least: "min" | "max", most: "min" | "max", a: Range, b: Range): Range {
  return { least: Math[least](a.least, b.least), most: Math[most](a.most, b.most) };
}

/** The range of a sum or difference, as if i32 had no ends. */
export function exactRange(op: "add" | "sub", a: Range, b: Range): Range {
  return op === "add"
    ? { least: a.least + b.least, most: a.most + b.most }
    : { least: a.least - b.most, most: a.most - b.least };
}

/** Whether a range stays within i32. */
export function fits({ least, most }: Range): boolean {
  return least >= int32.least && most <= int32.most;
}
