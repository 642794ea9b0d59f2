import { VariantError } from "../errors.ts";
import {
  floatBits,
  limits,
  type Opcode,
  type ProgramWriter,
  type SectionName,
} from "./bytecode.ts";
import type { Node, Op } from "./expression.ts";
import { isInput } from "./graph.ts";
import type { Store } from "./stages.ts";
import type { Words } from "./words.ts";

/** Operations with a number for f32 and one for the other types of their inputs. */
const typed: ReadonlySet<Op> = new Set([
  "add",
  "sub",
  "mul",
  "div",
  "mod",
  "min",
  "max",
  "neg",
  "abs",
  "lt",
  "le",
  "eq",
  "ne",
]);

/**
 * Writes one section of a program: each expression once, into a register that is free, and products
 * into the sums that alone read them.
 */
export class SectionWriter {
  readonly #program: ProgramWriter;
  readonly #words: Words;
  readonly #variant: string;
  readonly #name: SectionName;
  readonly #free: number[] = [];
  #next: number;
  /** How often each expression is still to be read, and which register holds it. */
  readonly #reads = new Map<Node, number>();
  readonly #registers = new Map<Node, number>();
  readonly #needs = new Map<Node, number>();

  /**
   * @param variant its name, for messages
   * @param roots what is placed from outside, as often as it will be released
   */
  constructor(
    program: ProgramWriter,
    words: Words,
    variant: string,
    name: SectionName,
    roots: Iterable<Node>,
  ) {
    this.#program = program;
    this.#words = words;
    this.#variant = variant;
    this.#name = name;
    this.#next = words.firstFree;
    program.begin(name);
    for (const root of roots) this.#count(root);
  }

  /** The register of an expression; `into` is used if it is computed only now. */
  place(node: Node, into?: number): number {
    const source = this.#words.source(node, this.#name);
    if (source !== undefined && "register" in source) return source.register;
    const placed = this.#registers.get(node);
    if (placed !== undefined) return placed;
    const to = source === undefined ? this.#compute(node, into) : (into ?? this.take());
    if (source !== undefined) this.#program.instruct(source.axis, to, source.word);
    this.#registers.set(node, to);
    return to;
  }

  /** Notes that a placed expression was read once. */
  release(node: Node): void {
    const left = this.#reads.get(node)! - 1;
    this.#reads.set(node, left);
    const register = this.#registers.get(node);
    if (left === 0 && register !== undefined) this.give(register);
  }

  /** Leaves an expression in a register; nothing reads this section's registers after it. */
  result(node: Node, into: number): void {
    const placed = this.place(node, into);
    if (placed !== into || isInput(node, "x")) this.#program.instruct("copy", into, placed);
  }

  /** Writes an expression to a word of the section's axis. */
  keep(word: number, node: Node): void {
    const [from] = this.#all([node]);
    this.#program.instruct("keep", word, from);
  }

  /** Replaces a word of rows by the larger or smaller of it and an expression. */
  tighten(op: "maxI" | "minI", word: number, node: Node): void {
    const other = this.place(node);
    const to = this.take();
    this.#program.instruct("row", to, word);
    this.#program.instruct(op, to, to, other);
    this.#program.instruct("keep", word, to);
    this.give(to);
    this.release(node);
  }

  store({ tensor, value, indices }: Store): void {
    const [from, ...at] = this.#all([value, ...indices]);
    this.#program.instruct("store", 0, from, tensor, ...at);
  }

  /** A register that nothing else uses until it is given back. */
  take(): number {
    const register = this.#free.pop() ?? this.#next++;
    if (register >= limits.registers) {
      const problem = `it holds more than ${limits.registers} values at a time`;
      const fix = "load some of them from a tensor, or sum up in fewer steps";
      throw new VariantError(this.#variant, this.#name, undefined, problem, fix);
    }
    this.#program.require(register);
    return register;
  }

  /** Gives a register back. */
  give(register: number): void {
    if (register >= this.#words.firstFree) this.#free.push(register);
  }

  #count(node: Node): void {
    const reads = this.#reads.get(node) ?? 0;
    this.#reads.set(node, reads + 1);
    if (reads > 0 || this.#words.source(node, this.#name) !== undefined) return;
    for (const input of node.inputs) this.#count(input);
  }

  /** Places expressions that are read together, possibly for the last time. */
  #all(nodes: readonly Node[]): number[] {
    const inOrder = [...nodes].sort((a, b) => this.#need(b) - this.#need(a));
    for (const node of inOrder) this.place(node);
    const registers = nodes.map((node) => this.place(node));
    for (const node of nodes) this.release(node);
    return registers;
  }

  /** About how many registers computing an expression takes: what takes more is placed first. */
  #need(node: Node): number {
    let need = this.#needs.get(node);
    if (need === undefined) {
      const isRead = this.#words.source(node, this.#name) !== undefined;
      const needs = isRead ? [] : node.inputs.map((input) => this.#need(input));
      needs.sort((a, b) => b - a);
      need = needs.reduce((most, each, held) => Math.max(most, each + held), 1);
      this.#needs.set(node, need);
    }
    return need;
  }

  #compute(node: Node, into: number | undefined): number {
    const { op, inputs, value } = node;
    if (op === "constant") return this.#instruct("constant", into, bitsOf(node));
    if (op === "scalar") return this.#instruct("scalar", into, value);
    if (op === "load") return this.#instruct("load", into, value, ...this.#all(inputs));
    if (op === "partner") return this.#partner(node);
    const product = op === "add" && node.type === "f32" ? this.#product(inputs) : undefined;
    if (product !== undefined) {
      const other = inputs[product === inputs[0] ? 1 : 0];
      return this.#instruct("mulAdd", into, ...this.#all([...product.inputs, other]));
    }
    return this.#instruct(opcodeOf(node), into, ...this.#all(inputs));
  }

  #instruct(op: Opcode, into: number | undefined, ...operands: readonly number[]): number {
    const to = into ?? this.take();
    this.#program.instruct(op, to, ...operands);
    return to;
  }

  /** Elements move, so it must not overwrite what it reads. */
  #partner({ inputs: [input], value }: Node): number {
    const from = this.place(input);
    const to = this.take();
    this.#program.instruct("partner", to, from, value);
    this.release(input);
    return to;
  }

  /** An input that is a product and read by nothing else. */
  #product(inputs: readonly Node[]): Node | undefined {
    return inputs.find(
      (input) =>
        input.op === "mul" &&
        this.#reads.get(input) === 1 &&
        !this.#registers.has(input) &&
        this.#words.source(input, this.#name) === undefined,
    );
  }
}

function opcodeOf({ op, inputs }: Node): Opcode {
  const name = typed.has(op) ? `${op}${inputs[0].type === "f32" ? "F" : "I"}` : op;
  return name as Opcode;
}

function bitsOf({ type, value }: Node): number {
  return type === "f32" ? floatBits(value) : type === "bool" ? -value : value;
}
