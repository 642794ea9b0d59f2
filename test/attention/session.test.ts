import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import { OutOfPagesError } from "../../src/errors.ts";
import type { Sequence } from "../../src/kv/sequence.ts";
import { caseOf, storages } from "../support/cases.ts";
import { sweepSeeds } from "../support/deep.ts";
import type { Random } from "../support/random.ts";
import { targetsHere } from "../support/targets.ts";
import { World } from "../support/world.ts";

/** Of six requests' steps, each of up to 20 tokens and two rows behind them. */
const graph = { maxBatch: 6, maxQueryTokens: 122, maxColumns: 200 };

/** One random life of a cache: sequences come, fork, grow, shrink and go; every step is checked. */
function session(device: Device, random: Random): void {
  const windowLeft = random.chance(0.3) ? random.integer(0, 20) : undefined;
  const c = caseOf("session", {
    seed: random.seed,
    queryHeads: random.pick([2, 6]),
    kvHeads: 2,
    headDim: 16,
    pageSize: random.pick([1, 3, 5, 16]),
    kvDtype: random.pick(["f32", "bf16", "f8e4m3"]),
    windowLeft: windowLeft ?? -1,
    storage: random.pick(storages),
    sinks: random.chance(0.3),
    rope: random.chance(0.3) ? { dim: 16, interleaved: false, theta: 1e4 } : undefined,
    ...(random.seed % 3 === 0 ? { graph } : {}),
  });
  const pages = Math.ceil(200 / c.pageSize);
  using world = new World(device, c, { pages, windowLeft });
  const alive: Sequence[] = [];
  for (let turn = 0; turn < 25; turn++) {
    const sequence = alive.length > 0 ? random.pick(alive) : undefined;
    if (sequence === undefined || (alive.length < 6 && random.chance(0.3))) {
      alive.push(sequence && random.chance(0.6) ? world.fork(sequence) : world.create());
    } else if (random.chance(0.1)) {
      drop(world, alive, sequence);
    } else if (random.chance(0.1) && windowLeft === undefined) {
      world.truncate(sequence, random.integer(0, sequence.length));
    }
    step(world, alive, random);
  }
  for (const sequence of [...alive]) drop(world, alive, sequence);
  expect(world.cache.pool.groups[0].allocator.freeCount).toBe(pages);
}

function step(world: World, alive: Sequence[], random: Random): void {
  const chosen = alive.filter(() => random.chance(0.8));
  const counts = chosen.map(() => random.pick([0, 1, 1, 1, random.integer(2, 20)]));
  const lengths = chosen.map((sequence) => sequence.length);
  try {
    world.step(chosen, counts, { share: random.chance(0.5) ? "perhaps" : false });
  } catch (error) {
    if (!(error instanceof OutOfPagesError)) throw error;
    expect(chosen.map((sequence) => sequence.length)).toEqual(lengths);
    return drop(world, alive, random.pick(alive));
  }
  const at = random.integer(0, counts.length);
  if (!(counts[at] > 1) || !random.chance(0.5)) return;
  const accepted = Array.from({ length: counts[at] }, (_, i) => i).filter(() => random.chance(0.6));
  try {
    world.compact(chosen[at], counts[at], accepted);
  } catch (error) {
    if (!(error instanceof OutOfPagesError)) throw error;
  }
}

function drop(world: World, alive: Sequence[], sequence: Sequence): void {
  world.free(sequence);
  alive.splice(alive.indexOf(sequence), 1);
}

describe.each(await targetsHere())("random lives of a cache on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  const sizes = target.kind === "cpu" ? { slice: 50, whole: 600 } : { slice: 15, whole: 60 };
  sweepSeeds("every step agrees with the oracle and no page leaks", sizes, (random) => {
    session(device, random);
  });

  test("a sequence that starts from cached pages", () => {
    using world = new World(device, caseOf("prefix", { pageSize: 4, kvDtype: "f16" }), {
      pages: 40,
    });
    const index = world.cache.prefixIndex();
    const tokens = Int32Array.from({ length: 30 }, (_, i) => (i * i) % 17);
    const first = world.create();
    world.step([first], [23]);
    index.insert(tokens.subarray(0, 23), first);
    const match = index.match(tokens);
    expect(match.tokens).toBe(20);
    const second = world.create(match, first);
    world.step([first, second], [1, 10]);
    world.free(first);
    const third = world.create(index.match(tokens.subarray(0, 9)), second);
    world.step([second, third], [1, 5], { share: true });
    world.free(second);
    world.free(third);
    index.clear();
    expect(world.cache.pool.groups[0].allocator.freeCount).toBe(40);
  });
});
