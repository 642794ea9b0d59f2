import { FlashbunError } from "../errors.ts";
import type { Model } from "../models/model.ts";
import type { Choosing } from "../models/step-inputs.ts";
import { adjustLogits } from "../ops/adjust-logits.ts";
import { sample, sampleStatus } from "../ops/sample.ts";
import { logProbs } from "../ops/top-k.ts";
import { Tensor } from "../tensor/tensor.ts";
import { Penalties } from "./penalties.ts";
import { RankRows } from "./rank-rows.ts";
import type { Generation, TokenLogProb } from "./request.ts";
import { ResultRing } from "./results.ts";
import { type RowColumn, RowColumns } from "./row-columns.ts";
import { adjusts } from "./sampling.ts";
import { TokenMasks } from "./token-masks.ts";

/** A row of logits from which no token can be chosen: NaN, or nothing above -inf. */
export class SamplingError extends FlashbunError {
  constructor(readonly position: number) {
    super(
      "SAMPLING",
      `the logits after ${position} tokens hold NaN or nothing that may be chosen. ` +
        "Fix: check the weights, the dtype and logitBias.",
    );
  }
}

/** What was chosen for a row. */
export interface Chosen {
  readonly token: number;
  /** Log-probabilities where they were asked for. */
  readonly logProb: TokenLogProb | undefined;
  readonly failure: SamplingError | undefined;
}

/** Choices that the device is yet to make. */
export interface Choices {
  /** One for each row, once the device has made them. Errors: DeviceError. */
  read(): Promise<Chosen[]>;
}

/** A row to choose for: whose, and how many tokens stand before the new one. */
export interface SampledRow {
  readonly generation: Generation;
  readonly position: number;
}

/** Chooses a token for each row of logits that a step left, on the device. */
export class Sampler implements Disposable {
  readonly #model: Model;
  readonly #maxBatch: number;
  readonly #rowsMost: number;
  readonly #columns: RowColumns;
  readonly #seed: RowColumn<Int32Array>;
  readonly #temperature: RowColumn<Float32Array>;
  readonly #topK: RowColumn<Int32Array>;
  readonly #topP: RowColumn<Float32Array>;
  readonly #minP: RowColumn<Float32Array>;
  readonly #position: RowColumn<Int32Array>;
  readonly #results: ResultRing;
  readonly #largest: Choosing;
  readonly #drawn: Choosing;
  #penalties: Penalties | undefined;
  #masks: TokenMasks | undefined;
  /** Logits of rows that a grammar cut. */
  #masked: Tensor | undefined;

  /** @param maxBatch most requests at once */
  constructor(model: Model, maxBatch: number) {
    const { device } = model.cache;
    const { rowsMost } = model;
    this.#model = model;
    this.#maxBatch = maxBatch;
    this.#rowsMost = rowsMost;
    this.#columns = new RowColumns(device, "sampling of rows", rowsMost, 7);
    this.#seed = this.#columns.i64();
    this.#temperature = this.#columns.f32();
    this.#topK = this.#columns.i32();
    this.#topP = this.#columns.f32();
    this.#minP = this.#columns.f32();
    this.#position = this.#columns.i32();
    this.#results = new ResultRing(device);
    const { kit } = model;
    const largest = (rows: number) => void this.#takeLargest(kit.logitsOf(rows));
    const drawn = (rows: number) => void this.#draw(kit.logitsOf(rows));
    this.#largest = { kind: "largest", queue: largest };
    this.#drawn = { kind: "drawn", queue: drawn };
  }

  /** How a step chooses the tokens of these rows itself, if it can; their options are queued. */
  choosing(rows: readonly SampledRow[]): Choosing | undefined {
    if (rows.length === 0 || !rows.every(({ generation }) => generation.isPlain)) return undefined;
    if (rows.every(isGreedy)) return this.#largest;
    this.#upload(rows);
    return this.#drawn;
  }

  /**
   * Queues a choice for each row of logits that the step before left, in their order, or takes
   * those that it made; `topOf` says how many log-probabilities a request wants.
   */
  queue(rows: readonly SampledRow[], isChosen = false, topOf = logProbsWanted): Choices {
    const { kit } = this.#model;
    const tops = rows.map(({ generation }) => topOf(generation));
    if (rows.length === 0) return this.#choices(rows, [], tops);
    if (!isChosen) this.#chooseAll(rows);
    const asked = Math.max(...tops);
    if (asked < 0) return this.#choices(rows, [], tops);
    // By the likeliest, what is told of the others is brought to what is seen here.
    const wanted = Math.max(asked, 1);
    const tokens = kit.inputs.chosenOf(rows.length);
    const { chosen, values, indices } = logProbs(kit.logitsOf(rows.length), {
      tokens,
      top: wanted,
    });
    const choices = this.#choices(rows, [chosen!, values, indices], tops);
    for (const made of [chosen, values, indices]) made?.[Symbol.dispose]();
    return choices;
  }

  /** A request that ended. */
  forget(generation: Generation): void {
    this.#penalties?.forget(generation);
  }

