/** A rank of test/comm/comm.test.ts that has a part of the keys; prints the largest difference. */
import { attend } from "../../src/attention/attend.ts";
import { Communicator } from "../../src/comm/communicator.ts";
import { mergeRanks } from "../../src/comm/merge-ranks.ts";
import { ranksOf } from "../../src/comm/ranks.ts";
import { Device } from "../../src/device/device.ts";
import { Tensor } from "../../src/tensor/tensor.ts";

const [queries, keys, queryHeads, kvHeads, headDim] = [3, 1001, 4, 2, 32];
const ranks = ranksOf()!;
await using device = await Device.open("cpu", { threads: 1 });
using comm = await Communicator.open(device, { ranks });
const random = (count: number, heads: number, seed: number) =>
  Tensor.randomNormal(device, [count, heads, headDim], "f32", { seed });
const q = random(queries, queryHeads, 1);
const [k, v] = [random(keys, kvHeads, 2), random(keys, kvHeads, 3)];
const whole = attend(q, k, v);
// Parts of unequal lengths; with three ranks and more the first has none.
const cut = (rank: number) =>
  ranks.ranks > 2 && rank <= 1 ? 0 : Math.floor((keys * rank ** 2) / ranks.ranks ** 2);
const [from, to] = [cut(ranks.rank), cut(ranks.rank + 1)];
const part = attend(q, k.slice(0, from, to), v.slice(0, from, to));
const merged = mergeRanks(comm, { ...part, lseBase: "e" });
await comm.done();
const difference = (x: Tensor, y: Tensor) => {
  const [a, b] = [x, y].map((each) => each.toTypedArray() as Float32Array);
  return a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - b[i])), 0);
};
const worst = [difference(merged.out, whole.out), difference(merged.lse, whole.lse)];
const bits = new Uint8Array(merged.out.toBytes());
await comm.requireEqual("the merged state", bits);
process.stdout.write(`${JSON.stringify(worst)}\n`);
