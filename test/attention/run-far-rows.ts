/**
 * Attention over pages 34 GiB from each other beside the same pages side by side: prints the
 * classes of the plan and whether the bits are the same. `far-rows.test.ts` runs it.
 */
import { Attention } from "../../src/attention/attention.ts";
import { Device } from "../../src/device/device.ts";
import { OutOfMemoryError } from "../../src/errors.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { pagesLayout } from "../../src/kv/layout.ts";
import { Tensor } from "../../src/tensor/tensor.ts";

const [queryHeads, kvHeads, headDim, pageCount] = [4, 2, 128, 3];
const tokenBytes = 2 * kvHeads * headDim;
/** A prompt and a decode, whose pages come again and again. */
const [queryLengths, kvLengths] = [
  [96, 1],
  [130, 45],
];

await using device = await Device.open("cuda:0");
const options = { queryHeads, kvHeads, headDim, dtype: "bf16", causal: true } as const;
using attention = await Attention.create(device, options);
const noise = (dims: readonly number[], seed: number) =>
  Tensor.randomNormal(device, [...dims], "bf16", { seed });
using q = noise([97, queryHeads, headDim], 1);

/** The output's bytes over keys and values of so many tokens from page to page. */
function run(pageSize: number, pageTokens: number): Uint8Array {
  const columns = Math.ceil(kvLengths[0] / pageSize);
  const table = Int32Array.from({ length: 2 * columns }, (_, i) => (2 * i) % pageCount);
  const [starts, slots, lengths] = [[0, 96, 97], [0, 1], kvLengths].map((x) => Int32Array.from(x));
  const layout = pagesLayout(pageSize, starts, slots, lengths);
  using pageTable = Tensor.from(device, table, [2, columns], "i32");
  using pages = Tensor.empty(device, [pageCount, pageTokens, kvHeads, headDim], "bf16");
  const [k, v] = [0, 1].map((i) => pages.slice(1, i * pageSize, (i + 1) * pageSize));
  k.copyFrom(noise(k.shape, 2));
  v.copyFrom(noise(v.shape, 3));
  using out = Tensor.empty(device, [...q.shape], "bf16");
  attention.plan(createBatch({ queryLengths, kvLengths, layout }));
  attention.run({ q, k, v, pageTable, out });
  return out.toBytes();
}

// Hopper's kernel gathers the rows of small pages, and copies others by boxes.
for (const pageSize of [4, 16]) {
  const near = run(pageSize, 2 * pageSize);
  const launches = attention.lastPlan!.launches.filter(({ grid }) => grid > 0);
  const names = launches.map(({ kernelClass }) => kernelClass).join(" ");
  let found: string;
  try {
    const far = run(pageSize, (34 * 2 ** 30) / tokenBytes);
    found = `${Buffer.compare(near, far) === 0 ? "same" : "other"} bits`;
  } catch (error) {
    if (!(error instanceof OutOfMemoryError)) throw error;
    found = "no room";
  }
  process.stdout.write(`pages of ${pageSize}, ${names}: ${found}\n`);
}
