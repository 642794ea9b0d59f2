import type { HookName, Node, ValueType } from "./expression.ts";
import type { Graph } from "./graph.ts";

/** What values need of the tracing of a hook that they belong to. */
export interface Tracer {
  readonly graph: Graph;
  readonly hook: HookName;
  /** Comparisons and what was made of them that nothing took yet. */
  readonly unused: Set<Value>;
  /** Notes that a line of the hook is at work. */
  note(): void;
  /** Counts a value; returns how much is noted. */
  count(): number;
  /** The node of a value or number as an operand of a type. */
  coerce(op: string, value: unknown, type: ValueType): Node;
  /** Throws VariantError at the user's line. */
  fail(problem: string, fix: string): never;
}

/** How values are named in messages. */
const typeNames = { f32: "an F32", i32: "an I32", bool: "a Bool" } as const;

/** A value of a hook's expression: unknown while the hook is traced, computed by a kernel later. */
export abstract class Value {
  /** @internal */
  readonly trace: Tracer;
  /** @internal */
  readonly node: Node;
  /** @internal How much the trace had noted when this was made. */
  readonly made: number;

  /** @internal */
  constructor(trace: Tracer, node: Node) {
    this.trace = trace;
    this.node = node;
    this.made = trace.count();
  }

  /** For console.log. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    const { node, trace } = this;
    const name = typeNames[node.type].split(" ")[1];
    return `${name} (${node.op} in the ${trace.hook} hook: known only in the kernel)`;
  }

  /** Refuses to be a number, string or boolean of JavaScript: error VariantError. */
  [Symbol.toPrimitive](): never {
    return this.trace.fail(
      `${typeNames[this.node.type]} of a hook was used as a number or text of JavaScript`,
      "write a.add(b), a.le(b), a.eq(b) and so on instead of a + b, a <= b and a == b",
    );
  }
}

/** A tensor that rows may be multiplied by: [rows, columns] or [queryHeads, rows, columns]. */
export abstract class VariantMatrix {
  /** @internal The product of a vector and it. Errors: VariantError for a tensor of other axes. */
  abstract multiplied(vector: Node): Node;
}

/** A value or anything else, as messages name it. */
export function kindOf(value: unknown): string {
  if (value instanceof Value) return typeNames[value.node.type];
  if (value === undefined || value === null) return String(value);
  if (typeof value === "number" || typeof value === "boolean")
    return `the ${typeof value} ${value}`;
  if (value instanceof Promise) return "a promise";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

/** The node of a value that is used: a Bool is then no longer unused. */
export function used(value: Value): Node {
  value.trace.unused.delete(value);
  return value.node;
}

/** What an operation takes, in words. */
export function wanted(type: ValueType): string {
  return type === "bool" ? "a Bool" : `${typeNames[type]} or a number`;
}

/**
 * Makes each method note where it is looked up: a hook that ends in a call has left the stack when
 * the call begins, but not before.
 */
export function noteUses({ prototype }: { readonly prototype: object }): void {
  for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
    if (name === "constructor" || typeof value !== "function") continue;
    const get = function (this: { trace?: Tracer }): unknown {
      this.trace?.note();
      return value;
    };
    Object.defineProperty(prototype, name, { get });
  }
}
