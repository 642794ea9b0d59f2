import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { AdjustParams, CountTokensParams } from "../ffi/params.gen.ts";
import { requireOptions } from "../require.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import { requireApart } from "../tensor/overlap.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";
import {
  addressOf,
  checkApart,
  checkColumn,
  checkOutRows,
  checkPerRow,
  checkRows,
  numberOf,
  type PerRow,
  tensorsOf,
} from "./token-rows.ts";

/** What changes logits before tokens are chosen; each is optional, in the order of its work. */
export interface AdjustOptions {
  /** Added: f32 [rows, vocabulary], or [1, vocabulary] for all. */
  bias?: Tensor;
  /**
   * Logits of tokens that were in the prompt or generated are divided by it where above 0, and
   * multiplied where below; above 0, default 1. Numbers may be f32 [rows].
   */
  repetition?: PerRow;
  /** Subtracted as often as a token was generated. Default 0. */
  frequency?: PerRow;
  /** Subtracted from tokens that were generated. Default 0. */
  presence?: PerRow;
  /** How often each token was generated: i32 [slots, vocabulary]. See countTokens. */
  counts?: Tensor;
  /** Tokens of the prompt: i32 [slots, ceil(vocabulary / 32)] of bits, from the lowest on. */
  prompts?: Tensor;
  /** Of each row its row of counts and prompts: i32 [rows]. Default: its own. -1 has none. */
  slots?: Tensor;
  /** What a grammar allows: i32 [rows, ceil(vocabulary / 32)] of bits; all else becomes -inf. */
  allowed?: Tensor;
  /** Takes the result: of x's shape and dtype, x itself or memory apart from it. */
  out?: Tensor;
  /** Default: the device's own. */
  stream?: Stream;
}

/** Which rows of counts the tokens are counted in. */
export interface CountOptions {
  /** i32 [rows]; default: a token's own row. -1 is not counted. */
  slots?: Tensor;
  /** Default: the device's own. */
  stream?: Stream;
}

const names = ["bias", "repetition", "frequency", "presence", "counts", "prompts", "slots"];
const penalties = { dtype: "f32", least: -3e38, most: 3e38 } as const;
const repetitions = { dtype: "f32", least: 1e-30, most: 3e38 } as const;
const params = new AdjustParams();
const countParams = new CountTokensParams();

/**
 * Queues logits x [rows, vocabulary] (f32, f16, bf16) with bias, repetition, frequency and presence
 * penalties, and -inf for tokens that are not allowed, as vLLM orders them; computed in f32 and
 * rounded once. A penalty in a tensor that is not allowed is as if it were not given.
 * Errors: OptionError.
 */
export function adjustLogits(x: Tensor, options: AdjustOptions = {}): Tensor {
  requireOptions("options", options, [...names, "allowed", "out", "stream"]);
  checkRows("x", x);
  const { device, shape } = x;
  const [rows, length] = shape;
  const { repetition = 1, frequency = 0, presence = 0, stream = device.stream } = options;
  const { bias, allowed, counts, prompts, slots } = options;
  checkPerRow("repetition", repetition, device, rows, repetitions);
  checkPerRow("frequency", frequency, device, rows, penalties);
  checkPerRow("presence", presence, device, rows, penalties);
  const slotCount = checkHistory(x, options);
  requireStream(stream, device);
  const inputs = tensorsOf(repetition, frequency, presence, bias, allowed, counts, prompts, slots);
  if (options.out !== undefined) {
    checkOutRows("out", options.out, device, shape, [x.dtype]);
    checkApart("out", options.out, "x", x);
    for (const input of inputs) requireApart("out", options.out, "the options", input);
  }
  const out = options.out ?? Tensor.empty(device, shape, x.dtype, "adjustLogits");
  if (rows === 0) return out;
  params.x = x.address;
  params.out = out.address;
  params.bias = addressOf(bias);
  params.allowed = addressOf(allowed);
  params.prompts = addressOf(prompts);
  params.counts = addressOf(counts);
  params.slots = addressOf(slots);
  params.repetitions = addressOf(repetition);
  params.presences = addressOf(presence);
  params.frequencies = addressOf(frequency);
  params.xStride = x.strides[0];
  params.outStride = out.strides[0];
  params.biasStride = bias === undefined || bias.shape[0] === 1 ? 0 : bias.strides[0];
  params.allowedStride = allowed?.strides[0] ?? 0;
  params.promptsStride = prompts?.strides[0] ?? 0;
  params.countsStride = counts?.strides[0] ?? 0;
  params.repetition = numberOf(repetition, 1);
  params.presence = numberOf(presence, 0);
  params.frequency = numberOf(frequency, 0);
  params.rowCount = rows;
  params.slotCount = slotCount;
  params.vocabulary = length;
  params.dtype = dtypeCode(x.dtype);
  if (device.capturing) device.needOnReplay(x, out, ...inputs);
  const kernel = device.kernel("adjust_logits");
  device.launch(stream, kernel, params, rows * Math.ceil(length / kernel.itemRows));
  return out;
}

