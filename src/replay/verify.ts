import type { Stream } from "../device/stream.ts";
import type { Job } from "../serve/job.ts";
import type { Step } from "../serve/step.ts";
import { decode, type DType, dtypeBytes, roundTo } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { NoiseModel } from "./noise-model.ts";
import { keyRow, queryRow } from "./rows.ts";
import type { ModelShape, VerifyResult } from "./types.ts";

/**
 * Beyond what a naive implementation with the declared roundings errs: f32 sums and exponentials,
 * relative to the RMS of the weighted values' magnitudes. Over many keys the values cancel to an
 * output far smaller than they are, but what rounding each of them loses does not.
 */
const floors: Partial<Record<DType, number>> = { f32: 2e-5, f16: 4e-5, bf16: 1e-4 };

/** What rounding a number changes at most, relative to it. */
const roundoffs: Partial<Record<DType, number>> = { f16: 2 ** -11, bf16: 2 ** -8 };

/** Misses that are put in words. */
const missesMost = 20;

/** Samples that are checked before the event loop gets a turn. */
const samplesPerTurn = 8;

interface Sample {
  job: Job;
  step: number;
  /** Of the query token, in its sequence and in the batch. */
  position: number;
  token: number;
  layer: number;
  head: number;
}

/** What a verifier needs to know of the run. */
export interface VerifierOptions {
  shape: ModelShape;
  layers: number;
  dtype: DType;
  /** What the device rounds probabilities to before they meet the values; absent: nothing. */
  probabilities?: DType;
  /** Outputs to check. */
  samples: number;
  /** Uniform numbers in [0, 1). */
  random(): number;
}

/**
 * Keeps random outputs of a run, one head of one query token of one layer each, and recomputes them
 * in f64 from nothing but token ids and positions: no page, no plan, no kernel takes part.
 */
export class Verifier implements Disposable {
  readonly #model: NoiseModel;
  readonly #options: VerifierOptions;
  readonly #samples: Sample[] = [];
  /** Outputs as they were, [samples, headDim]. */
  readonly #outputs: Tensor | undefined;
  /** First sample of the step being run. */
  #first = 0;

  constructor(model: NoiseModel, options: VerifierOptions) {
    this.#model = model;
    this.#options = options;
    const { samples, shape, dtype } = options;
    if (samples > 0)
      this.#outputs = Tensor.empty(model.q.device, [samples, shape.headDim], dtype, "samples");
  }

  /**
   * Picks what to keep of a step. Each request of each step is as likely as any other as far as
   * `remaining`, the number of them still to come (this step's included), foretells.
   */
  pick(step: Step, number: number, remaining: number): void {
    const { samples, layers, shape, random } = this.#options;
    this.#first = this.#samples.length;
    if (this.#first === samples) return;
    const { queryIndptr, positions } = step.batch;
    for (let r = 0; r < step.jobs.length; r++) {
      let chance = (samples - this.#samples.length) / Math.max(1, remaining - r);
      for (; chance > 0 && random() < chance; chance--) {
        const tokens = queryIndptr[r + 1] - queryIndptr[r];
        const token = queryIndptr[r] + Math.floor(random() * tokens);
        this.#samples.push({
          job: step.jobs[r],
          step: number,
          position: positions[token],
          token,
          layer: Math.floor(random() * layers),
          head: Math.floor(random() * shape.queryHeads),
        });
      }
    }
  }

