import type { Device } from "../device/device.ts";
import { adjustLogits, countTokens } from "../ops/adjust-logits.ts";
import { gatherRows } from "../ops/gather.ts";
import type { DType } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Generation } from "./request.ts";
import { type RowColumn, RowColumns } from "./row-columns.ts";
import { adjusts } from "./sampling.ts";

/**
 * What requests have said, and what they want more or less of, kept on the device in a slot for
 * each that asks for it; made when the first one does.
 */
export class Penalties implements Disposable {
  readonly #device: Device;
  readonly #counts: Tensor;
  readonly #prompts: Tensor;
  readonly #biases: Tensor;
  readonly #adjusted: Tensor;
  readonly #rowBiases: Tensor;
  readonly #free: number[];
  readonly #slotOf = new Map<Generation, number>();
  readonly #columns: RowColumns;
  readonly #slots: RowColumn<Int32Array>;
  readonly #repetition: RowColumn<Float32Array>;
  readonly #presence: RowColumn<Float32Array>;
  readonly #frequency: RowColumn<Float32Array>;

  /**
   * @param sizes most requests at once, and most rows of them
   * @param dtype of the logits
   */
  constructor(
    device: Device,
    sizes: { readonly slots: number; readonly rows: number; readonly vocabulary: number },
    dtype: DType,
  ) {
    const { slots, rows, vocabulary } = sizes;
    this.#device = device;
    this.#free = Array.from({ length: slots }, (_, slot) => slot);
    const words = Math.ceil(vocabulary / 32);
    this.#counts = Tensor.zeros(device, [slots, vocabulary], "i32", "counts of tokens");
    this.#prompts = Tensor.zeros(device, [slots, words], "i32", "tokens of prompts");
    this.#biases = Tensor.zeros(device, [slots, vocabulary], "f32", "logit biases");
    this.#adjusted = Tensor.empty(device, [rows, vocabulary], dtype, "adjusted logits");
    this.#rowBiases = Tensor.empty(device, [rows, vocabulary], "f32", "biases of rows");
    this.#columns = new RowColumns(device, "penalties of rows", rows, 4);
    this.#slots = this.#columns.i32();
    this.#repetition = this.#columns.f32();
    this.#presence = this.#columns.f32();
    this.#frequency = this.#columns.f32();
  }

  /**
   * Queues the logits as they want them; those of the others as they are.
   * @param allowed the masks of grammars, if there are some
   */
  adjust(logits: Tensor, rows: readonly Generation[], allowed: Tensor | undefined): Tensor {
    const here = new Set(rows);
    rows.forEach((generation, row) => {
      const { repetitionPenalty, presencePenalty, frequencyPenalty } = generation.sampling;
      this.#slots.values[row] = this.#slotFor(generation, here);
      this.#repetition.values[row] = repetitionPenalty;
      this.#presence.values[row] = presencePenalty;
      this.#frequency.values[row] = frequencyPenalty;
    });
    const count = rows.length;
    this.#columns.upload();
    const slots = this.#slots.rows(count);
    const bias = gatherRows(this.#biases, slots, { out: this.#rowBiases.slice(0, 0, count) });
    return adjustLogits(logits, {
      bias,
      repetition: this.#repetition.rows(count),
      presence: this.#presence.rows(count),
      frequency: this.#frequency.rows(count),
      counts: this.#counts,
      prompts: this.#prompts,
      slots,
      ...(allowed && { allowed }),
      out: this.#adjusted.slice(0, 0, count),
    });
  }

  /** Queues the count of the tokens that `adjust` led to. */
  count(tokens: Tensor): void {
    countTokens(this.#counts, tokens, { slots: this.#slots.rows(tokens.shape[0]) });
  }

  /** A request that ended gives its slot back. */
  forget(generation: Generation): void {
    const slot = this.#slotOf.get(generation);
    if (slot === undefined) return;
    this.#slotOf.delete(generation);
    this.#free.push(slot);
  }

  [Symbol.dispose](): void {
    const tables = [this.#counts, this.#prompts, this.#biases, this.#adjusted, this.#rowBiases];
    for (const each of [...tables, this.#columns]) each[Symbol.dispose]();
  }

  /** -1 for a request that asks for nothing. */
  #slotFor(generation: Generation, here: ReadonlySet<Generation>): number {
    if (!adjusts(generation.sampling)) return -1;
    const held = this.#slotOf.get(generation);
    if (held !== undefined) return held;
    if (this.#free.length === 0) {
      // Requests without pages hold slots too: one of them is filled again when it is back.
      for (const other of this.#slotOf.keys()) if (!here.has(other)) this.forget(other);
    }
    const slot = this.#free.pop()!;
    this.#slotOf.set(generation, slot);
    this.#fill(slot, generation);
    return slot;
  }

  #fill(slot: number, { prompt, sampling, taken }: Generation): void {
    const [, vocabulary] = this.#counts.shape;
    const counts = new Int32Array(vocabulary);
    const prompts = new Int32Array(this.#prompts.shape[1]);
    const biases = new Float32Array(vocabulary);
    // A request that waited while it had no pages may have said something before.
    for (const token of taken) counts[token]++;
    for (const token of prompt) prompts[token >> 5] |= 1 << (token & 31);
    for (const [token, bias] of Object.entries(sampling.logitBias)) biases[Number(token)] = bias;
    this.#upload(this.#counts, slot, counts);
    this.#upload(this.#prompts, slot, prompts);
    this.#upload(this.#biases, slot, biases);
  }

  #upload({ address, shape }: Tensor, slot: number, row: Int32Array | Float32Array): void {
    this.#device.upload(address + 4 * slot * shape[1], new Uint8Array(row.buffer));
  }
}
