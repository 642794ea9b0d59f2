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
  /** Elements of a token's keys in a layer. */
  readonly kv: number;
  /** Elements of weights that a token reads: layers and head. */
  readonly weights: number;
}

/** Batches whose step was measured. */
type Clients = 1 | 64;

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
  return { layers, hidden, kv, weights: layers * layer + fields["vocab_size"] * hidden };
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

/** Bytes that a step of so many clients reads: weights once, and each client's keys and values. */
function bytesRead({ weights, layers, kv }: Shape, clients: number): number {
  return elementBytes * (weights + clients * figures.step.keys * layers * 2 * kv);
}

/** Milliseconds of one GPU's step: what it reads, which ranks share, and the rest of a layer. */
function partsOf(clients: Clients): { shared: number; perLayer: number } {
  const measured = shapeOf(figures.step.shape);
  const shared = bytesRead(measured, clients) / figures.step.readGBs / 1e6;
  return { shared, perLayer: (figures.step.ms[clients] - shared) / measured.layers };
}

/** Milliseconds of a step of a shape, `reduceUs` for each all-reduce. */
export function stepMs(name: string, clients: Clients, ranks: number, reduceUs: number): number {
  const shape = shapeOf(name);
  const read = bytesRead(shape, clients) / figures.step.readGBs / 1e6 / ranks;
  const whole = partsOf(clients).perLayer + (perLayer * reduceUs) / 1000;
  return read + shape.layers * whole;
}

/** The tables, as the page has them. */
export function tables(): string {
  const lines: string[] = [];
  for (const clients of [1, 64] as const) {
    const { shared, perLayer: rest } = partsOf(clients);
    const { layers } = shapeOf(figures.step.shape);
    const parts = `${shared.toFixed(2)} ms are read, ${(layers * rest).toFixed(2)} ms the rest`;
    lines.push(
      ...(clients === 1 ? [] : [""]),
      `${clients} client${clients > 1 ? "s" : ""}: of ${figures.step.ms[clients]} ms ${parts}.`,
      "",
      "| Shape, ranks | Weights of a rank | All-reduce | Step, simulated | Of it all-reduces |",
      "| --- | --- | --- | --- | --- |",
    );
    for (const name of ["llama-8b", "llama-70b"])
      for (const [ranks, machines] of [
        [2, 1],
        [4, 1],
        [8, 1],
        [16, 2],
      ])
        lines.push(rowOf(name, clients, ranks, machines));
  }
  return lines.join("\n");
}

function rowOf(name: string, clients: Clients, ranks: number, machines: number): string {
  const { hidden, weights, layers } = shapeOf(name);
  const here = ranks / machines;
  const two = allReduceUs(clients * hidden * elementBytes);
  const [least, most] = machines === 1 ? [0, 0] : betweenMachinesUs;
  // At best as between two; at worst each rank is a step of a ring more.
  const ends = [two + least, two * (here - 1) + most];
  const range = (of: (us: number) => number, digits: number) => {
    const [from, to] = ends.map((us) => of(us).toFixed(digits));
    return from === to ? from : `${from} to ${to}`;
  };
  const time = (us: number) => stepMs(name, clients, ranks, us);
  const share = (us: number) => (layers * perLayer * us) / 10 / time(us);
  const gigabytes = ((weights * elementBytes) / ranks / 1e9).toFixed(1);
  const where = machines === 1 ? `${ranks}` : `${ranks} on ${machines} machines`;
  const cells = [`${range((us) => us, 1)} us`, `${range(time, 1)} ms`, `${range(share, 0)} %`];
  return `| ${name}, ${where} | ${gigabytes} GB | ${cells.join(" | ")} |`;
}

if (import.meta.main) console.log(tables());