  /** Queues copies of the picked rows of a layer's output, [tokens, queryHeads, headDim]. */
  keep(stream: Stream, layer: number, out: Tensor): void {
    const bytes = dtypeBytes(out.dtype);
    for (let i = this.#first; i < this.#samples.length; i++) {
      const sample = this.#samples[i];
      if (sample.layer !== layer) continue;
      const row = sample.token * out.strides[0] + sample.head * out.strides[1];
      const rowBytes = out.shape[2] * bytes;
      stream.copy(this.#outputs!.address + i * rowBytes, out.address + row * bytes, rowBytes);
    }
  }

  /** Recomputes all that was kept; call it when the device is done. */
  async check(): Promise<VerifyResult> {
    const result: VerifyResult = { checked: 0, failed: 0, maxRelError: 0, misses: [] };
    if (this.#samples.length === 0) return result;
    const { dtype, shape } = this.#options;
    const banks = {
      keys: decode(dtype, this.#model.keyBank.toBytes()),
      values: decode(dtype, this.#model.valueBank.toBytes()),
      queries: decode(dtype, this.#model.queryBank.toBytes()),
    };
    const outputs = this.#outputs!.toFloat64Array();
    for (const [i, sample] of this.#samples.entries()) {
      if (i % samplesPerTurn === 0) await Bun.sleep(0);
      const expected = this.#expected(sample, banks);
      const row = outputs.subarray(i * shape.headDim, (i + 1) * shape.headDim);
      this.#compare(sample, row, expected, result);
    }
    return result;
  }

  [Symbol.dispose](): void {
    this.#outputs?.[Symbol.dispose]();
  }

  /** The output row by its definition, in f64: softmax over the visible keys, two passes. */
  #expected(sample: Sample, banks: Banks): Expected {
    const { shape } = this.#options;
    const { headDim, queryHeads, kvHeads, softCap } = shape;
    const { position, layer, head, job } = sample;
    const { window } = this.#model;
    const kvHead = Math.floor(head / (queryHeads / kvHeads));
    const query = queryRow(job.tokens, position, layer, window);
    const q = rowOf(banks.queries, query * queryHeads + head, headDim);
    const first = Math.max(0, position + 1 - window);
    const logits = new Float64Array(position + 1 - first);
    const rows = new Int32Array(logits.length);
    let most = -Infinity;
    for (let i = 0; i < logits.length; i++) {
      rows[i] = keyRow(job.tokens[first + i], first + i, layer) * kvHeads + kvHead;
      let logit = dot(q, banks.keys, rows[i] * headDim) / Math.sqrt(headDim);
      if (softCap !== undefined) logit = softCap * Math.tanh(logit / softCap);
      logits[i] = logit;
      most = Math.max(most, logit);
    }
    const weights = logits.map((logit) => Math.exp(logit - most));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    const rowValues = (i: number) => rowOf(banks.values, rows[i], headDim);
    const out = weighted(weights, sum, rowValues, headDim);
    const magnitudes = weighted(weights, sum, (i) => rowValues(i).map(Math.abs), headDim);
    const naive = this.#naive(weights, sum, rowValues);
    return { out, naiveError: worstOf(naive, out), magnitude: rmsOf(magnitudes) };
  }

  /**
   * The output as naive implementations have it that round what the device rounds. Kernels take
   * probabilities relative to a large logit, but not always the largest, as that is not known from
   * the start. Where one key outweighs all others, the reference decides how its probability is
   * rounded: two are such that it goes as far up and down as it can.
   */
  #naive(weights: Float64Array, sum: number, rowValues: RowValues): Float64Array[] {
    const { dtype, probabilities, shape } = this.#options;
    const average = (of: Float64Array, total: number) =>
      roundTo(dtype, weighted(of, total, rowValues, shape.headDim));
    if (probabilities === undefined) return [average(weights, sum)];
    const roundoff = roundoffs[probabilities]!;
    return [1, 1 + 0.98 * roundoff, 1 + 1.02 * roundoff, Math.SQRT1_2].map((factor) => {
      const relative = weights.map((weight) => weight * factor);
      return average(roundTo(probabilities, relative), sum * factor);
    });
  }

  #compare(sample: Sample, actual: Float64Array, expected: Expected, result: VerifyResult): void {
    const { dtype } = this.#options;
    const { out, naiveError, magnitude } = expected;
    const error = worstOf([actual], out);
    const relative = error / rmsOf(out);
    result.checked++;
    result.maxRelError = Math.max(result.maxRelError, relative);
    if (error <= 2 * naiveError + floors[dtype]! * magnitude) return;
    result.failed++;
    if (result.misses.length === missesMost) return;
    const { job, step, position, layer, head } = sample;
    result.misses.push(
      `request ${job.id}, step ${step}, position ${position}, layer ${layer}, ` +
        `head ${head}: error ${relative.toExponential(2)} of the row's RMS`,
    );
  }
}

interface Expected {
  /** [headDim] */
  out: Float64Array;
  /** Worst error of a naive implementation that rounds what the device rounds, and the output. */
  naiveError: number;
  /** RMS of the weighted values, each taken by its magnitude. */
  magnitude: number;
}

/** Values of the i-th visible key. */
type RowValues = (i: number) => Float64Array;

interface Banks {
  keys: Float64Array;
  values: Float64Array;
  queries: Float64Array;
}

function rowOf(bank: Float64Array, row: number, dim: number): Float64Array {
  return bank.subarray(row * dim, (row + 1) * dim);
}

function dot(q: Float64Array, bank: Float64Array, at: number): number {
  let sum = 0;
  for (let d = 0; d < q.length; d++) sum += q[d] * bank[at + d];
  return sum;
}

function weighted(
  weights: Float64Array,
  sum: number,
  rowValues: RowValues,
  dim: number,
): Float64Array {
  const out = new Float64Array(dim);
  for (let i = 0; i < weights.length; i++) {
    const values = rowValues(i);
    const weight = weights[i] / sum;
    for (let d = 0; d < dim; d++) out[d] += weight * values[d];
  }
  return out;
}

/** Largest difference of any of the rows; Infinity for one that is no number. */
function worstOf(rows: readonly Float64Array[], expected: Float64Array): number {
  let worst = 0;
  for (const row of rows) {
    for (let d = 0; d < expected.length; d++) {
      const difference = Math.abs(row[d] - expected[d]);
      // Written so that NaN counts.
      if (!(difference <= worst)) worst = Number.isNaN(difference) ? Infinity : difference;
    }
  }
  return worst;
}

function rmsOf(row: Float64Array): number {
  let squares = 0;
  for (let d = 0; d < row.length; d++) squares += row[d] ** 2;
  return Math.sqrt(squares / row.length);
}
