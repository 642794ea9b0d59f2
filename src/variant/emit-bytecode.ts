import { ProgramWriter, type SectionName, visibleRegister, xRegister } from "./bytecode.ts";
import type { Node, TensorDtype } from "./expression.ts";
import { SectionWriter } from "./section.ts";
import type { StagedVariant } from "./stages.ts";
import { Words } from "./words.ts";

/** Codes of kernels/params/types.h. */
const dtypeCodes: Record<TensorDtype, number> = {
  f32: 0,
  f16: 1,
  bf16: 2,
  f8e4m3: 3,
  f8e5m2: 4,
  i32: 6,
  u8: 8,
  bool: 9,
};

const vectorHooks = ["query", "key", "value", "output"] as const;

/** The first words of a row: positions that it sees, which the program tightens. */
const lowWord = 0;
const highWord = 1;

/**
 * The bytecode that the CPU device runs for a variant; zig/cpu/kernels/variant/program.zig says
 * what it means. Errors: VariantError where a hook holds more values at a time than there are
 * registers.
 */
export function emitBytecode(staged: StagedVariant): Int32Array {
  return new Emitter(staged).emit();
}

class Emitter {
  readonly #program = new ProgramWriter();
  readonly #words = new Words();
  readonly #staged: StagedVariant;
  /** What is stored, and where. */
  readonly #stored: readonly Node[];

  constructor(staged: StagedVariant) {
    this.#staged = staged;
    this.#stored = staged.stores.flatMap(({ value, indices }) => [value, ...indices]);
  }

  emit(): Int32Array {
    const { variant, logitsFactor, stores, queryProduct, outputProduct } = this.#staged;
    const words = this.#words;
    this.#collect();
    this.#pins();
    this.#keep("elements", words.words.element);
    this.#rows();
    this.#keep("keys", words.words.key);
    this.#results();
    return this.#program.finish({
      softmax: variant.softmax,
      stores: stores.length > 0,
      words: { row: words.count("row"), key: words.count("key"), element: words.count("element") },
      factor: logitsFactor === undefined ? 0 : words.pins.get(logitsFactor)!,
      matrices: { query: queryProduct?.tensor ?? -1, output: outputProduct?.tensor ?? -1 },
      tensors: variant.tensors.map(({ dtype, shape }) => {
        return { dtype: dtypeCodes[dtype], axes: shape.length };
      }),
    });
  }

  #begin(name: SectionName, roots: Iterable<Node>): SectionWriter {
    return new SectionWriter(this.#program, this.#words, this.#staged.variant.name, name, roots);
  }

  /** Sections of vectors. */
  #vectors(): [SectionName, Node][] {
    const { queryProduct, outputProduct } = this.#staged;
    const all: [SectionName, Node | undefined][] = [
      ...vectorHooks.map((hook): [SectionName, Node | undefined] => [hook, this.#staged[hook]]),
      ["beforeQuery", queryProduct?.before],
      ["beforeOutput", outputProduct?.before],
    ];
    return all.filter((each): each is [SectionName, Node] => each[1] !== undefined);
  }

  #collect(): void {
    const { logitsFactor, logits, mask, low, high } = this.#staged;
    if (logitsFactor !== undefined) this.#words.pin(logitsFactor);
    for (const root of this.#stored) this.#words.collect(root, "logits");
    if (logits !== undefined) this.#words.collect(logits, "logits");
    if (mask !== undefined) this.#words.collect(mask, "visible");
    if (low !== undefined) this.#words.collect(low, "rows");
    if (high !== undefined) this.#words.collect(high, "rows");
    for (const [section, root] of this.#vectors()) this.#words.collect(root, section);
  }

  #pins(): void {
    const { pins } = this.#words;
    this.#program.require(this.#words.firstFree - 1);
    const section = this.#begin("uniform", pins.keys());
    for (const [node, register] of pins) section.result(node, register);
  }

  #keep(name: SectionName, words: ReadonlyMap<Node, number>): void {
    const section = this.#begin(name, words.keys());
    for (const [node, word] of words) section.keep(word, node);
  }

  #rows(): void {
    const { low, high } = this.#staged;
    const words = this.#words.words.row;
    const bounds = [low, high].filter((node) => node !== undefined);
    const section = this.#begin("rows", [...bounds, ...words.keys()]);
    if (low !== undefined) section.tighten("maxI", lowWord, low);
    if (high !== undefined) section.tighten("minI", highWord, high);
    for (const [node, word] of words) section.keep(word, node);
  }

  #results(): void {
    const { mask, logits, stores } = this.#staged;
    if (mask !== undefined) this.#begin("visible", [mask]).result(mask, visibleRegister);
    if (logits !== undefined) {
      const section = this.#begin("logits", [...this.#stored, logits]);
      for (const store of stores) section.store(store);
      section.result(logits, xRegister);
    }
    for (const [section, root] of this.#vectors())
      this.#begin(section, [root]).result(root, xRegister);
  }
}
