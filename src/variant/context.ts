import {
  type Extent,
  type HookName,
  type InputName,
  type Node,
  Axis,
  type TensorDtype,
  type TensorSpec,
  type ValueType,
} from "./expression.ts";
import { isInput } from "./graph.ts";
import { isWidth } from "./projection.ts";
import type { Trace } from "./trace.ts";
import { kindOf, noteUses, VariantMatrix } from "./value.ts";
import { F32, I32 } from "./values.ts";

/** An input that belongs to a query row. */
export type RowInput =
  | "query"
  | "queryToken"
  | "queryIndex"
  | "request"
  | "head"
  | "kvHead"
  | "queryLength"
  | "kvLength";

/** An input that belongs to a key. */
export type KeyInput = "key" | "slot";

const rowInputs: RowInput[] = [
  "query",
  "queryToken",
  "queryIndex",
  "request",
  "head",
  "kvHead",
  "queryLength",
  "kvLength",
];
const keyInputs: KeyInput[] = ["key", "slot"];
const pairInputs = [...rowInputs, ...keyInputs];
const keyVectorInputs: HookInputs["key"][] = [...keyInputs, "kvHead", "element"];

/** What each hook is given besides x, the variant's tensors and its scalars. */
export interface HookInputs {
  query: RowInput | "element";
  key: KeyInput | "kvHead" | "element";
  value: KeyInput | "kvHead" | "element";
  logits: RowInput | KeyInput;
  mask: RowInput | KeyInput;
  output: RowInput | "element" | "lse";
}

const hookInputs: { readonly [H in HookName]: readonly HookInputs[H][] } = {
  query: [...rowInputs, "element"],
  key: keyVectorInputs,
  value: keyVectorInputs,
  logits: pairInputs,
  mask: pairInputs,
  output: [...rowInputs, "element", "lse"],
};

/** Type of a tensor's elements in hooks. */
function loadType(dtype: TensorDtype): "f32" | "i32" {
  return dtype === "i32" || dtype === "u8" || dtype === "bool" ? "i32" : "f32";
}

/** A tensor of the variant, in a hook; `I` has one index for each axis. */
export class VariantTensor<
  V extends F32 | I32,
  I extends readonly unknown[],
