/** Variants as CUDA C++: the text that replaces kernels/attention/variant.h. */
import { knowsBounds } from "./bound-ranges.ts";
import {
  Block,
  type Declarations,
  dtypeMacro,
  partsOf,
  type Places,
  reads,
} from "./cuda-expression.ts";
import { params, signatures, signaturesBefore, writtenHook, writtenSource } from "./cuda-source.ts";
import { emitVector } from "./cuda-vector.ts";
import { Axis, type HookName, hookNames, type InputName, type Node } from "./expression.ts";
import { stage, type StagedVariant } from "./stages.ts";
import type { CudaSource, Variant } from "./variant.ts";

/** A variant as the kernels take it. */
export interface CudaVariant {
  /** Replaces attention/variant.h in the attention kernels. */
  readonly attention: string;
  /** The same for the merge; undefined: the plain merge. */
  readonly merge: string | undefined;
  /** The hooks there are. */
  readonly hooks: ReadonlySet<HookName>;
  readonly softmax: boolean;
  /** Rows that are multiplied by matrices. */
  readonly multiplies: { readonly query: boolean; readonly output: boolean };
  /** 32-bit words that are kept per row. */
  readonly rowWords: number;
}

const nowhere: Places = { tensors: [], scalars: [] };
const pairHooks: readonly HookName[] = ["logits", "mask"];

/** Emits a variant; the same variant gives the same text. */
export function emitCuda(variant: Variant, places: Places = nowhere): CudaVariant {
  const emitter = new Emitter(variant, places);
  return {
    attention: emitter.attention(),
    merge: emitter.merge(),
    hooks: emitter.hooks,
    softmax: variant.softmax,
    multiplies: emitter.multiplies,
    rowWords: emitter.rowWords,
  };
}

class Emitter {
  readonly hooks: ReadonlySet<HookName>;
  readonly rowWords: number;
  readonly #staged: StagedVariant;
  readonly #source: CudaSource | undefined;
  readonly #variant: Variant;
  readonly #declarations: Declarations;
  /** What hooks read of rows and keys; hooks in CUDA read all inputs. */
  readonly #rowNodes: readonly Node[];
  readonly #keyNodes: readonly Node[];
  readonly #wholeRows: boolean;
  readonly #wholeKeys: boolean;

