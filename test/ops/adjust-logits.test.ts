import { describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { OptionError } from "../../src/errors.ts";
import { adjustLogits, type AdjustOptions, countTokens } from "../../src/ops/adjust-logits.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { targetsHere } from "../support/targets.ts";

const roundings: Partial<Record<DType, number>> = { f32: 1e-6, f16: 2 ** -11, bf16: 2 ** -8 };

/** Whether a token's bit is set. */
function bit(words: ArrayLike<number>, first: number, token: number): boolean {
  return ((words[first + (token >> 5)] >>> (token & 31)) & 1) === 1;
}

/** Every option is there or not, for all rows or by row; the result is that of plain loops. */
function check(device: Device, random: Random): void {
  const dtype = random.pick(["f32", "f16", "bf16"] as const);
  const [rows, length] = [random.integer(1, 5), random.pick([1, 31, 33, 1000, 3000])];
  const slotCount = random.integer(1, 6);
  const words = Math.ceil(length / 32);
  const list = (count: number, one: () => number) => Array.from({ length: count }, one);
  const bits = (count: number) =>
    list(count * words, () => random.integer(-(2 ** 31), 2 ** 31 - 1));
  const x = roundTo(dtype, Float64Array.from(list(rows * length, () => random.normal() * 4)));
  const hasSlots = random.chance(0.5);
  const slots = list(rows, () => random.integer(-1, slotCount));
  const histories = hasSlots ? slotCount : rows;
  const counts = list(histories * length, () => Math.max(0, random.integer(-6, 3)));
  const prompts = bits(histories);
  const allowed = bits(rows);
  const biasRows = random.pick([1, rows]);
  const bias = roundTo("f32", Float64Array.from(list(biasRows * length, () => random.normal())));
  const numbers = (least: number, most: number) =>
    Array.from(
      roundTo("f32", Float64Array.from(list(rows, () => least + random.next() * (most - least)))),
    );
  const [repetition, frequency, presence] = [numbers(0.5, 2), numbers(-1, 1), numbers(-1, 1)];
  const tensors: Tensor[] = [];
  const tensor = (data: ArrayLike<number>, shape: number[], of: DType) => {
    tensors.push(Tensor.from(device, data, shape, of));
    return tensors.at(-1)!;
  };
  const has = list(5, () => random.integer(0, 2));
  const options: AdjustOptions = {};
  if (has[0] > 0) options.bias = tensor(bias, [biasRows, length], "f32");
  if (has[1] > 0) options.counts = tensor(counts, [histories, length], "i32");
  if (has[2] > 0) options.prompts = tensor(prompts, [histories, words], "i32");
  if (has[3] > 0) options.allowed = tensor(allowed, [rows, words], "i32");
  if (hasSlots) options.slots = tensor(slots, [rows], "i32");
  const isEach = has[4] === 2;
  const penalties = { repetition, frequency, presence };
  if (has[4] > 0)
    for (const [name, column] of Object.entries(penalties))
      options[name as keyof typeof penalties] = isEach ? tensor(column, [rows], "f32") : column[0];
  const input = tensor(x, [rows, length], dtype);
  if (random.chance(0.5)) options.out = input;
  const out = adjustLogits(input, options);
  tensors.push(out);
  const got = out.toFloat64Array();
  for (let i = 0; i < rows * length; i++) {
    const [row, token] = [Math.floor(i / length), i % length];
    const slot = hasSlots ? slots[row] : row;
    const isSlot = slot >= 0 && slot < histories;
    const count = has[1] > 0 && isSlot ? counts[slot * length + token] : 0;
    const isPrompt = has[2] > 0 && isSlot && bit(prompts, slot * words, token);
    const of = (column: number[], none: number) => (has[4] === 0 ? none : column[isEach ? row : 0]);
    let wanted = x[i] + (has[0] > 0 ? bias[(biasRows === 1 ? 0 : row) * length + token] : 0);
    if (count > 0 || isPrompt)
      wanted = wanted > 0 ? wanted / of(repetition, 1) : wanted * of(repetition, 1);
    if (count > 0) wanted -= of(frequency, 0) * count + of(presence, 0);
    if (has[3] > 0 && !bit(allowed, row * words, token)) wanted = -Infinity;
    if (wanted === got[i]) continue;
    const most = Math.abs(wanted) * roundings[dtype]! * 1.01 + 3e-6;
    if (!(Math.abs(got[i] - wanted) <= most))
      throw new Error(`row ${row}, token ${token}: ${got[i]}, not ${wanted}`);
  }
  for (const each of new Set(tensors)) each[Symbol.dispose]();
}

describe.each(await targetsHere())("adjustLogits on $name", (target) => {
  test("bias, penalties and what is allowed, in every combination, agree with f64", async () => {
    await using device = await target.open(2);
    forSeeds(40, (random) => check(device, random));
  });

  test("penalties that are not numbers are none", async () => {
    await using device = await target.open(1);
    using x = Tensor.from(device, [2, -2, 3, 2, -2, 3], [2, 3], "f32");
    using counts = Tensor.from(device, [1, 1, 0, 1, 1, 0], [2, 3], "i32");
    using odd = Tensor.from(device, [NaN, -1], [2], "f32");
    using none = Tensor.from(device, [Infinity, NaN], [2], "f32");
    using out = adjustLogits(x, { counts, repetition: odd, presence: none, frequency: none });
    expect(out.toBytes()).toEqual(x.toBytes());
  });

  test("tokens are counted in their slots, what is no token is not", async () => {
    await using device = await target.open(1);
    const rows = 300;
    using counts = Tensor.zeros(device, [3, 5], "i32");
    const tokens = Array.from({ length: rows }, (_, i) => (i % 7) - 1);
    const places = Array.from({ length: rows }, (_, i) => (i % 5) - 1);
    using drawn = Tensor.from(device, tokens, [rows], "i32");
    using slots = Tensor.from(device, places, [rows], "i32");
    expect(countTokens(counts, drawn, { slots })).toBe(counts);
    const wanted = new Array<number>(15).fill(0);
    for (const [i, token] of tokens.entries()) {
      const isCounted = token >= 0 && token < 5 && places[i] >= 0 && places[i] < 3;
      if (isCounted) wanted[places[i] * 5 + token]++;
    }
    expect([...counts.toFloat64Array()]).toEqual(wanted);
  });
});

test.each(await targetsHere())("bad input is refused by name, on $name", async (on) => {
  await using device = await on.open(1);
  const zeros = (shape: number[], dtype: DType = "f32") => Tensor.zeros(device, shape, dtype);
  const x = zeros([3, 40]);
  const counts = zeros([5, 40], "i32");
  const refused: [string, () => unknown][] = [
    ["x", () => adjustLogits(zeros([3]))],
    ["bias", () => adjustLogits(x, { bias: zeros([2, 40]) })],
    ["bias", () => adjustLogits(x, { bias: zeros([1, 40], "bf16") })],
    ["repetition", () => adjustLogits(x, { repetition: 0 })],
    ["repetition", () => adjustLogits(x, { repetition: zeros([2]) })],
    ["presence", () => adjustLogits(x, { presence: NaN })],
    ["frequency", () => adjustLogits(x, { frequency: Infinity })],
    ["slots", () => adjustLogits(x, { counts })],
    ["slots", () => adjustLogits(x, { counts, slots: zeros([3]) })],
    ["counts", () => adjustLogits(x, { counts: zeros([3, 41], "i32") })],
    ["prompts", () => adjustLogits(x, { prompts: zeros([3, 1], "i32") })],
    ["allowed", () => adjustLogits(x, { allowed: zeros([3, 2]) })],
    ["out", () => adjustLogits(x, { out: zeros([3, 40], "bf16") })],
    ["out", () => adjustLogits(x, { bias: x, out: x })],
    ["counts", () => countTokens(zeros([3, 4]), zeros([3], "i32"))],
    ["tokens", () => countTokens(counts, zeros([3]))],
    ["slots", () => countTokens(counts, zeros([3], "i32"), { slots: zeros([2], "i32") })],
  ];
  for (const [option, call] of refused) {
    let error: unknown;
    try {
      call();
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(OptionError);
    expect({ option: (error as OptionError).option }).toEqual({ option });
  }
});
