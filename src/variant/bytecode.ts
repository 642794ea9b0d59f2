import { tensorsMax } from "./expression.ts";

/**
 * Operations of the CPU's bytecode, by their numbers in zig/cpu/kernels/variant/program.zig, which
 * says what they take; F: f32, I: i32 or bool, which is 0 or -1.
 */
export const opcodes = [
  "constant",
  "scalar",
  "row",
  "key",
  "element",
  "keep",
  "load",
  "store",
  "reduceSum",
  "reduceMax",
  "partner",
  "copy",
  "mulAdd",
  "addF",
  "subF",
  "mulF",
  "divF",
  "modF",
  "minF",
  "maxF",
  "pow",
  "negF",
  "absF",
  "floor",
  "exp",
  "log",
  "tanh",
  "sigmoid",
  "sqrt",
  "rsqrt",
  "sin",
  "cos",
  "toF32",
  "toI32",
  "ltF",
  "leF",
  "eqF",
  "neF",
  "addI",
  "subI",
  "mulI",
  "divI",
  "modI",
  "minI",
  "maxI",
  "negI",
  "absI",
  "ltI",
  "leI",
  "eqI",
  "neI",
  "and",
  "or",
  "xor",
  "not",
  "shl",
  "shr",
  "select",
] as const;

/** Name of an operation of the bytecode. */
export type Opcode = (typeof opcodes)[number];

/**
 * Parts of a program, in their order. `uniform`, `elements` and `rows` run once per pass, `keys`
 * once per block of keys; the others run for pairs (`visible`, `logits`) and vectors, those called
 * before on rows that are multiplied by a matrix then.
 */
export const sectionNames = [
  "uniform",
  "elements",
  "rows",
  "keys",
  "visible",
  "logits",
  "query",
  "key",
  "value",
  "output",
  "beforeQuery",
  "beforeOutput",
] as const;

/** Name of a part of a program. */
export type SectionName = (typeof sectionNames)[number];

/** What a program's first two registers hold when it starts and when it ends. */
export const xRegister = 0;
/** -1 where a row sees a key. */
export const visibleRegister = 1;

/** Limits of a program: registers, and words of a row, a key and an element, inputs included. */
export const limits = { registers: 256, row: 96, key: 64, element: 32 } as const;

const magic = 0x31564246;
const instructionWords = 8;
const opcodeNumbers = new Map<Opcode, number>(opcodes.map((name, number) => [name, number]));

/** The header of a program, before its instructions. */
export interface Header {
  readonly softmax: boolean;
  readonly stores: boolean;
  readonly words: { readonly row: number; readonly key: number; readonly element: number };
  /** Register that holds, after `uniform`, the factor of scale * q.k; 0: there is none. */
  readonly factor: number;
  /** Matrices that rows of queries and outputs are multiplied by, among the tensors; -1: none. */
  readonly matrices: { readonly query: number; readonly output: number };
  /** Dtype codes and axes. */
  readonly tensors: readonly { readonly dtype: number; readonly axes: number }[];
}

/** Assembles a program, one section at a time, in any order. */
export class ProgramWriter {
  readonly #code: number[] = [];
  readonly #sections = sectionNames.map(() => [0, 0]);
  #registers = 2;
  #section: number[] = [];

  /** Instructions belong to this section from now on. */
  begin(name: SectionName): void {
    this.#section = this.#sections[sectionNames.indexOf(name)];
    this.#section[0] = this.#code.length / instructionWords;
  }

  /** @param to the register that is written; keep: the word, store: 0 */
  instruct(op: Opcode, to: number, ...operands: readonly number[]): void {
    const words = [opcodeNumbers.get(op)!, to, ...operands];
    while (words.length < instructionWords) words.push(0);
    this.#code.push(...words);
    this.#section[1]++;
  }

  /** Makes sure that a register exists. */
  require(register: number): void {
    this.#registers = Math.max(this.#registers, register + 1);
  }

  finish({ softmax, stores, words, factor, matrices, tensors }: Header): Int32Array {
    const flags = Number(softmax) | (Number(stores) << 1);
    const shapes = Array.from({ length: tensorsMax }, (_, i) =>
      i < tensors.length ? tensors[i].dtype | (tensors[i].axes << 8) : 0,
    );
    const head = [magic, flags, this.#registers, words.row, words.key, words.element];
    const program = [
      ...head,
      factor,
      tensors.length,
      ...shapes,
      ...this.#sections.flat(),
      matrices.query,
      matrices.output,
      ...this.#code,
    ];
    return Int32Array.from(program);
  }
}

const bits = new DataView(new ArrayBuffer(4));

/** The bits of an f32. */
export function floatBits(value: number): number {
  bits.setFloat32(0, value);
  return bits.getInt32(0);
}
