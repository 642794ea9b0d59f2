/**
 * Calls every public function and method with odd arguments, in an order that a seed decides, and
 * prints a line for each call that does not end in a value or a FlashbunError.
 *
 * Usage: bun test/api/fuzz.ts SEED CALLS LOG [cpu | cuda:0]
 *        bun test/api/fuzz.ts right: says which calls refuse their right arguments
 *        bun test/api/fuzz.ts misspelt: says which calls take an option that is not there
 * LOG is a file that takes each call before it is made. On a GPU nothing is called that compiles.
 */
import { writeSync, openSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as debloat from "../../src/debloat/index.ts";
import * as engine from "../../src/engine/index.ts";
import * as flashbun from "../../src/index.ts";
import * as server from "../../src/server/index.ts";
import { seeded, type Random } from "../support/random.ts";
import { calls } from "./calls.ts";
import { oddArguments, shown, withTrusted } from "./odd.ts";
import { disposeObjects, makeWorld, objectsOf, type World } from "./world.ts";

type Kind = "cpu" | "cuda:0";
type Callable = (...args: unknown[]) => unknown;

const doors: Readonly<Record<string, unknown>> = {
  ...flashbun,
  ...debloat,
  ...engine,
  ...server,
};

function memberOf(object: unknown, key: string): unknown {
  return Reflect.get(object as object, key === "[dispose]" ? Symbol.dispose : key);
}

/** Makes a call by its name: a function, "Class.static", "Class#method" or "new Class". */
function make(name: string, world: World, args: unknown[]): unknown {
  if (name.startsWith("new "))
    return Reflect.construct(doors[name.slice(4)] as Callable, args) as unknown;
  const [type, key] = name.split(/[.#]/);
  if (key === undefined) return (doors[name] as Callable)(...args);
  if (type in hookTypes) return makeInHook(type, key, args);
  const object = name.includes("#") ? objectsOf(world)[type] : doors[type];
  const member = memberOf(object, key);
  return typeof member === "function" ? (member as Callable).apply(object, args) : member;
}

/** Calls a method of a value in a hook over vectors, where all methods work. */
function makeInHook(type: string, key: string, args: unknown[]): unknown {
  return flashbun.defineVariant({
    name: "hook",
    tensors: { w: { dtype: "f32", shape: ["headDim", "headDim"] } },
    query(x, { query, w }) {
      const value = type === "F32" ? x : type === "I32" ? query : query.lt(3);
      const given = args.map((each) => (each === itself ? value : each === matrix ? w : each));
      const made = (memberOf(value, key) as Callable).apply(value, given);
      if (made instanceof flashbun.I32) return x.add(made.toF32());
      return made instanceof flashbun.Bool ? made.select(x, 0) : (made as flashbun.F32);
    },
  });
}

/** Stand for the value whose method is called, and for a tensor of the variant. */
const itself = "itself";
const matrix = "matrix";

/** Right arguments of the methods of values in hooks, by the type of the value. */
const hookTypes = { F32: [2], I32: [2], Bool: [itself] } as const;
const turn = (pair: flashbun.I32) => [pair.toF32(), pair.toF32()];
const hookCalls: Readonly<Record<string, readonly unknown[]>> = {
  "F32#rotate": [{ dim: 8 }, turn],
  "F32#matmul": [matrix],
  "Bool#select": [1, 0],
};

/** Every call: those with an entry, and the methods of values in hooks. */
function allCalls(): [name: string, args: (world: World) => readonly unknown[]][] {
  const inHooks = Object.entries(hookTypes).flatMap(([type, args]) => {
    const keys: string[] = [];
    let { prototype } = doors[type] as { prototype: object };
    for (; prototype !== Object.prototype; prototype = Object.getPrototypeOf(prototype) as object)
      keys.push(...Object.getOwnPropertyNames(prototype));
    const methods = [...new Set(keys)].filter((key) => key !== "constructor");
    return methods.map((key): [string, () => readonly unknown[]] => [
      `${type}#${key}`,
      () => hookCalls[`${type}#${key}`] ?? args,
    ]);
  });
  return [...Object.entries(calls), ...inHooks];
}

/** Ends when the call has; what is neither a value nor a typed error, as a line. */
async function failureOf(name: string, world: World, args: unknown[]): Promise<string> {
  try {
    const result = make(name, world, args);
    if (!(result instanceof Promise)) return "";
    const late = Bun.sleep(10_000).then(() => "it never ends");
    return (await Promise.race([result.then(() => ""), late])) as string;
  } catch (error) {
    if (error instanceof flashbun.FlashbunError) return "";
    return error instanceof Error
      ? `${error.name}: ${error.message}\n${error.stack}`
      : shown(error);
  }
}

/** The world is as it was but for what was queued: an attention gives what it has to. */
function isSound({ device, attention, batch, out, q }: World): boolean {
  const { Tensor } = flashbun;
  if ([attention, out, q].some(({ disposed }) => disposed)) return true;
  device.freezeMemory(false);
  const one = Tensor.from(device, new Float32Array(128).fill(1), q.shape, q.dtype);
  attention.plan(batch);
  attention.run({ q: one, k: one, v: one, out });
  return out.toFloat64Array().every((value) => value === 1);
}

/** A world of which some, or all with the device, is gone. */
async function worldBy(random: Random, kind: Kind): Promise<World> {
  const world = await makeWorld(kind);
  const gone = random.pick(["", "", "", "", "objects", "device"]);
  if (gone === "objects") disposeObjects(world);
  if (gone === "device") world.device[Symbol.dispose]();
  return world;
}

/** The calls that refuse their right arguments, each in a world of its own. */
async function refusedWhenRight(): Promise<string[]> {
  const refused: string[] = [];
  for (const [name, rightArguments] of allCalls()) {
    const world = await makeWorld();
    try {
      await make(name, world, withTrusted(rightArguments(world)));
    } catch (error) {
      refused.push(`${name}: ${(error as Error).message}`);
    }
    world.device[Symbol.dispose]();
  }
  return refused;
}

/** The calls that take an option which is not there, and in which argument. */
async function takenWhenMisspelt(): Promise<string[]> {
  const taken: string[] = [];
  for (const [name, rightArguments] of allCalls()) {
    const world = await makeWorld();
    const right = withTrusted(rightArguments(world));
    for (const [i, given] of right.entries()) {
      if (typeof given !== "object" || given === null) continue;
      if (Object.getPrototypeOf(given) !== Object.prototype) continue;
      try {
        await make(name, world, right.with(i, { ...given, misspelt: 1 }));
        taken.push(`${name}, argument ${i}`);
      } catch (error) {
        if (!(error instanceof flashbun.FlashbunError)) throw error;
      }
    }
    world.device[Symbol.dispose]();
  }
  return taken;
}

async function fuzz(seed: number, count: number, log: number, kind: Kind): Promise<number> {
  const random = seeded(seed);
  let failed = 0;
  const say = (what: string) => {
    failed++;
    writeSync(1, `${what}\n`);
  };
  const all = allCalls().filter(([name]) => kind === "cpu" || !/^(attend|Attention.c)/.test(name));
  let world = await worldBy(random, kind);
  let ended = false;
  for (let i = 0; i < count; i++) {
    if (ended || i % 40 === 39) {
      if (!world.device.disposed && !isSound(world)) say(`the world after call ${i}`);
      world.device[Symbol.dispose]();
      world = await worldBy(random, kind);
    }
    const [name, rightArguments] = random.pick(all);
    let right: readonly unknown[] = [];
    try {
      right = rightArguments(world);
    } catch (error) {
      if (!(error instanceof flashbun.FlashbunError)) throw error;
    }
    const { memory, batch, plan, variant } = world;
    const live = [...Object.values(objectsOf(world)), memory, batch, plan, variant];
    live.push(variant.hooks.logits, world.masked);
    const args = oddArguments(random, right, live);
    const line = `${name}(${args.map(shown).join(", ")})`;
    writeSync(log, `${line}\n`);
    const failure = await failureOf(name, world, args);
    // What comes after an end is tried too, but most calls need a world that is whole.
    ended = /dispose|free/.test(name) && random.chance(0.8);
    if (failure !== "") say(`${line}: ${failure}`);
  }
  return failed;
}

const listed = { right: refusedWhenRight, misspelt: takenWhenMisspelt };
if (process.argv[2] in listed) {
  const list = listed[process.argv[2] as keyof typeof listed];
  process.stdout.write((await list()).join("\n"));
  process.exit(0);
} else {
  const [seed, count, log, kind = "cpu"] = process.argv.slice(2);
  const folder = mkdtempSync(join(tmpdir(), "flashbun-fuzz-"));
  // Odd names of files are below here.
  process.chdir(folder);
  const failed = await fuzz(Number(seed), Number(count), openSync(log, "w"), kind as Kind);
  rmSync(folder, { recursive: true });
  // resourceUsage().maxRSS begins at what the program that started this one held.
  const peak = 1024 * Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))![1]);
  writeSync(1, `${count} calls, ${failed} failed, peak ${peak} bytes\n`);
  process.exit(failed > 0 ? 1 : 0);
}
