/**
 * What more ranks than were measured might reach, by arithmetic from what was: prints the tables of
 * docs/parallel.md. Nothing here was run on such machines.
 *
 * Usage: bun bench/ranks/simulate.ts
 */
import { namedShapes } from "../../src/weights/shapes.ts";
import figures from "./figures.json";

interface Shape {
  readonly layers: number;
  readonly hidden: number;
  /** Elements of weights that a token reads: layers and head. */
  readonly weights: number;
}

const elementBytes = 2;
/** All-reduces of a layer. */
const perLayer = 2;
/** Microseconds that an exchange between machines may take; none was measured. */
const betweenMachinesUs = [10, 30];

function shapeOf(name: string): Shape {
  const fields = namedShapes[name] as Record<string, number>;
  const { hidden_size: hidden, num_hidden_layers: layers, intermediate_size: inner } = fields;
  const headDim = fields["head_dim"] ?? hidden / fields["num_attention_heads"];
  const kv = fields["num_key_value_heads"] * headDim;
  const q = fields["num_attention_heads"] * headDim;
  const layer = hidden * (2 * q + 2 * kv + 3 * inner);
  return { layers, hidden, weights: layers * layer + fields["vocab_size"] * hidden };
}

/** Microseconds of an all-reduce on two GPUs, on the line between the measured sizes around it. */
function allReduceUs(bytes: number): number {
  const sizes = figures.allReduceInGraphUs;
  const above = Math.max(
    1,
    sizes.findIndex(([size]) => size >= bytes),
  );
  const [[from, least], [to, most]] = sizes.slice(above - 1, above + 1);
  return bytes <= from ? least : least + ((bytes - from) / (to - from)) * (most - least);
}

/** Milliseconds of a step that ranks share, and of what each does whole; of the measured shape. */
function partsMeasured(): { shared: number; whole: number } {
  const { shape, "1": one, "2": two } = figures.betweenTokensMs;
  const { layers, hidden } = shapeOf(shape);
  const exchanged = (layers * perLayer * allReduceUs(hidden * elementBytes)) / 1000;
  const shared = 2 * (one - two + exchanged);
  return { shared, whole: one - shared };
}

/** Milliseconds between tokens of a shape at one client, `reduceUs` for each all-reduce. */
export function betweenTokensMs(name: string, ranks: number, reduceUs: number): number {
  const measured = shapeOf(figures.betweenTokensMs.shape);
  const { layers, weights } = shapeOf(name);
  const { shared, whole } = partsMeasured();
  const read = (shared * weights) / measured.weights / ranks;
  return read + (whole * layers) / measured.layers + (layers * perLayer * reduceUs) / 1000;
}

/** The tables, as the page has them. */
export function tables(): string {
  const { shared, whole } = partsMeasured();
  const { weights } = shapeOf(figures.betweenTokensMs.shape);
  const rate = ((weights * elementBytes) / shared / 1e9).toFixed(2);
  const lines = [
    `Shared: ${shared.toFixed(2)} ms (${rate} TB/s of weights); whole: ${whole.toFixed(2)} ms.`,
    "",
    "| Shape, ranks | Weights of a rank | All-reduce | Between tokens, simulated |",
    "| --- | --- | --- | --- |",
  ];
  for (const name of ["llama-8b", "llama-70b"])
    for (const [ranks, machines] of [
      [2, 1],
      [4, 1],
      [8, 1],
      [16, 2],
    ])
      lines.push(rowOf(name, ranks, machines));
  return lines.join("\n");
}

function rowOf(name: string, ranks: number, machines: number): string {
  const { hidden, weights } = shapeOf(name);
  const here = ranks / machines;
  const two = allReduceUs(hidden * elementBytes);
  const [least, most] = machines === 1 ? [0, 0] : betweenMachinesUs;
  // At best as between two; at worst each rank is a step of a ring more.
  const [best, worst] = [two + least, two * (here - 1) + most];
  const range = (from: number, to: number, digits: number) =>
    from === to ? from.toFixed(digits) : `${from.toFixed(digits)} to ${to.toFixed(digits)}`;
  const time = range(betweenTokensMs(name, ranks, best), betweenTokensMs(name, ranks, worst), 1);
  const gigabytes = ((weights * elementBytes) / ranks / 1e9).toFixed(1);
  const where = machines === 1 ? `${ranks}` : `${ranks} on ${machines} machines`;
  return `| ${name}, ${where} | ${gigabytes} GB | ${range(best, worst, 1)} us | ${time} ms |`;
}

if (import.meta.main) console.log(tables());
