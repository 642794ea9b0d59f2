import { statSync } from "node:fs";
import { totalmem } from "node:os";
import { version } from "../../../package.json";
import { Device } from "../../device/device.ts";
import { type CpuLevel, cpuLevels } from "../../device/open.ts";
import { readRate } from "../../device/probe.ts";
import { FlashbunError } from "../../errors.ts";
import { attend, libraryPath, Tensor } from "../../index.ts";
import { requireWritable, textStream, writeWhole } from "../outputs.ts";
import { lookAtCuda } from "./cuda.ts";
import type { Say, State } from "./finding.ts";
import { lookAtRanks } from "./ranks.ts";

interface Finding {
  name: string;
  state: State;
  /** Whether the state is "ok". */
  ok: boolean;
  value: string;
}

/** Checks what flashbun needs, prints it, and returns 1 when something is wrong. */
export async function doctor(options: { json?: string }): Promise<number> {
  const outputs = { "--json": options.json };
  requireWritable(outputs);
  const text = textStream(outputs);
  const findings: Finding[] = [];
  const say: Say = (name, value, state = "ok") => {
    findings.push({ name, state, ok: state === "ok", value });
    text.write(`${state.padEnd(4)}  ${name.padEnd(10)}  ${value}\n`);
  };
  say("flashbun", `${version} on Bun ${process.versions.bun}, ${process.platform} ${process.arch}`);
  try {
    const path = libraryPath();
    say("library", `${path}, ${(statSync(path).size / 1e6).toFixed(1)} MB`);
    await lookAtCpu(say);
    await lookAtCuda(say);
    lookAtRanks(say);
  } catch (error) {
    if (!(error instanceof FlashbunError)) throw error;
    say("device", error.message, "FAIL");
  }
  if (options.json !== undefined)
    await writeWhole(options.json, `${JSON.stringify({ findings }, null, 2)}\n`);
  return findings.some(({ state }) => state === "FAIL") ? 1 : 0;
}

async function lookAtCpu(say: Say) {
  await using device = await Device.open("cpu");
  const cache = (device.lastLevelCacheBytes / 2 ** 20).toFixed(0);
  const memory = (totalmem() / 2 ** 30).toFixed(0);
  say("device", `${device.name}, ${cache} MiB of last-level cache, ${memory} GiB of memory`);
  for (const level of cpuLevels) {
    const worst = await errorAt(level);
    const state = worst === undefined ? "none" : worst < 1e-4 ? "ok" : "FAIL";
    const error = worst?.toExponential(1);
    const right = `attention against f64: largest error ${error}`;
    say(level, worst === undefined ? "not on this processor" : right, state);
  }
  say("reading", `${(await readRate(device)).toFixed(1)} GB/s`);
}

const queries = 5;
const keys = 333;
const queryHeads = 4;
const kvHeads = 2;
const headDim = 64;

/** Largest error of a small f32 attention on a level; undefined where the level does not run. */
async function errorAt(level: CpuLevel): Promise<number | undefined> {
  let device: Device;
  try {
    device = await Device.open("cpu", { level });
  } catch (error) {
    if (error instanceof FlashbunError && error.code === "OPTION") return undefined;
    throw error;
  }
  await using _ = device;
  using q = Tensor.randomNormal(device, [queries, queryHeads, headDim], "f32", { seed: 1 });
  using k = Tensor.randomNormal(device, [keys, kvHeads, headDim], "f32", { seed: 2 });
  using v = Tensor.randomNormal(device, [keys, kvHeads, headDim], "f32", { seed: 3 });
  const { out, lse } = attend(q, k, v, { causal: true });
  using _out = out;
  using _lse = lse;
  const got = out.toFloat64Array();
  const expected = reference(q.toFloat64Array(), k.toFloat64Array(), v.toFloat64Array());
  return expected.reduce((worst, value, i) => {
    const error = Math.abs(got[i] - value);
    // A NaN must not pass as a small error.
    return error <= worst ? worst : Number.isNaN(error) ? Infinity : error;
  }, 0);
}

/** Causal attention by its definition in f64, [queries, queryHeads, headDim]. */
function reference(q: Float64Array, k: Float64Array, v: Float64Array): Float64Array {
  const out = new Float64Array(q.length);
  for (let row = 0; row < queries * queryHeads; row++) {
    const visible = keys - queries + Math.floor(row / queryHeads) + 1;
    const head = Math.floor(((row % queryHeads) * kvHeads) / queryHeads);
    const at = (key: number) => (key * kvHeads + head) * headDim;
    const weights = new Float64Array(visible);
    for (let key = 0; key < visible; key++) {
      let dot = 0;
      for (let i = 0; i < headDim; i++) dot += q[row * headDim + i] * k[at(key) + i];
      weights[key] = Math.exp(dot / Math.sqrt(headDim));
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    for (let key = 0; key < visible; key++)
      for (let i = 0; i < headDim; i++)
        out[row * headDim + i] += (weights[key] / sum) * v[at(key) + i];
  }
  return out;
}