/** Checks bias, allowed and what was said; returns how many slots there are. */
function checkHistory(x: Tensor, options: AdjustOptions): number {
  const { bias, allowed, counts, prompts, slots } = options;
  const { device } = x;
  const [rows, length] = x.shape;
  const words = Math.ceil(length / 32);
  if (bias !== undefined) {
    requireTensor("bias", bias);
    const shape = [bias.shape[0] === 1 ? 1 : rows, length];
    checkOutRows("bias", bias, device, shape, ["f32"]);
  }
  if (allowed !== undefined) checkOutRows("allowed", allowed, device, [rows, words], ["i32"]);
  if (slots !== undefined) checkColumn("slots", slots, device, rows, "i32");
  if (counts !== undefined) requireTensor("counts", counts);
  if (prompts !== undefined) requireTensor("prompts", prompts);
  const history = counts ?? prompts;
  if (history === undefined) return 0;
  const slotCount = history.shape[0];
  if (slots === undefined && slotCount !== rows)
    throw new OptionError("slots", slots, "given", `name the row of counts of ${rows} rows.`);
  if (counts !== undefined) checkOutRows("counts", counts, device, [slotCount, length], ["i32"]);
  if (prompts !== undefined) checkOutRows("prompts", prompts, device, [slotCount, words], ["i32"]);
  return slotCount;
}

/**
 * Queues counts[slots[i], tokens[i]] += 1 of `counts` i32 [slots, vocabulary] for `tokens` i32
 * [rows]; a token outside of the vocabulary is not counted. Returns counts. Errors: OptionError.
 */
export function countTokens(counts: Tensor, tokens: Tensor, options: CountOptions = {}): Tensor {
  requireOptions("options", options, ["slots", "stream"]);
  checkRows("counts", counts, ["i32"]);
  requireTensor("tokens", tokens);
  const { device } = counts;
  const [slotCount, vocabulary] = counts.shape;
  const rows = tokens.shape[0];
  const { slots, stream = device.stream } = options;
  checkOutRows("counts", counts, device, counts.shape, ["i32"]);
  checkColumn("tokens", tokens, device, rows, "i32");
  if (slots !== undefined) checkColumn("slots", slots, device, rows, "i32");
  requireStream(stream, device);
  for (const read of tensorsOf(tokens, slots)) requireApart("counts", counts, "the others", read);
  if (rows === 0) return counts;
  countParams.counts = counts.address;
  countParams.tokens = tokens.address;
  countParams.slots = addressOf(slots);
  countParams.countsStride = counts.strides[0];
  countParams.rowCount = rows;
  countParams.slotCount = slotCount;
  countParams.vocabulary = vocabulary;
  if (device.capturing) device.needOnReplay(counts, tokens, ...tensorsOf(slots));
  const kernel = device.kernel("count_tokens");
  device.launch(stream, kernel, countParams, Math.ceil(rows / kernel.itemRows));
  return counts;
}
