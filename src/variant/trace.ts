import { VariantError } from "../errors.ts";
import type { HookName, Node, ScalarSpec, TensorSpec, ValueType } from "./expression.ts";
import type { Graph } from "./graph.ts";
import { placeOf } from "./place.ts";
import { Ranges } from "./ranges.ts";
import { kindOf, type Tracer, used, Value, wanted } from "./value.ts";

/** Most values that the tracing of one hook may make. */
const valuesMax = 4096;

/** Name of the function that calls hooks, in stacks. */
const outermost = "traceHook";

/** What a hook is traced for. */
export interface Draft {
  readonly name: string;
  readonly tensors: readonly TensorSpec[];
  readonly scalars: readonly ScalarSpec[];
  readonly softmax: boolean;
  /** Made where the variant is defined: its stack, which takes time to read, says where. */
  readonly defined: Error;
}

/** One call of one hook over symbolic values. */
export class Trace implements Tracer {
  /** Comparisons and what was made of them that nothing took yet. */
  readonly unused = new Set<Value>();
  /** What is to be stored, in order: tensor, value and indices. */
  readonly stores: { tensor: number; inputs: Node[]; clamped: number }[] = [];
  /** Products of rows and matrices, with how much was noted when they were made. */
  readonly products = new Map<Node, number>();
  readonly ranges: Ranges;
  /** Stacks of where methods and members were looked up, in order. */
  readonly #notes: Error[] = [];
  #values = 0;

  constructor(
    readonly graph: Graph,
    readonly draft: Draft,
    readonly hook: HookName,
  ) {
    this.ranges = new Ranges(draft.tensors);
  }

  /** Notes that a line of the hook is at work. */
  note(): void {
    this.#notes.push(new Error());
  }

  /** Counts a value, since too many mean a loop that does not end; returns how much is noted. */
  count(): number {
    if (++this.#values > valuesMax)
      this.fail(
        `more than ${valuesMax} values were made: does a loop wait for a value to change?`,
        "loop over numbers of JavaScript; what depends on values is written with select",
      );
    return this.#notes.length;
  }

  /** The node of a value or number as an operand of a type. */
  coerce(op: string, value: unknown, type: ValueType): Node {
    if (value instanceof Value) {
      if (value.trace !== this)
        this.fail(`${op} got a value of another hook`, "use values only in the hook that got them");
      if (value.node.type === type) return used(value);
    }
    if (typeof value === "number" && type !== "bool") return this.#number(op, value, type);
    const convert = type === "f32" ? "toF32()" : type === "i32" ? "toI32()" : "a comparison";
    this.fail(`${op} takes ${wanted(type)} (got ${kindOf(value)})`, `convert with ${convert}`);
  }

  #number(op: string, value: number, type: ValueType): Node {
    if (type === "i32" && value !== (value | 0))
      this.fail(
        `${op} on an I32 got ${value}`,
        "give a whole number of 32 bits, or convert the I32 with toF32() first",
      );
    if (Number.isNaN(value) || (Number.isFinite(value) && !Number.isFinite(Math.fround(value))))
      this.fail(`${op} got ${value}`, "give a number that an F32 holds, or an infinity");
    return this.graph.constant(type, type === "i32" ? value | 0 : value);
  }

  /**
   * Throws VariantError at the user's line, or the nearest line before it that is known.
   *
   * @param noted how much was noted at that line; default all
   */
  fail(problem: string, fix: string, noted?: number): never {
    if (noted === undefined) this.note();
    const notes = this.#notes.slice(0, noted).reverse().values();
    const places = notes.map((note) => placeOf(note, outermost));
    const place = places.find((found) => found !== undefined) ?? placeOf(this.draft.defined);
    throw new VariantError(this.draft.name, this.hook, place, problem, fix);
  }
}