  constructor(variant: Variant, places: Places) {
    const { cuda } = variant;
    this.#variant = variant;
    this.#source = cuda;
    this.#staged = stage(variant);
    this.hooks = new Set(
      hookNames.filter((hook) => this.#traced(hook) !== undefined || this.#written(hook)),
    );
    this.#declarations = { tensors: variant.tensors, places };
    const pairs = this.#pairRoots();
    const before = this.#staged.queryProduct?.before;
    const queries = [...this.#roots(["query"]), ...(before === undefined ? [] : [before])];
    this.#rowNodes = partsOf([...pairs, ...queries], Axis.row);
    this.#keyNodes = partsOf(pairs, Axis.key);
    this.#wholeKeys = pairHooks.some((hook) => this.#written(hook));
    this.#wholeRows = this.#wholeKeys || this.#written("query");
    this.rowWords = this.#rowNodes.length + (this.#wholeRows ? 8 : 0);
  }

  get multiplies(): { query: boolean; output: boolean } {
    const { queryProduct, outputProduct } = this.#staged;
    return { query: queryProduct !== undefined, output: outputProduct !== undefined };
  }

  /** The struct of the attention kernels. */
  attention(): string {
    const lines = writtenSource(this.#variant);
    const { low, high, logitsFactor } = this.#staged;
    lines.push("struct Variant : NoVariant {", ...this.#facts(), ...this.#row(), ...this.#key());
    lines.push(...this.#function(`int32_t low(${params}, const RowInputs& in)`, low));
    lines.push(...this.#function(`int32_t high(${params}, const RowInputs& in)`, high));
    lines.push(...this.#function(`float logits_factor(${params})`, logitsFactor));
    for (const hook of this.hooks) {
      if (this.#written(hook)) lines.push(...writtenHook(this.#variant, hook, lines.length));
      else lines.push(...this.#tracedHook(hook, this.#traced(hook)!));
    }
    lines.push(...this.#product("query"), ...this.#product("output"));
    return `${[...lines, "};"].join("\n")}\n`;
  }

  /** The struct of the merge. */
  merge(): string | undefined {
    const isPlain = !this.hooks.has("output") && !this.multiplies.output;
    if (this.#variant.softmax && isPlain) return undefined;
    const lines = this.#written("output") ? writtenSource(this.#variant) : [];
    lines.push("struct Variant : NoVariant {");
    if (!this.#variant.softmax) lines.push("    static constexpr bool softmax = false;");
    if (this.hooks.has("output")) {
      lines.push("    static constexpr bool has_output = true;");
      if (this.#written("output"))
        lines.push(...writtenHook(this.#variant, "output", lines.length));
      else lines.push(...this.#tracedHook("output", this.#staged.output!));
    }
    lines.push(...this.#product("output"));
    return `${[...lines, "};"].join("\n")}\n`;
  }

  #written(hook: HookName): boolean {
    return this.#source?.hooks.includes(hook) === true;
  }

  #traced(hook: HookName): Node | undefined {
    return this.#written(hook) ? undefined : this.#staged[hook];
  }

  #roots(hooks: readonly HookName[]): Node[] {
    return hooks.map((hook) => this.#traced(hook)).filter((node) => node !== undefined);
  }

  /** What is computed for each pair. */
  #pairRoots(): Node[] {
    const stores = this.#written("logits") ? [] : this.#staged.stores;
    const stored = stores.flatMap(({ value, indices }) => [value, ...indices]);
    return [...this.#roots(pairHooks), ...stored];
  }

  #block(spell: (input: InputName) => string): Block {
    return new Block(this.#declarations, spell);
  }

  #facts(): string[] {
    const { low, high, stores } = this.#staged;
    const ofKeys = ["logits", "mask", "key", "value"] as const;
    const roots = [...this.#pairRoots(), ...this.#roots(["key", "value"])];
    const slots = reads(roots, "slot") || ofKeys.some((hook) => this.#written(hook));
    const facts: [string, boolean][] = [...this.hooks].map((hook) => [`has_${hook}`, true]);
    facts.push(
      ["has_bounds", low !== undefined || high !== undefined],
      ["trims", !knowsBounds(this.#staged)],
      ["stores", stores.length > 0 && !this.#written("logits")],
      ["reads_keys", this.#wholeKeys || this.#keyNodes.length > 0],
      ["reads_slots", slots],
    );
    const lines = facts
      .filter(([, value]) => value)
      .map(([name]) => `    static constexpr bool ${name} = true;`);
    if (!this.#variant.softmax) lines.push("    static constexpr bool softmax = false;");
    lines.push(`    static constexpr int row_words = ${this.rowWords};`);
    return lines;
  }

  /** What rows of queries or outputs are multiplied by, and what is done before. */
  #product(hook: "query" | "output"): string[] {
    const product = this.#staged[`${hook}Product`];
    if (product === undefined) return [];
    const { tensor, perHead, before } = product;
    const type = dtypeMacro(this.#variant.tensors[tensor].dtype);
    const lines = [
      `    static constexpr bool projects_${hook} = true;`,
      `    static FB_DEVICE auto ${hook}_matrix(${params}, int32_t head) {`,
      `        return matrix_of<${type}, ${tensor}, ${perHead}>(p, head);`,
      "    }",
    ];
    if (before === undefined) return lines;
    lines.push(`    static constexpr bool has_before_${hook} = true;`);
    return [...lines, ...this.#vectorHook(hook, signaturesBefore[hook], before)];
  }

  #row(): string[] {
    if (this.rowWords === 0) return [];
    const signature = `Row row(${params}, const RowInputs& in)`;
    return this.#words("Row", "RowInputs", signature, this.#rowNodes, this.#wholeRows);
  }

  #key(): string[] {
    if (!this.#wholeKeys && this.#keyNodes.length === 0) return [];
    const signature = `Key key_words(${params}, const KeyInputs& in)`;
    return this.#words("Key", "KeyInputs", signature, this.#keyNodes, this.#wholeKeys);
  }

  /** A struct of words and the function that makes it. */
  #words(
    name: string,
    inputs: string,
    signature: string,
    nodes: readonly Node[],
    whole: boolean,
  ): string[] {
    const block = this.#block((input) => `in.${member(input)}`);
    const values = nodes.map((node) => block.name(node));
    const members = nodes.map(({ type }, i) => `        ${wordType(type)} w${i};`);
    if (whole) {
      members.unshift(`        ${inputs} inputs;`);
      values.unshift("in");
    }
    return [
      `    struct ${name} {`,
      ...members,
      "    };",
      ...method(signature, block, `{${values.join(", ")}}`),
    ];
  }

  #function(signature: string, root: Node | undefined): string[] {
    if (root === undefined) return [];
    const block = this.#block((input) => `in.${member(input)}`);
    return method(signature, block, block.name(root));
  }

  #tracedHook(hook: HookName, root: Node): string[] {
    if (hook === "logits" || hook === "mask") return this.#pairHook(hook, root);
    return this.#vectorHook(hook, signatures[hook], root);
  }

  #vectorHook(hook: HookName, signature: string, root: Node): string[] {
    const block = this.#block((input) => (input in own ? own[input]! : `in.${member(input)}`));
    if (hook === "output") return method(signature, block, block.name(root));
    if (hook === "query") this.#nameRow(block);
    emitVector(block, root);
    return method(signature, block);
  }

  #pairHook(hook: "logits" | "mask", root: Node): string[] {
    const block = this.#block(() => "(pair.product * pair.factor)");
    this.#nameRow(block);
    this.#keyNodes.forEach((node, i) => block.call(node, word("key", node, i)));
    if (hook === "logits") for (const store of this.#staged.stores) block.store(store);
    return method(signatures[hook], block, block.name(root));
  }

  #nameRow(block: Block): void {
    this.#rowNodes.forEach((node, i) => block.call(node, word("row", node, i)));
  }
}

/** Inputs that are parameters of their own. */
const own: Partial<Record<InputName, string>> = { x: "x", element: "element", lse: "lse" };
function method(signature: string, block: Block, result?: string): string[] {
  const body = [...block.lines, ...(result === undefined ? [] : [`return ${result};`])];
  return [
    ...(result === undefined ? ["    template <class V>"] : []),
    `    static FB_DEVICE ${signature} {`,
    ...body.map((line) => `        ${line}`),
    "    }",
  ];
}

/** Members of RowInputs and KeyInputs: query_token of queryToken. */
function member(input: InputName): string {
  return input.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function wordType(type: Node["type"]): string {
  return type === "f32" ? "float" : "int32_t";
}

function word(of: string, { type }: Node, index: number): string {
  return type === "bool" ? `(${of}.w${index} != 0)` : `${of}.w${index}`;
}