> extends VariantMatrix {
  /** @internal */
  readonly trace: Trace;
  readonly #spec: TensorSpec;
  readonly #index: number;

  /** @internal */
  constructor(trace: Trace, index: number) {
    super();
    this.trace = trace;
    this.#index = index;
    this.#spec = trace.draft.tensors[index];
  }

  /**
   * The element at the indices. An index that may be outside of the tensor is moved to its nearest
   * edge; a constant one outside of the declared shape is a VariantError.
   */
  at(...indices: I): V {
    const inputs = this.#indices("at", indices);
    const parts = { type: loadType(this.#spec.dtype), inputs, value: this.#index };
    const node = this.trace.graph.make({ op: "load", clamped: this.#clamped(inputs), ...parts });
    return (node.type === "f32" ? new F32(this.trace, node) : new I32(this.trace, node)) as V;
  }

  /**
   * Writes a value at the indices, once for each visible pair of a query and a key; nothing where
   * an index is outside of the tensor. In logits hooks only, to tensors of f32, f16, bf16 or i32
   * that the variant does not read.
   */
  put(value: V | number, ...indices: I): void {
    const trace = this.trace;
    const { name, dtype } = this.#spec;
    if (trace.hook !== "logits")
      trace.fail(`${name}.put() in the ${trace.hook} hook`, "store in the logits hook");
    if (!["f32", "f16", "bf16", "i32"].includes(dtype))
      trace.fail(`${name}.put() to a tensor of ${dtype}`, "declare it as f32, f16, bf16 or i32");
    const written = trace.coerce(`${name}.put()`, value, loadType(dtype));
    const inputs = this.#indices("put", indices);
    const clamped = this.#clamped(inputs);
    trace.stores.push({ tensor: this.#index, inputs: [written, ...inputs], clamped });
  }

  /** @internal */
  multiplied(vector: Node): Node {
    const { trace } = this;
    const { name, dtype, shape } = this.#spec;
    const perHead = shape.length === 3 && shape[0] === "queryHeads";
    const isFixed = shape.slice(-2).every((extent) => isWidth(extent));
    if ((!perHead && shape.length !== 2) || !isFixed)
      trace.fail(
        `matmul() got ${name}, declared as [${shape.join(", ")}]`,
        'declare [rows, columns] or ["queryHeads", rows, columns] in numbers, headDim or valueDim',
      );
    if (loadType(dtype) !== "f32")
      trace.fail(`matmul() got ${name}, a tensor of ${dtype}`, "declare it as f32, f16 or bf16");
    const inputs = perHead ? [vector, trace.graph.input("head")] : [vector];
    const product = trace.graph.make({ op: "matmul", type: "f32", inputs, value: this.#index });
    trace.products.set(product, trace.count());
    return product;
  }

  #indices(method: string, indices: readonly unknown[]): Node[] {
    const { name, shape } = this.#spec;
    const call = `${name}.${method}()`;
    if (indices.length !== shape.length)
      this.trace.fail(
        `${call} got ${indices.length} indices, the tensor has ${shape.length} axes`,
        `give one index for each of [${shape.join(", ")}]`,
      );
    return indices.map((index, axis) => {
      if (typeof index !== "number" && !(index instanceof I32))
        this.trace.fail(
          `index ${axis} of ${call} is ${kindOf(index)}`,
          "give an I32 or a number; an F32 becomes one with toI32()",
        );
      const node = this.trace.coerce(call, index, "i32");
      const extent = shape[axis];
      const last = typeof extent === "number" ? extent - 1 : 0x7fffffff;
      if (node.op === "constant" && (node.value < 0 || node.value > last))
        this.trace.fail(
          `index ${node.value} of axis ${axis} in ${call} is outside of the declared ${extent}`,
          typeof extent === "number" ? `stay within 0 and ${last}` : "indices start at 0",
        );
      return node;
    });
  }

  #clamped(indices: readonly Node[]): number {
    const { shape } = this.#spec;
    const bits = indices.map((index, axis) =>
      isWithin(index, shape[axis], this.trace) ? 0 : 1 << axis,
    );
    return bits.reduce((all, bit) => all | bit, 0);
  }
}

noteUses(VariantTensor);

/** The extent that an input of this name stays below. */
const bounds: Partial<Record<InputName, Extent>> = {
  head: "queryHeads",
  kvHead: "kvHeads",
  request: "requests",
  queryToken: "tokens",
  slot: "slots",
};

/** Whether an index is within an extent whatever its value. */
function isWithin(index: Node, extent: Extent, { hook, ranges }: Trace): boolean {
  const { least, most } = ranges.of(index);
  if (least >= 0 && (most === 0 || most < Number(extent))) return true;
  if (isInput(index, "element"))
    return extent === (hook === "query" || hook === "key" ? "headDim" : "valueDim");
  return Object.entries(bounds).some(
    ([name, bound]) => extent === bound && isInput(index, name as InputName),
  );
}

/** x of a hook, and the object of everything else that it is given. */
export function contextOf(trace: Trace): { x: F32; context: object } {
  const { draft, graph, hook } = trace;
  const members: PropertyDescriptorMap = {};
  const offer = (name: string, make: () => unknown) => {
    members[name] = { get: make, enumerable: true };
  };
  for (const name of hookInputs[hook]) {
    const type: ValueType = name === "lse" ? "f32" : "i32";
    const make = () => new (type === "f32" ? F32 : I32)(trace, graph.input(name));
    if (name !== "lse" || draft.softmax) offer(name, make);
  }
  draft.scalars.forEach(({ name, type }, index) => {
    offer(name, () => new (type === "f32" ? F32 : I32)(trace, graph.scalar(type, index)));
  });
  draft.tensors.forEach(({ name }, index) => {
    offer(name, () => new VariantTensor<F32 | I32, unknown[]>(trace, index));
  });
  const context = new Proxy(Object.create(null, members), {
    get(target, name, receiver) {
      trace.note();
      if (typeof name === "symbol" || name in members) return Reflect.get(target, name, receiver);
      trace.fail(`there is no ${name} here`, fixFor(name, trace, Object.keys(members)));
    },
  });
  return { x: new F32(trace, graph.input("x", axesOfX(hook))), context };
}

function axesOfX(hook: HookName): number {
  if (hook === "logits" || hook === "mask") return Axis.score;
  return Axis.element | (hook === "key" || hook === "value" ? Axis.key : Axis.row);
}

function fixFor(name: string, { hook, draft }: Trace, offered: readonly string[]): string {
  const hooks = Object.entries(hookInputs).filter(([, names]) =>
    (names as readonly string[]).includes(name),
  );
  if (name === "lse" && !draft.softmax) return "with softmax: false there is no log-sum-exp";
  const known = offered.join(", ");
  if (hooks.length > 0)
    return `${name} is for ${hooks.map(([of]) => of).join(", ")} hooks; ${hook} has ${known}`;
  return `declare it in tensors or scalars, or use one of ${known}`;
}
