/** Runs that are captured once a bucket, then replayed over what their tensors hold by then. */
import type { Attention } from "../../src/attention/attention.ts";
import type { GraphOptions } from "../../src/attention/options.ts";
import type { RunTensors } from "../../src/attention/tensors.ts";
import type { Graph } from "../../src/device/graph.ts";
import { dtypeBytes } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { poisoned } from "./numbers.ts";

/** The tensors of all replays, as long as the graph's sizes ask for, and graphs by bucket. */
export class CapturedRun implements Disposable {
  readonly #attention: Attention;
  readonly #kept = new Map<string, Tensor>();
  readonly #keysMost: number;
  readonly #graphs = new Map<number, Graph>();

  /** Of requests of so many keys at most. */
  constructor(attention: Attention, keysMost: number) {
    this.#attention = attention;
    this.#keysMost = keysMost;
  }

  /**
   * What `attention.run(tensors)` does, by a replay for the batch that was planned. The first call
   * of a bucket captures it. Errors: an Error if that replay's bits are not those of the call.
   */
  run(tensors: RunTensors): void {
    const run = Object.fromEntries(
      Object.entries(tensors).map(([name, given]) => [name, this.#hold(name, given)]),
    ) as unknown as RunTensors;
    const outputs = (["out", "lse"] as const).filter((name) => tensors[name] != null);
    const { device } = this.#attention;
    const poison = () => outputs.forEach((name) => fill(run[name]!));
    poison();
    const { bucket } = this.#attention.lastPlan!;
    const graph = this.#graphs.get(bucket);
    if (graph === undefined) {
      this.#attention.run(run);
      const bits = outputs.map((name) => run[name]!.toBytes());
      const captured = device.capture(device.stream, () => this.#attention.run(run));
      this.#graphs.set(bucket, captured);
      poison();
      captured.replay(device.stream);
      if (outputs.some((name, i) => Buffer.compare(run[name]!.toBytes(), bits[i]) !== 0))
        throw new Error("the replay's bits are not those of the call that was captured");
    } else graph.replay(device.stream);
    for (const name of outputs) {
      const target = tensors[name]!;
      target.copyFrom(run[name]!.slice(0, 0, target.shape[0]));
    }
  }

  /** A tensor of the captured run with the numbers of the given one; what is none as it is. */
  #hold(name: string, given: unknown): unknown {
    if (name === "variantInputs" && given !== undefined) {
      const inputs = Object.entries(given as Record<string, unknown>);
      return Object.fromEntries(inputs.map(([key, input]) => [key, this.#hold(key, input)]));
    }
    if (!(given instanceof Tensor)) return given;
    const { device, shape, dtype } = given;
    const rows = rowsOf(name, given, this.#attention.options.graph!, this.#keysMost);
    const kept = this.#kept.get(name) ?? poisoned(device, [rows, ...shape.slice(1)], dtype);
    this.#kept.set(name, kept);
    kept.slice(0, 0, shape[0]).copyFrom(given);
    return kept;
  }

  [Symbol.dispose](): void {
    for (const graph of this.#graphs.values()) graph[Symbol.dispose]();
    for (const tensor of this.#kept.values()) tensor[Symbol.dispose]();
  }
}

/** The leading axis that a captured tensor needs. */
function rowsOf(name: string, { shape }: Tensor, sizes: GraphOptions, keysMost: number): number {
  if (["q", "out", "lse"].includes(name)) return sizes.maxQueryTokens;
  if (name === "qScale" && shape.length === 2) return Math.max(shape[0], sizes.maxQueryTokens);
  if (["kvLengths", "queryLengths", "maskIndptr"].includes(name)) return sizes.maxBatch;
  if (["kScale", "vScale"].includes(name) && shape.length === 2) return sizes.maxBatch;
  return name === "maskBits" ? sizes.maxQueryTokens * keysMost : shape[0];
}

function fill(tensor: Tensor): void {
  const { device, address, elements, dtype } = tensor;
  device.stream.fill(address, 0xff, elements * dtypeBytes(dtype));
}
