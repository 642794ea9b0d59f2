/**
 * How fast a folder of safetensors comes onto a device, beside plain reading of its file and plain
 * copies of pinned memory.
 *
 * Usage: bun bench/serving/load.ts <folder> [--make llama-8b] [--device cuda:0] [--json <file>]
 * With --make a folder that is not there is written first, with random weights of that shape.
 */
import { closeSync, existsSync, mkdirSync, openSync, readSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { table } from "../../src/cli/table.ts";
import type { DeviceKind } from "../../src/device/open.ts";
import { Engine } from "../../src/engine/index.ts";
import { Device } from "../../src/index.ts";
import { randomCheckpoint } from "../../src/weights/random.ts";
import { median } from "../bench.ts";
import { benchCommand } from "../command.ts";
import { parseCount } from "../table.ts";

const command = benchCommand("bench/serving/load.ts")
  .description("Measures how fast a folder of safetensors comes onto a device.")
  .argument("<folder>", "with model.safetensors")
  .option("--make <shape>", "write the folder first, if it is not there, with random weights")
  .option("--device <name>", "device to load onto", "cuda:0")
  .option("--json <file>", "write the figures as JSON")
  .option("--runs <count>", "loads", parseCount(1, 100), 3)
  .parse();
const options = command.opts<{ make?: string; device: string; json?: string; runs: number }>();
const [folder] = command.args;
const file = join(folder, "model.safetensors");
const partBytes = 1 << 26;
const device = options.device as DeviceKind;

/** Llama's tensors by name. */
function shapesOf(config: Record<string, unknown>): [name: string, shape: number[]][] {
  const count = (name: string) => Number(config[name]);
  const [hidden, inner] = [count("hidden_size"), count("intermediate_size")];
  const heads = count("num_attention_heads");
  const kv = (hidden / heads) * count("num_key_value_heads");
  const layer = (i: number): [string, number[]][] => {
    const at = `model.layers.${i}`;
    return [
      [`${at}.input_layernorm.weight`, [hidden]],
      [`${at}.self_attn.q_proj.weight`, [hidden, hidden]],
      [`${at}.self_attn.k_proj.weight`, [kv, hidden]],
      [`${at}.self_attn.v_proj.weight`, [kv, hidden]],
      [`${at}.self_attn.o_proj.weight`, [hidden, hidden]],
      [`${at}.post_attention_layernorm.weight`, [hidden]],
      [`${at}.mlp.gate_proj.weight`, [inner, hidden]],
      [`${at}.mlp.up_proj.weight`, [inner, hidden]],
      [`${at}.mlp.down_proj.weight`, [hidden, inner]],
    ];
  };
  const vocabulary = count("vocab_size");
  return [
    ["model.embed_tokens.weight", [vocabulary, hidden]],
    ...Array.from({ length: count("num_hidden_layers") }, (_, i) => layer(i)).flat(),
    ["model.norm.weight", [hidden]],
    ["lm_head.weight", [vocabulary, hidden]],
  ];
}

/** Writes a folder whose weights are one block of noise after the other. */
async function make(shape: string): Promise<void> {
  const { config, tokenizer } = randomCheckpoint(shape);
  mkdirSync(folder, { recursive: true });
  const put = (name: string, json: unknown) => Bun.write(join(folder, name), JSON.stringify(json));
  await put("config.json", config);
  await put("tokenizer.json", tokenizer!.json);
  const header: Record<string, unknown> = {};
  let at = 0;
  for (const [name, size] of shapesOf(config)) {
    const bytes = 2 * size.reduce((product, each) => product * each, 1);
    header[name] = { dtype: "BF16", shape: size, data_offsets: [at, at + bytes] };
    at += bytes;
  }
  const text = JSON.stringify(header);
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(json.length));
  const noise = new Uint16Array(partBytes / 2);
  // Between 2^-7 and 2^-6, of either sign.
  for (let i = 0; i < noise.length; i++)
    noise[i] = 0x3c00 | (Math.random() * 0x80) | (Math.random() < 0.5 ? 0x8000 : 0);
  const out = openSync(file, "w");
  for (const part of [head, json]) writeSync(out, part);
  for (let left = at; left > 0; left -= partBytes)
    writeSync(out, noise, 0, Math.min(left, partBytes));
  closeSync(out);
}

/** Gigabytes per second of reading the file into one buffer. */
function readingRate(): number {
  const buffer = new Uint8Array(partBytes);
  const opened = openSync(file, "r");
  const began = performance.now();
  let bytes = 0;
  for (let count = 1; count > 0; bytes += count)
    count = readSync(opened, buffer, 0, partBytes, bytes);
  const seconds = (performance.now() - began) / 1e3;
  closeSync(opened);
  return bytes / seconds / 1e9;
}

/** The same of copies from pinned memory to the device. */
async function copyRate(): Promise<number> {
  await using opened = await Device.open(device);
  using pinned = opened.alloc(partBytes, "benchmark", true);
  using target = opened.alloc(partBytes, "benchmark");
  const copies = 32;
  let began = 0;
  for (let i = -1; i < copies; i++) {
    if (i === 0) {
      await opened.stream.done();
      began = performance.now();
    }
    opened.stream.copy(target.address, pinned.address, partBytes);
  }
  await opened.stream.done();
  return (copies * partBytes) / ((performance.now() - began) / 1e3) / 1e9;
}

async function loadSeconds(): Promise<number> {
  const began = performance.now();
  await using engine = await Engine.load(folder, { device, dtype: "bf16", pages: 64 });
  await engine.device.stream.done();
  return (performance.now() - began) / 1e3;
}

if (options.make !== undefined && !existsSync(file)) await make(options.make);
const gigabytes = statSync(file).size / 1e9;
const runs = Array.from({ length: Number(options.runs) }, (_, i) => i);
const [reads, loads]: number[][] = [[], []];
for (const _ of runs) {
  reads.push(readingRate());
  loads.push(await loadSeconds());
}
const [reading, copying, seconds] = [median(reads), await copyRate(), median(loads)];
const rate = gigabytes / seconds;
const said = {
  gigabytes,
  seconds,
  rate,
  reading,
  copying,
  ofLess: rate / Math.min(reading, copying),
};
process.stdout.write(
  table([
    ["GB", "seconds", "GB/s", "read, GB/s", "copied, GB/s", "of the less"],
    [gigabytes, seconds, rate, reading, copying, said.ofLess].map((each) => each.toFixed(2)),
  ]),
);
if (options.json !== undefined) await Bun.write(options.json, `${JSON.stringify(said, null, 2)}\n`);
