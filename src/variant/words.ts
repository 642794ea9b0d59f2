import { limits, type SectionName, xRegister } from "./bytecode.ts";
import { Axis, type InputName, inputAxes, type Node } from "./expression.ts";
import { inputName, isInput } from "./graph.ts";

/** Axes along which a program keeps words, with the sections that compute them. */
const wordSections = { row: "rows", key: "keys", element: "elements" } as const;

/** Name of such an axis. */
export type WordAxis = keyof typeof wordSections;

/** Names of such axes. */
const wordAxes = Object.keys(wordSections) as WordAxis[];

const names = Object.keys(inputAxes) as InputName[];

/** Words that every row, key and element has: bounds of rows, then inputs. */
const inputWords: Record<WordAxis, readonly string[]> = {
  row: ["low", "high", ...names.filter((name) => inputAxes[name] === Axis.row)],
  key: names.filter((name) => inputAxes[name] === Axis.key),
  element: names.filter((name) => inputAxes[name] === Axis.element),
};

/** Most constants, scalars and expressions of them that stay in registers. */
const pinsMax = 160;

/** Where an expression comes from without being computed: a register or a word. */
export type Source =
  { readonly register: number } | { readonly axis: WordAxis; readonly word: number };

/**
 * What a program computes once per row, key or element, or only once, instead of for each pair or
 * element of a vector: the largest expressions of one axis, or of none.
 */
export class Words {
  /** Registers of what has no axes, in the order in which it is computed. */
  readonly pins = new Map<Node, number>();
  readonly words: Record<WordAxis, Map<Node, number>>;
  readonly #late = new Map<Node, boolean>();
  readonly #seen = new Map<SectionName, Set<Node>>();

  constructor() {
    this.words = { row: new Map(), key: new Map(), element: new Map() };
  }

  /** The first register that no pin holds. */
  get firstFree(): number {
    return 2 + this.pins.size;
  }

  /** All words of an axis, with its inputs. */
  count(axis: WordAxis): number {
    return inputWords[axis].length + this.words[axis].size;
  }

  /** Finds what computing an expression in a section reads from words and pins. */
  collect(node: Node, section: SectionName): void {
    let seen = this.#seen.get(section);
    if (seen === undefined) this.#seen.set(section, (seen = new Set()));
    if (seen.has(node) || node.op === "input") return;
    seen.add(node);
    const home = this.#home(node);
    if (home === "uniform") {
      if (this.pin(node)) return;
    } else if (home !== undefined && section !== wordSections[home]) {
      const words = this.words[home];
      if (!words.has(node) && this.count(home) < limits[home]) words.set(node, this.count(home));
      if (words.has(node)) return this.collect(node, wordSections[home]);
    }
    for (const input of node.inputs) this.collect(input, section);
  }

  /** Gives an expression without axes a register of its own, while there are some. */
  pin(node: Node): boolean {
    if (!this.pins.has(node) && this.pins.size < pinsMax) this.pins.set(node, this.firstFree);
    return this.pins.has(node);
  }

  /** Where a section gets an expression; undefined: it computes it. */
  source(node: Node, section: SectionName): Source | undefined {
    if (isInput(node, "x")) return { register: xRegister };
    const pin = this.pins.get(node);
    if (pin !== undefined && section !== "uniform") return { register: pin };
    for (const axis of wordAxes) {
      const input = node.op === "input" ? inputWords[axis].indexOf(inputName(node)) : -1;
      if (input >= 0) return { axis, word: input };
      const word = this.words[axis].get(node);
      if (word !== undefined && section !== wordSections[axis]) return { axis, word };
    }
    return undefined;
  }

  #home(node: Node): WordAxis | "uniform" | undefined {
    if (this.#isLate(node)) return undefined;
    if (node.axes === 0) return "uniform";
    return wordAxes.find((axis) => node.axes === Axis[axis]);
  }

  /** Whether an expression is made of scores or a vector's values, or of the sum over a row. */
  #isLate(node: Node): boolean {
    let late = this.#late.get(node);
    if (late === undefined) {
      late = isInput(node, "x") || isInput(node, "lse") || node.inputs.some((i) => this.#isLate(i));
      this.#late.set(node, late);
    }
    return late;
  }
}
