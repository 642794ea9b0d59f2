// Runs one case, with one kernel's image exchanged, and prints a hash of the output. A process of
// its own: the device of a kernel that failed is lost to its process.
import { readFileSync } from "node:fs";
import { resolveKernelsNow } from "../../src/attention/families/resolve.ts";
import { families } from "../../src/attention/families/table.ts";
import { Device } from "../../src/device/device.ts";
import { Module } from "../../src/device/kernel.ts";
import { compileEmulatedSync } from "../../src/jit/emulated.ts";
import type { Specialization } from "../../src/jit/specialization.ts";
import type { Case } from "../support/cases.ts";
import { projectionCases } from "../support/projections.ts";
import { World } from "../support/world.ts";

/** What the child gets as JSON. */
export interface Job {
  readonly c: Case;
  /** Name of a variant that multiplies rows by matrices, as no JSON can say it. */
  readonly projection?: string;
  /** Keys that the device's lengths leave of each request; none: it has no lengths. */
  readonly kept?: number[];
  /** Tokens that all requests share, read as a level of its own; none: they share nothing. */
  readonly prefix?: number;
  /** Name of the class whose kernel is exchanged, or the merge. */
  readonly kernel: string;
  /** The class's other kernel, for few tiles. */
  readonly few?: boolean;
  /** File of the image that takes its place; none: the kernel stays. */
  readonly image?: string;
  /** Or file of its text, which is compiled as this process's emulator asks. */
  readonly text?: string;
}

/** What it prints, also as JSON. */
export interface Outcome {
  readonly hash: string;
  readonly items: number;
  readonly specialization: Specialization;
}

const {
  c: said,
  projection,
  kept,
  prefix,
  kernel,
  few: isFew = false,
  image,
  text,
} = JSON.parse(process.argv[2]) as Job;
const variant = projectionCases.find((each) => each.variant.name === projection);
const c: Case = { ...said, ...variant?.over, ...(variant && { variant }) };
await using device = await Device.open("cuda:0");
const pages = c.kvLengths.reduce((sum, length) => sum + Math.ceil(length / c.pageSize), 0);
using world = new World(device, c, { pages, attention: { deviceLengths: kept !== undefined } });
const { options } = world.rig.attention;

const { offer, kernels, few, merge } = resolveKernelsNow(device, options, families.cuda);
const at = offer.classes.findIndex(({ name }) => name === kernel);
const row = offer.classes[at];
const source = at < 0 ? offer.merge : isFew ? row.fewKernel! : row;
const { entry, launch, image: specialization } = source;
const bytes = image === undefined ? compiled(text) : readFileSync(image);
if (bytes !== undefined) {
  const module = new Module(device, bytes, "mutant");
  // Kernels are resolved once per device: the attention object holds this very one.
  const cluster = at < 0 ? 1 : isFew ? row.few!.cluster : row.cluster;
  const exchanged = at < 0 ? merge : isFew ? few[at]! : kernels[at];
  Object.assign(exchanged, module.kernel(entry, { ...launch!, cluster }));
  if (!isFew && row?.fewKernel?.image === specialization)
    Object.assign(few[at]!, module.kernel(entry, row.fewKernel!.launch!));
}

const parent = world.create();
if (prefix !== undefined) world.grow([parent], [prefix]);
const sequences = c.kvLengths.map(() => world.fork(parent));
const queries = c.queryLengths.map((count) => world.rig.queries(count));
world.grow(
  sequences,
  c.kvLengths.map((length, i) => length - c.queryLengths[i] - (prefix ?? 0)),
);
const batch = world.grow(sequences, c.queryLengths, queries);
if (prefix !== undefined) world.cache.sharePrefixes(batch, sequences, () => true);
const requests = world.requests(sequences, queries);
const outputs = world.rig.check(batch, requests, { cache: world.cache }, { kv: kept });
const plan = world.rig.attention.lastPlan!;
const items = at < 0 ? plan.mergeGrid : plan.launches[at].grid;
if (items === 0 || (isFew && !plan.launches[at].few))
  throw new Error(`the case does not run ${kernel}`);
const outcome: Outcome = {
  hash: Bun.hash(outputs).toString(16),
  items,
  specialization: specialization!,
};
console.log(JSON.stringify(outcome));

function compiled(file: string | undefined): Uint8Array<ArrayBuffer> | undefined {
  if (file === undefined) return undefined;
  const answer = compileEmulatedSync(readFileSync(file, "utf8"));
  if ("failure" in answer) throw new Error(`${answer.failure}\n${answer.log}`);
  return answer.image;
}
