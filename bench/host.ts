import { statSync } from "node:fs";
import { join } from "node:path";
import { measure } from "mitata";
import { cpuClasses } from "../src/attention/families/cpu.ts";
import { libraryPath, native } from "../src/ffi/library.ts";
import { ProbeParams, RandomParams } from "../src/ffi/params.gen.ts";
import {
  appendPages,
  Attention,
  PagedCache,
  PageLists,
  Tensor,
  type Variant,
  variants,
} from "../src/index.ts";
import { type Sequence, SequencePool } from "../src/kv/sequence.ts";
import { Planner } from "../src/plan/planner.ts";
import { emitBytecode } from "../src/variant/emit-bytecode.ts";
import { emitCuda } from "../src/variant/emit-cuda.ts";
import { stage } from "../src/variant/stages.ts";
import { type Bench, type Case, type Measured, median, plainRow } from "./bench.ts";

const shape = { queryHeads: 32, kvHeads: 8, headDim: 128 } as const;
const requests = 256;

/** Costs on the JavaScript side: calls, planning, whole steps, memory, imports. */
export const hostCases: Case[] = [
  { name: "ffi/noop", run: () => nanoseconds(() => native().fb_abi_version()) },
  { name: "launch/enqueue", run: launch },
  { name: "append/enqueue_b256", run: append },
  { name: "plan/b256", run: () => plan(0) },
  { name: "plan/b224_prefill32", run: () => plan(32) },
  { name: "step/decode_b256", run: (bench) => step(bench, 0, 50) },
  { name: "step/decode224_prefill32", run: (bench) => step(bench, 32, 120) },
  { name: "step/callers_pages_b256", run: callersStep },
  { name: "loop/lag_p99", run: loopLag },
  { name: "heap/steps10000", run: heap },
  { name: "books/1m_beside_10000", run: books },
  { name: "import/package", run: () => inFreshProcess("", "await import(PACKAGE)", 30) },
  { name: "import/first_validation", run: () => inFreshProcess(openDevice, firstUse, 60) },
  { name: "variant/trace_emit", run: traceAndEmit },
  { name: "variant/first_trace_emit", run: () => inFreshProcess(useVariants, firstVariant, 20) },
  { name: "variant/first_kernels_named", run: () => inFreshProcess(nameKernels, firstNames, 20) },
  { name: "library/bytes", run: libraryBytes },
];

async function nanoseconds(body: () => void): Promise<Measured> {
  const stats = await measure(body);
  return plainRow("", stats.p50, "ns");
}

async function launch({ device }: Bench): Promise<Measured> {
  using out = device.alloc(4096, "bench");
  const params = new RandomParams();
  params.out = out.address;
  params.count = 16;
  const kernel = device.kernel("random_normal");
  let queued = 0;
  return await nanoseconds(() => {
    device.launch(device.stream, kernel, params, 1);
    if (++queued % 256 === 0) device.stream.wait();
  });
}

async function append({ device }: Bench): Promise<Measured> {
  const { kvHeads, headDim } = shape;
  const options = { layers: 1, kvHeads, headDim, dtype: "bf16", pages: requests, pageSize: 16 };
  using cache = PagedCache.create(device, { ...options, dtype: "bf16" });
  const sequences = Array.from({ length: requests }, () => cache.sequence());
  using k = Tensor.randomNormal(device, [requests, kvHeads, headDim], "bf16", { seed: 1 });
  const batch = cache.reserve(sequences, new Int32Array(requests).fill(1));
  if (!batch.ok) throw batch.error;
  let queued = 0;
  return await nanoseconds(() => {
    cache.append({ layer: 0, batch, k, v: k });
    if (++queued % 64 === 0) device.stream.wait();
  });
}

/** Pool and lengths of a steady state: `prefills` of the requests take 256-token chunks. */
function steadyState(prefills: number) {
  const newTokens = new Int32Array(requests).fill(1).fill(256, requests - prefills);
  const options = { pageSize: 16, groups: [{ pages: 400_000 }], maxSequences: requests };
  const pool = new SequencePool(options);
  const sequences = Array.from({ length: requests }, () => pool.create());
  return { pool, sequences, newTokens };
}

async function plan(prefills: number): Promise<Measured> {
  const { pool, sequences, newTokens } = steadyState(prefills);
  const planner = new Planner({
    queryHeads: shape.queryHeads,
    kvHeads: shape.kvHeads,
    valueDim: 128,
    processors: 8,
    causal: true,
    classes: cpuClasses,
  });
  pool.reserve(
    sequences,
    sequences.map((_, i) => 1000 + 8 * i),
  );
  const batch = pool.reserve(sequences, newTokens);
  if (!batch.ok) throw batch.error;
  const stats = await measure(() => planner.plan(batch));
  return plainRow("", stats.p50 / 1000, "us");
}

