/**
 * What an all-reduce takes between the ranks of this machine, from 8 KB to 64 MB, queued one by one
 * and in a graph; its sums are checked first. One rank of several: bench/ranks/run.ts starts them.
 */
import { Communicator } from "../../src/comm/communicator.ts";
import { ranksOf } from "../../src/comm/ranks.ts";
import { Device } from "../../src/device/device.ts";
import { Tensor } from "../../src/tensor/tensor.ts";

/** In one go: many of small ones, whose launch would be measured else. */
const repeatsOf = (bytes: number) => Math.min(100, Math.max(5, (256 << 20) / bytes));
const rounds = 7;
const sizes = [8 << 10, 32 << 10, 128 << 10, 1 << 20, 8 << 20, 64 << 20];

const ranks = ranksOf()!;
const kind = process.argv[2] === "cpu" ? "cpu" : (`cuda:${ranks.localRank}` as const);
const dtype = kind === "cpu" ? "f32" : "bf16";
await using device = await Device.open(kind);
using comm = await Communicator.open(device, { ranks });
const { stream } = device;
const say = (text: string) => void (ranks.rank === 0 && process.stdout.write(`${text}\n`));
say(`${comm.library.version}, ${ranks.ranks} ranks, ${device.name}, ${dtype}`);

async function check(): Promise<void> {
  const values = Array.from({ length: 5000 }, (_, i) => (i % 7) + ranks.rank);
  using x = Tensor.from(device, values, [5000], dtype);
  comm.allReduce(x);
  await comm.done();
  using wide = x.to("f32");
  const sums = wide.toTypedArray() as Float32Array;
  const others = (ranks.ranks * (ranks.ranks - 1)) / 2;
  const wrong = sums.findIndex((sum, i) => sum !== ranks.ranks * (i % 7) + others);
  if (wrong >= 0) throw new Error(`sum ${wrong} is ${sums[wrong]} on rank ${ranks.rank}`);
  say("sums are right");
}

/** Microseconds of one of so many, by events of the device; the middle of some rounds. */
async function timed(repeats: number, queue: () => void): Promise<number> {
  const [first, last] = [device.createEvent(), device.createEvent()];
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) {
    comm.barrier();
    first.record(stream);
    queue();
    last.record(stream);
    await comm.done();
    times.push((1000 * first.elapsedMs(last)) / repeats);
  }
  return times.sort((a, b) => a - b)[rounds >> 1];
}

await check();
for (const bytes of sizes) {
  using x = Tensor.zeros(device, [bytes / (dtype === "f32" ? 4 : 2)], dtype);
  const repeats = repeatsOf(bytes);
  const all = () => {
    for (let i = 0; i < repeats; i++) comm.allReduce(x);
  };
  all();
  await comm.done();
  const apart = await timed(repeats, all);
  using graph = device.capture(stream, all);
  graph.replay(stream);
  await comm.done();
  const graphed = await timed(repeats, () => graph.replay(stream));
  const rate = bytes / graphed / 1000;
  const size = bytes < 1 << 20 ? `${bytes >> 10} KB` : `${bytes >> 20} MB`;
  const us = (value: number) => `${value.toFixed(1)} us`;
  say(`${size}: ${us(apart)} one by one, ${us(graphed)} in a graph, ${rate.toFixed(1)} GB/s`);
}
