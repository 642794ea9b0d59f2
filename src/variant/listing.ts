import { Axis, hookNames, type Node } from "./expression.ts";
import { inputName, nodesOf } from "./graph.ts";
import type { Variant } from "./variant.ts";

const axisNames = [
  ["row", Axis.row],
  ["key", Axis.key],
  ["pair", Axis.score],
  ["element", Axis.element],
] as const;

/**
 * A variant's traced hooks as text, a value per line with its type and what it varies with: row,
 * key, pair, element, or nothing.
 */
export function listing(variant: Variant): string {
  const lines = [`variant ${variant.name}${variant.softmax ? "" : ", without softmax"}`];
  for (const { name, dtype, shape } of variant.tensors) lines.push(`${name}: ${dtype} [${shape}]`);
  for (const { name, type } of variant.scalars) lines.push(`${name}: ${type}`);
  for (const hook of hookNames) {
    const root = variant.hooks[hook];
    if (root === undefined) continue;
    const nodes = nodesOf([root]).filter(({ op }) => op !== "constant");
    const names = new Map(nodes.map((node, i) => [node, `%${i}`]));
    lines.push("", `${hook}:`);
    for (const node of nodes) lines.push(`  ${names.get(node)} = ${line(variant, node, names)}`);
    lines.push(`  return ${names.get(root) ?? root.value}`);
  }
  return `${lines.join("\n")}\n`;
}

function line(variant: Variant, node: Node, names: ReadonlyMap<Node, string>): string {
  const inputs = node.inputs.map((input) => names.get(input) ?? String(input.value));
  const axes = axisNames.flatMap(([name, axis]) => ((node.axes & axis) !== 0 ? [name] : []));
  const changes = axes.length === 0 ? "" : ` by ${axes.join(", ")}`;
  return `${expression(variant, node, inputs)} : ${node.type}${changes}`;
}

function expression(variant: Variant, node: Node, inputs: readonly string[]): string {
  switch (node.op) {
    case "input":
      return inputName(node);
    case "scalar":
      return variant.scalars[node.value].name;
    case "load":
      return `${variant.tensors[node.value].name}[${inputs.join(", ")}]`;
    case "store": {
      const [through, value, ...indices] = inputs;
      const { name } = variant.tensors[node.value];
      return `${through}, with ${name}[${indices.join(", ")}] = ${value}`;
    }
    case "matmul": {
      const [vector, ...head] = inputs;
      return `matmul(${[vector, variant.tensors[node.value].name, ...head].join(", ")})`;
    }
    case "partner":
      return `partner(${inputs[0]}, ${node.value})`;
    default:
      return `${node.op}(${inputs.join(", ")})`;
  }
}
