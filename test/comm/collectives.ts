/** What a rank of test/comm/collectives.test.ts runs; rank 0 prints what it found wrong. */
import { Communicator } from "../../src/comm/communicator.ts";
import { ranksOf } from "../../src/comm/ranks.ts";
import { Device } from "../../src/device/device.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";

const ranks = ranksOf()!;
const { rank, ranks: count } = ranks;
const isCpu = process.argv[2] !== "cuda";
await using device = isCpu
  ? await Device.open("cpu", { threads: 1 })
  : await Device.open(`cuda:${ranks.localRank}`);
using comm = await Communicator.open(device, { ranks });
const wrong: string[] = [];
const everyone = Array.from({ length: count }, (_, i) => i);

/** What a rank holds at an index; small, so that sums are exact in all dtypes. */
const value = (of: number, i: number) => ((7 * of + 3 * i) % 11) - 5;
const given = (dtype: DType, length: number, of = rank) =>
  Tensor.from(
    device,
    Array.from({ length }, (_, i) => value(of, i)),
    [length],
    dtype,
  );

function compare(what: string, found: Tensor, expected: readonly number[]): void {
  const numbers = [...(found.to("f32").toTypedArray() as Float32Array)];
  if (numbers.join() !== expected.join())
    wrong.push(`rank ${rank}, ${what}: ${numbers.slice(0, 8)}, not ${expected.slice(0, 8)}`);
}

for (const length of [1, 5, 3000])
  for (const dtype of ["f32", "f16", "bf16", "i32"] as const) {
    const indices = Array.from({ length }, (_, i) => i);
    const sum = (i: number) => everyone.reduce((held, of) => held + value(of, i), 0);
    const name = (what: string) => `${what} of ${length} ${dtype}`;
    const reduced = given(dtype, length);
    comm.allReduce(reduced);
    await comm.done();
    compare(name("sum"), reduced, indices.map(sum));
    const all = Tensor.empty(device, [count, length], dtype);
    comm.allGather(given(dtype, length), all);
    await comm.done();
    compare(
      name("gather"),
      all.reshape(count * length),
      everyone.flatMap((of) => indices.map((i) => value(of, i))),
    );
    const part = Tensor.empty(device, [length], dtype);
    comm.reduceScatter(given(dtype, count * length), part);
    await comm.done();
    compare(
      name("scatter"),
      part,
      indices.map((i) => sum(rank * length + i)),
    );
    const told = given(dtype, length);
    comm.broadcast(told, count - 1);
    await comm.done();
    compare(
      name("broadcast"),
      told,
      indices.map((i) => value(count - 1, i)),
    );
    const [next, last] = [(rank + 1) % count, (rank + count - 1) % count];
    const received = Tensor.empty(device, [length], dtype);
    const sent = given(dtype, length);
    comm.exchange({ send: { tensor: sent, to: next }, receive: { tensor: received, from: last } });
    await comm.done();
    compare(
      name("exchange"),
      received,
      indices.map((i) => value(last, i)),
    );
  }

const least = given("i32", 4);
comm.allReduce(least, "min");
await comm.done();
compare(
  "minimum",
  least,
  [0, 1, 2, 3].map((i) => Math.min(...everyone.map((of) => value(of, i)))),
);

// A graph holds operations between ranks like any other.
const x = Tensor.from(device, [rank + 1], [1], "f32");
const graph = device.capture(device.stream, () => {
  comm.allReduce(x);
  comm.barrier();
});
for (let i = 0; i < 3; i++) graph.replay(device.stream);
await comm.done();
const total = (count * (count + 1)) / 2;
compare("graph", x, [total * count * count]);

await comm.requireEqual("what is equal", Uint8Array.of(1, 2, 3));
const unequal = await comm
  .requireEqual("the plan", Uint8Array.of(rank === 1 ? 9 : 3))
  .catch(String);
if (count > 1 && !String(unequal).includes("the plan of rank")) wrong.push(`unequal: ${unequal}`);

const bytes = new TextEncoder().encode(wrong.join("\n").slice(0, 500).padEnd(500));
const mine = Tensor.fromBits(device, bytes, [500], "u8");
const texts = Tensor.empty(device, [count, 500], "u8");
comm.allGather(mine, texts);
await comm.done();
const found = new TextDecoder().decode(texts.toBytes()).replace(/ +/g, " ").trim();
if (rank === 0) process.stdout.write(JSON.stringify({ library: comm.library.version, found }));