  [Symbol.dispose](): void {
    for (const made of [this.#penalties, this.#masks, this.#masked]) made?.[Symbol.dispose]();
    this.#columns[Symbol.dispose]();
    this.#results[Symbol.dispose]();
  }

  #choices(
    rows: readonly SampledRow[],
    tensors: readonly Tensor[],
    tops: readonly number[],
  ): Choices {
    const asked = Math.max(...tops);
    const wanted = Math.max(asked, 1);
    const { kit } = this.#model;
    const facts = rows.length === 0 ? undefined : kit.facts();
    const outcome = rows.length === 0 ? [] : [kit.inputs.outcomeOf(rows.length)];
    const results = this.#results.queue([...outcome, ...tensors, ...(facts?.tensors ?? [])]);
    const rowsMost = this.#rowsMost;
    return {
      async read() {
        await results.done;
        if (rows.length === 0) return [];
        // First status, from the first place on.
        const { ints } = results;
        const floats = (i: number) => asFloats(results.part(i));
        const told =
          asked < 0
            ? undefined
            : { chosen: floats(1), values: floats(2), indices: asInts(results.part(3)) };
        const parts = facts?.tensors.map((_, i) => results.part(1 + tensors.length + i)) ?? [];
        const ranks = new RankRows(facts, parts);
        return rows.map(({ position }, row) => {
          const isWrong = (ints[row] & isOdd) !== 0 || ranks.hasNaN(row);
          const shift = told && ranks.shift(row, told.values[row * wanted]);
          return {
            token: ints[rowsMost + row],
            logProb: told && logProbOf(told, row, wanted, tops[row], shift!),
            failure: isWrong ? new SamplingError(position) : undefined,
          };
        });
      },
    };
  }

  #chooseAll(rows: readonly SampledRow[]): void {
    const raw = this.#model.kit.logitsOf(rows.length);
    const generations = rows.map(({ generation }) => generation);
    const isAdjusted = generations.some(({ sampling }) => adjusts(sampling));
    const tokens = this.#choose(this.#adjusted(raw, generations, isAdjusted), rows);
    if (isAdjusted) this.#adjuster().count(tokens);
  }

  /** Logits after penalties and grammars; `raw` itself where nobody asks for them. */
  #adjusted(raw: Tensor, rows: readonly Generation[], isPenalised: boolean): Tensor {
    const allowed = rows.some(({ grammar }) => grammar !== undefined)
      ? this.#masker().upload(rows)
      : undefined;
    if (isPenalised) return this.#adjuster().adjust(raw, rows, allowed);
    if (allowed === undefined) return raw;
    this.#masked ??= this.#rowsLike(raw);
    return adjustLogits(raw, { allowed, out: this.#masked.slice(0, 0, rows.length) });
  }

  #rowsLike({ device, shape, dtype }: Tensor): Tensor {
    return Tensor.empty(device, [this.#rowsMost, shape[1]], dtype, "masked logits");
  }

  #masker(): TokenMasks {
    const { cache, shape } = this.#model;
    return (this.#masks ??= new TokenMasks(cache.device, this.#rowsMost, shape.vocabulary));
  }

  #adjuster(): Penalties {
    const { cache, shape, kit } = this.#model;
    const { dtype } = kit.logitsOf(1);
    const { vocabulary } = shape;
    const sizes = { slots: this.#maxBatch, rows: this.#rowsMost, vocabulary };
    return (this.#penalties ??= new Penalties(cache.device, sizes, dtype));
  }

  #choose(logits: Tensor, rows: readonly SampledRow[]): Tensor {
    if (rows.every(isGreedy)) return this.#takeLargest(logits);
    this.#upload(rows);
    return this.#draw(logits);
  }

  #upload(rows: readonly SampledRow[]): void {
    const { vocabulary } = this.#model.shape;
    rows.forEach(({ generation: { sampling }, position }, row) => {
      this.#temperature.values[row] = sampling.temperature;
      this.#topK.values[row] = sampling.topK === 0 ? vocabulary : sampling.topK;
      this.#topP.values[row] = sampling.topP;
      this.#minP.values[row] = sampling.minP;
      this.#seed.values[2 * row] = sampling.seed % 2 ** 32;
      this.#seed.values[2 * row + 1] = Math.floor(sampling.seed / 2 ** 32);
      this.#position.values[row] = position;
    });
    this.#columns.upload();
  }

  #takeLargest(logits: Tensor): Tensor {
    return sample(logits, { temperature: 0, ...this.#targets(logits) });
  }

  /** By the options that were uploaded. */
  #draw(logits: Tensor): Tensor {
    const [count] = logits.shape;
    return sample(logits, {
      temperature: this.#temperature.rows(count),
      topK: this.#topK.rows(count),
      topP: this.#topP.rows(count),
      minP: this.#minP.rows(count),
      seed: this.#seed.rows(count),
      position: this.#position.rows(count),
      ...this.#targets(logits),
    });
  }

  #targets({ shape: [count] }: Tensor) {
    const { inputs } = this.#model.kit;
    return { out: inputs.chosenOf(count), status: inputs.statusOf(count) };
  }
}

function isGreedy({ generation }: SampledRow): boolean {
  return generation.sampling.temperature === 0;
}

function logProbsWanted({ sampling }: Generation): number {
  return sampling.logprobs;
}

const isOdd = sampleStatus.nan | sampleStatus.noMass;

function asInts({ buffer, byteOffset, byteLength }: Uint8Array<ArrayBuffer>): Int32Array {
  return new Int32Array(buffer, byteOffset, byteLength / 4);
}

function asFloats({ buffer, byteOffset, byteLength }: Uint8Array<ArrayBuffer>): Float32Array {
  return new Float32Array(buffer, byteOffset, byteLength / 4);
}

interface Told {
  readonly chosen: Float32Array;
  readonly values: Float32Array;
  readonly indices: Int32Array;
}

/** What a row asked for of `wanted` likeliest tokens; -1 asks for nothing. */
function logProbOf(told: Told, row: number, wanted: number, asked: number, shift: number) {
  if (asked < 0) return undefined;
  const top = Array.from({ length: asked }, (_, i) => ({
    token: told.indices[row * wanted + i],
    logProb: told.values[row * wanted + i] + shift,
  }));
  return { logProb: told.chosen[row] + shift, top };
}
