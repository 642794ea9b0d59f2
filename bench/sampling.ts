import { sample, type SampleOptions, Tensor } from "../src/index.ts";
import { type Bench, type Case, type Measured, median, plainRow } from "./bench.ts";

/** Of a row of logits with top-k and top-p, on one core. */
const targetMs = 1.5;

/** Tokens from rows of 128,256 logits: nearly alike, and with a few far ahead. */
export const samplingCases: Case[] = [
  row("sampling/top_k_top_p/flat_v128256", 0.5, { topK: 50, topP: 0.9 }),
  row("sampling/top_k_top_p/peaked_v128256", 4, { topK: 50, topP: 0.9 }),
  row("sampling/top_p/flat_v128256", 0.5, { topP: 0.9 }),
  row("sampling/plain/flat_v128256", 0.5, {}),
];

function row(name: string, deviation: number, options: SampleOptions): Case {
  return { name, run: (bench) => timeRow(bench, deviation, options) };
}

/** A row has one thread: milliseconds of a single one. */
async function timeRow(bench: Bench, deviation: number, options: SampleOptions): Promise<Measured> {
  const { device, seconds } = bench;
  using x = Tensor.randomNormal(device, [1, 128_256], "f32", { seed: 1, deviation });
  using out = Tensor.zeros(device, [1], "i32");
  const times: number[] = [];
  const deadline = performance.now() + seconds * 1000;
  do {
    const start = performance.now();
    sample(x, { ...options, out });
    device.stream.wait();
    times.push(performance.now() - start);
  } while (performance.now() < deadline);
  const ms = median(times);
  return { ...plainRow("", ms, "ms"), target: `${targetMs} ms`, met: ms <= targetMs };
}