/**
 * Batch, plan and enqueue of one layer together, in a steady state in which the host runs ahead: a
 * spinning kernel holds the device while three steps are queued.
 */
async function step({ device, quick }: Bench, prefills: number, targetUs: number) {
  const rounds = quick ? 20 : prefills > 0 ? 300 : 3000;
  using world = new StepWorld(device, prefills);
  return await timeSteps(device, world, prefills > 0 ? 1 : 20, rounds, targetUs);
}

/**
 * The same over pages of the caller, whose ids lie in a tensor; without the look at indices that a
 * CPU device takes before kernels follow them, and a GPU does not.
 */
async function callersStep({ device, quick }: Bench): Promise<Measured> {
  const looks = Object.getOwnPropertyDescriptor(device, "checksContents")!;
  Object.defineProperty(device, "checksContents", { ...looks, value: false });
  try {
    using world = new CallersWorld(device);
    return await timeSteps(device, world, 20, quick ? 20 : 3000, 50);
  } finally {
    Object.defineProperty(device, "checksContents", looks);
  }
}

/** Median of the microseconds that a step of a world takes the host. */
async function timeSteps(
  device: Bench["device"],
  world: { enqueue(): void; rewind(): void },
  roundsOfLengths: number,
  rounds: number,
  targetUs: number,
): Promise<Measured> {
  const times: number[] = [];
  const spin = new ProbeParams();
  spin.microseconds = 1000;
  for (let round = 0; round < rounds; round++) {
    device.launch(device.stream, device.kernel("probe_spin"), spin, 1);
    for (let i = 0; i < 3; i++) {
      const started = performance.now();
      world.enqueue();
      times.push((performance.now() - started) * 1000);
    }
    device.stream.wait();
    if (round % roundsOfLengths === roundsOfLengths - 1) world.rewind();
  }
  const value = median(times.slice(times.length >> 1));
  return {
    ...plainRow("", value, "us p50"),
    target: `under ${targetUs} us`,
    met: value < targetUs,
  };
}

/**
 * The longest reserve while a sequence grows to a million tokens beside 10,000 short ones, a page
 * for each token. Every round makes the same calls: of each the fastest counts, so that what else
 * the machine does is left out.
 */
async function books({ quick }: Bench): Promise<Measured> {
  const rounds = quick ? 1 : 5;
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) growBeside(quick, times);
  const value = Math.max(...times);
  return { ...plainRow("", value, "ms worst"), target: "under 5 ms", met: value < 5 };
}

/** Keeps in `times` the milliseconds of each reserve where they are fewer. */
function growBeside(quick: boolean, times: number[]): void {
  const tokens = quick ? 1 << 16 : 1 << 20;
  const maxSequences = quick ? 101 : 10_001;
  const groups = [{ pages: tokens + 100 * maxSequences }];
  const pool = new SequencePool({ pageSize: 1, groups, maxSequences });
  let call = 0;
  const grow = (sequence: Sequence, count: number) => {
    const started = performance.now();
    if (!pool.reserve([sequence], [count]).ok) throw new Error("out of pages");
    const ms = performance.now() - started;
    times[call] = Math.min(times[call] ?? ms, ms);
    call++;
    pool.groups[0].table.clearUpdates();
  };
  const long = pool.create();
  for (let i = 1; i < maxSequences; i++) {
    grow(pool.create(), 100);
    if (i % 40 === 0 && long.length < tokens) grow(long, 4096);
  }
  while (long.length < tokens) grow(long, 4096);
}

/** How late 1 ms timers are while a kernel takes all processors of the device. */
async function loopLag({ device, quick }: Bench): Promise<Measured> {
  const params = new ProbeParams();
  params.microseconds = quick ? 50_000 : 500_000;
  const lags: number[] = [];
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    lags.push(Math.max(0, now - last - 1));
    last = now;
  }, 1);
  device.launch(device.stream, device.kernel("probe_spin"), params, device.processors);
  await device.stream.done();
  clearInterval(timer);
  lags.sort((a, b) => a - b);
  const value = lags[Math.floor(lags.length * 0.99)] ?? 0;
  return { ...plainRow("", value, "ms"), target: "under 5 ms", met: value < 5 };
}

