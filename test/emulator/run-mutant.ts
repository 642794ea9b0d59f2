// Runs one case, with one kernel's image exchanged, and prints a hash of the output. A process of
// its own: the device of a kernel that failed is lost to its process.
import { readFileSync } from "node:fs";
import { resolveKernelsNow } from "../../src/attention/families/resolve.ts";
import { wantedKernels } from "../../src/attention/families/tiled.ts";
import { Device } from "../../src/device/device.ts";
import { Module } from "../../src/device/kernel.ts";
import type { Specialization } from "../../src/jit/specialization.ts";
import type { Case } from "../support/cases.ts";
import { World } from "../support/rig.ts";

/** What the child gets as JSON. */
export interface Job {
  readonly c: Case;
  /** Keys that the device's lengths leave of each request; none: it has no lengths. */
  readonly kept?: number[];
  /** Name of the class whose kernel is exchanged, or the merge. */
  readonly kernel: string;
  /** File of the image that takes its place; none: the kernel stays. */
  readonly image?: string;
}

/** What it prints, also as JSON. */
export interface Outcome {
  readonly hash: string;
  readonly items: number;
  readonly specialization: Specialization;
}

const { c, kept, kernel, image } = JSON.parse(process.argv[2]!) as Job;
await using device = await Device.open("cuda:0");
const pages = c.kvLengths.reduce((sum, length) => sum + Math.ceil(length / c.pageSize), 0);
using world = new World(device, c, { pages, attention: { deviceLengths: kept !== undefined } });
const { options } = world.rig.attention;

const { classes, wanted } = wantedKernels(device.properties, options);
const at = kernel === "merge" ? wanted.length - 1 : classes.findIndex((t) => t.name === kernel);
const { entry, traits, specialization } = wanted[at]!;
if (image !== undefined) {
  const { tiled, merge } = resolveKernelsNow(device, options);
  const module = new Module(device, readFileSync(image), "mutant");
  const mutant = module.kernel(entry, {
    threads: traits?.threads ?? 128,
    sharedBytes: traits?.sharedBytes ?? 0,
    persistent: traits !== undefined,
    programmatic: true,
  });
  // Kernels are resolved once a device: the attention object holds this very one.
  Object.assign(traits === undefined ? merge : tiled[at]!, mutant);
}

const sequences = c.kvLengths.map(() => world.create());
const queries = c.queryLengths.map((count) => world.rig.queries(count));
world.grow(
  sequences,
  c.kvLengths.map((length, i) => length - c.queryLengths[i]!),
);
const batch = world.grow(sequences, c.queryLengths, queries);
const requests = world.requests(sequences, queries);
const bytes = world.rig.check(batch, requests, { cache: world.cache }, { kv: kept });
const plan = world.rig.attention.lastPlan!;
const items = traits === undefined ? plan.mergeGrid : plan.launches[at]!.grid;
if (items === 0) throw new Error(`the case does not run ${kernel}`);
const outcome: Outcome = { hash: Bun.hash(bytes).toString(16), items, specialization };
console.log(JSON.stringify(outcome));
