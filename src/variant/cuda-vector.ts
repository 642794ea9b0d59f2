/** Vector hooks as CUDA C++: a loop over the elements that the Vector of hooks.h gives. */
import { Block, type Spelling } from "./cuda-expression.ts";
import { Axis, type Node } from "./expression.ts";
import { isInput, nodesOf } from "./graph.ts";

/** Whether a value differs between the elements of a vector. */
function byElement(node: Node): boolean {
  return (node.axes & Axis.element) !== 0;
}

/** Name of the array with the partners of a pairing. */
function partnersName(pairing: number): string {
  return pairing < 0 ? `neighbours_${-pairing}` : `others_${pairing}`;
}

/**
 * Appends the statements of a query, key or value hook to `outer`, in whose function `v` is the
 * vector; what has no elements is computed once, before them.
 */
export function emitVector(outer: Block, root: Node): void {
  const nodes = nodesOf([root]);
  const spell: Spelling = (input) =>
    input === "x" || input === "element" ? input : outer.spell(input);
  const inner = () => new Block(outer.declarations, spell, outer, partnerAnywhere);
  for (const pairing of new Set(nodes.filter(isPartner).map(({ value }) => value))) {
    const name = partnersName(pairing);
    outer.lines.push(`float ${name}[8];`, `v.template partners<${pairing}>(${name});`);
  }
  // Below these, values may be words of the row, whose parts have no names here.
  const used = new Set(nodes.filter(byElement).flatMap(({ inputs }) => inputs)).add(root);
  for (const node of nodes) {
    const [input] = node.inputs;
    if (node.op === "reduceSum" || node.op === "reduceMax") {
      const method = node.op === "reduceSum" ? "sum" : "max";
      outer.declare(node, `v.${method}(${lambda(inner(), input)})`);
    } else if (isPartner(node) && !isInput(input, "x")) {
      outer.lines.push(`const auto f${input.id} = ${lambda(inner(), input)};`);
    } else if (!byElement(node) && used.has(node)) {
      outer.name(node);
    }
  }
  const each = new Block(outer.declarations, spell, outer, partnerOfOwn);
  const result = each.name(root);
  outer.lines.push(
    "if (!v.filled()) return;",
    "FB_UNROLL",
    "for (int i = 0; i < 8; i++) {",
    "    [[maybe_unused]] const int element = v.first + i;",
    "    [[maybe_unused]] const float x = v.x[i];",
    ...each.lines.map((line) => `    ${line}`),
    `    v.x[i] = ${result};`,
    "}",
  );
}

function isPartner({ op }: Node): boolean {
  return op === "partner";
}

/** A value as a function of any element and what it holds. */
function lambda(block: Block, node: Node): string {
  const result = block.name(node);
  return `[&](int element, float x) { ${[...block.lines, `return ${result};`].join(" ")} }`;
}

/** A partner of one of the lane's own elements. */
function partnerOfOwn({ inputs: [input], value }: Node): string {
  const other = `${partnersName(value)}[i]`;
  if (isInput(input, "x")) return other;
  return `f${input.id}(v.template partner_of<${value}>(element), ${other})`;
}

/** A partner of any element. */
function partnerAnywhere({ inputs: [input], value }: Node): string {
  const partner = `v.template partner_of<${value}>(element)`;
  if (isInput(input, "x")) return `v.at(${partner})`;
  return `f${input.id}(${partner}, v.at(${partner}))`;
}