/** 256 sequences with short histories, so that kernels take little of the run. */
class StepWorld implements Disposable {
  readonly #cache: PagedCache;
  readonly #attention: Attention;
  readonly #tensors: Tensor[];
  readonly #sequences;
  readonly #newTokens: Int32Array;

  constructor(device: Bench["device"], prefills: number) {
    // Narrow heads: the host's work is the same, the kernels' little.
    const { kvHeads, queryHeads } = shape;
    const headDim = 8;
    this.#newTokens = new Int32Array(requests).fill(1).fill(256, requests - prefills);
    const tokens = this.#newTokens.reduce((sum, count) => sum + count, 0);
    const options = { layers: 1, kvHeads, headDim, dtype: "bf16", pageSize: 16 } as const;
    this.#cache = PagedCache.create(device, { ...options, pages: 40_000 >> 1 });
    this.#attention = Attention.createSync(device, {
      ...shape,
      headDim,
      dtype: "bf16",
      causal: true,
    });
    const make = (heads: number) => Tensor.zeros(device, [tokens, heads, headDim], "bf16");
    this.#tensors = [make(queryHeads), make(kvHeads), make(queryHeads)];
    this.#sequences = Array.from({ length: requests }, () => this.#cache.sequence());
    const first = this.#cache.reserve(this.#sequences, new Int32Array(requests).fill(1));
    if (!first.ok) throw first.error;
    this.#cache.markWritten(first);
  }

  enqueue(): void {
    const [q, k, out] = this.#tensors;
    const cache = this.#cache;
    const batch = cache.reserve(this.#sequences, this.#newTokens);
    if (!batch.ok) throw batch.error;
    this.#attention.plan(batch);
    cache.append({ layer: 0, batch, k, v: k });
    this.#attention.run({ layer: 0, q, cache, out });
  }

  /** Back to the first lengths. */
  rewind(): void {
    for (const sequence of this.#sequences) sequence.truncate(1);
  }

  [Symbol.dispose](): void {
    this.#cache[Symbol.dispose]();
    this.#attention[Symbol.dispose]();
    for (const tensor of this.#tensors) tensor[Symbol.dispose]();
  }
}

/** 256 requests of an engine with pages of its own, eight for each. */
class CallersWorld implements Disposable {
  readonly #lists: PageLists;
  readonly #attention: Attention;
  readonly #tensors: Tensor[];
  readonly #queryIndptr = Int32Array.from({ length: requests + 1 }, (_, i) => i);
  readonly #kvLengths = new Int32Array(requests).fill(1);

  constructor(device: Bench["device"]) {
    const { kvHeads, queryHeads } = shape;
    const [headDim, pageSize, pageCount] = [8, 16, 8 * requests];
    const sizes = { maxBatch: requests, maxQueryTokens: requests, maxEntries: pageCount };
    this.#lists = PageLists.create(device, { pageSize, pageCount, ...sizes });
    const dtype = "bf16";
    this.#attention = Attention.createSync(device, { ...shape, headDim, dtype, causal: true });
    const make = (...dims: number[]) => Tensor.zeros(device, [...dims, headDim], dtype);
    const pages = make(pageCount, pageSize, kvHeads);
    const ids = Int32Array.from({ length: pageCount }, (_, i) => i);
    const table = Tensor.from(device, ids, [requests, 8], "i32");
    const rows = [make(requests, queryHeads), make(requests, kvHeads), make(requests, queryHeads)];
    this.#tensors = [...rows, pages, table];
  }

  enqueue(): void {
    const [q, k, out, pages, indices] = this.#tensors;
    const [queryIndptr, kvLengths] = [this.#queryIndptr, this.#kvLengths];
    for (let r = 0; r < requests; r++) kvLengths[r]++;
    const batch = this.#lists.step({ queryIndptr, indices, kvLengths });
    this.#attention.plan(batch);
    appendPages({ planes: [{ rows: k, pages }], batch });
    this.#attention.run({ q, k: pages, v: pages, out });
  }

  /** Back to the first lengths. */
  rewind(): void {
    this.#kvLengths.fill(1);
  }

  [Symbol.dispose](): void {
    this.#lists[Symbol.dispose]();
    this.#attention[Symbol.dispose]();
    for (const tensor of this.#tensors) tensor[Symbol.dispose]();
  }
}

async function heap({ device, quick }: Bench): Promise<Measured> {
  const steps = quick ? 200 : 10_000;
  using world = new StepWorld(device, 0);
  const advance = (count: number) => {
    for (let i = 0; i < count; i++) {
      world.enqueue();
      if (i % 8 === 7) device.stream.wait();
      if (i % 20 === 19) world.rewind();
    }
    device.stream.wait();
    Bun.gc(true);
    return process.memoryUsage().heapUsed;
  };
  advance(Math.min(2000, steps));
  const before = advance(100);
  const value = advance(steps) - before;
  // What the collector itself moves from one full collection to the next.
  const noise = 256 << 10;
  return { ...plainRow("", value, "bytes"), target: "no growth", met: value < noise };
}

const openDevice =
  "const { Device, Attention } = await import(PACKAGE);" +
  'const device = await Device.open("cpu");';
const firstUse =
  'Attention.createSync(device, { queryHeads: 1, kvHeads: 1, headDim: 8, dtype: "f32" })';

/** Milliseconds of a statement in a fresh process, median of several. */
async function inFreshProcess(setUp: string, body: string, targetMs: number): Promise<Measured> {
  const path = JSON.stringify(join(import.meta.dir, "..", "src", "index.ts"));
  const script = `${setUp}; const t = performance.now(); ${body};
    console.log(performance.now() - t); process.exit(0)`.replaceAll("PACKAGE", path);
  const times: number[] = [];
  for (let i = 0; i < 7; i++) {
    const child = Bun.spawn([process.execPath, "-e", script], {
      stdout: "pipe",
      stderr: "inherit",
    });
    times.push(Number(await new Response(child.stdout).text()));
  }
  const value = median(times);
  return { ...plainRow("", value, "ms"), target: `under ${targetMs} ms`, met: value < targetMs };
}

const known: readonly (() => Variant)[] = [
  () => variants.flashSigmoid({ bias: -7 }),
  () => variants.softCap({ cap: 30 }),
  () => variants.slidingWindowWithSinks({ window: 1024, sinks: 4, rope: { dim: 128 } }),
  () => variants.documentMask({ causal: true }),
  () => variants.qkNorm({ headDim: 128 }),
  variants.alibi,
  variants.prefixLm,
  variants.packedMask,
  variants.logitBias,
  variants.outputScale,
  variants.dequantise,
  variants.dumpLogits,
];

/** From TypeScript to bytecode and CUDA C++: the slowest of the known variants, once warm. */
async function traceAndEmit({ quick }: Bench): Promise<Measured> {
  const medians = known.map((make) => {
    const times = Array.from({ length: quick ? 10 : 300 }, () => {
      const started = performance.now();
      const variant = make();
      emitBytecode(stage(variant));
      emitCuda(variant);
      return (performance.now() - started) * 1000;
    });
    return median(times.slice(times.length >> 1));
  });
  const value = Math.max(...medians);
  return { ...plainRow("", value, "us p50"), target: "under 2000 us", met: value < 2000 };
}

const source = (file: string, room = "variant") =>
  JSON.stringify(join(import.meta.dir, "..", "src", room, file));
const useVariants =
  `const { softCap } = await import(${source("library.ts")});` +
  `const { stage } = await import(${source("stages.ts")});` +
  `const { emitBytecode } = await import(${source("emit-bytecode.ts")});` +
  `const { emitCuda } = await import(${source("emit-cuda.ts")})`;
const firstVariant = "const made = softCap({ cap: 30 }); emitBytecode(stage(made)); emitCuda(made)";

/** Kernels of an H200, those of a plain attention first: a variant's share sources with them. */
const nameKernels =
  `const { softCap } = await import(${source("library.ts")});` +
  `const { families } = await import(${source("families/table.ts", "attention")});` +
  `const { offerOf } = await import(${source("families/resolve.ts", "attention")});` +
  `const { resolveOptions } = await import(${source("options.ts", "attention")});` +
  `const { architectureFacts } = await import(${source("architectures.ts", "jit")});` +
  `const { identify, imageHash } = await import(${source("specialization.ts", "jit")});` +
  `const named = (variant) => {
    const options = resolveOptions({ ...${JSON.stringify(shape)}, dtype: "bf16", variant });
    const { merge, classes } = offerOf(families.cuda, architectureFacts("sm_90a"), options);
    return [merge, ...classes].map(({ image }) => imageHash(identify(image), "sm_90a", ""));
  };
  named()`;
const firstNames = "named(softCap({ cap: 30 }))";

async function libraryBytes(): Promise<Measured> {
  const value = statSync(libraryPath()).size;
  return { ...plainRow("", value, "bytes"), target: "under 4 MB", met: value < 4 << 20 };
}
