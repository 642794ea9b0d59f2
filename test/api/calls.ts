/** Right arguments of every public function and method, by name. */
import { cpuClasses } from "../../src/attention/families/cpu.ts";
import * as flashbun from "../../src/index.ts";
import { Trusted } from "./odd.ts";
import { profile, type World } from "./world.ts";

const shape = { queryHeads: 2, kvHeads: 2, headDim: 16, dtype: "f32" };
const cacheOptions = { ...shape, layers: 2, pages: 4, pageSize: 4 };
const poolOptions = { pageSize: 4, maxSequences: 4, groups: [{ pages: 8, windowLeft: 4 }] };
const indptr = () => Int32Array.of(0, 2, 4);
const { Tensor } = flashbun;
const costs = { pieceKeys: 24, rowKeys: 0.08, mergeKeys: 4, sharedRowKeys: 56, leastKeys: 128 };

const address = ({ memory }: World) => new Trusted(memory.address);
const blocks = {
  queryIndptr: [0, 2, 4],
  kvIndptr: [0, 4, 8],
  blockRows: 2,
  blockColumns: 2,
  kvHeads: 1,
  indptr: [0, 1, 3],
  indices: [0, 0, 1],
  full: [1, 0, 1],
};
const rope = {
  theta: 10000,
  dim: 16,
  interleaved: false,
  scaling: {
    kind: "llama3",
    factor: 8,
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalPositions: 8192,
  },
};
const graphSizes = { maxBatch: 2, maxQueryTokens: 4, maxColumns: 8, buckets: [1, 2] };
const variant = {
  name: "shifted",
  tensors: { bias: { dtype: "f32", shape: ["queryHeads", "any", 2] } },
  scalars: { slope: { type: "f32", fallback: 1 }, step: "i32" },
  logits: (x: unknown) => x,
};

const none = () => [];

/** Arguments of each call in a world. */
export const calls: Readonly<Record<string, (world: World) => readonly unknown[]>> = {
  yarnMscale: () => [40, 0.7],
  applyRope: ({ q, out, positions, device, rope: turns }) => [
    q,
    out,
    positions,
    turns,
    { stream: device.stream },
  ],
  normRopeAppend: ({ cache, step, q, out, positions, rope: turns, device }) => [
    cache,
    {
      layer: 0,
      batch: step(),
      q,
      k: out,
      v: out,
      rope: turns,
      positions,
      eps: 1e-5,
      zeroCentered: true,
      stream: device.stream,
    },
  ],
  "Rope.create": ({ device }) => [device, 16, { ...rope, sections: [3, 5] }],
  "Rope#disposed": none,
  "Rope#[dispose]": none,
  attend: ({ q, out, lse }) => [
    q,
    q,
    q,
    { causal: true, windowLeft: 4, softCap: 5, rope: { theta: 1e4 }, out, lse },
  ],
  "ApiServer#stop": () => [0],
  "ChatTemplate#render": () => [{ messages: [{ role: "user", content: "hello" }], tools: [] }],
  "Engine.load": ({ model }) => [
    model.path,
    { pages: 8, pageSize: 4, tokenBudget: 8, maxBatch: 2 },
  ],
  "Engine#generate": () => [
    { prompt: "hello", maxTokens: 2, stop: ["x"], sampling: { temperature: 0, seed: 1 } },
  ],
  "Engine#stats": none,
  "Engine#summary": none,
  "Tokenizer#encode": () => ["hello", { addSpecial: true }],
  "Tokenizer#decode": () => [[1, 2], { keepSpecial: true }],
  "Tokenizer#idOf": () => ["<end>"],
  "Tokenizer#isSpecial": () => [1],
  "Attention.create": ({ device }) => [device, { ...shape, valueDim: 8, rope, graph: graphSizes }],
  "Attention.createSync": ({ device, variant }) => [device, { ...shape, variant, lseBase: "2" }],
  "Attention#plan": ({ batch }) => [batch, { scale: 0.5, softCap: 0, windowLeft: 4 }],
  "Attention#lastPlan": none,
  "Attention#disposed": none,
  "Attention#[dispose]": none,
  "Attention#run": ({ attention, batch, q, out, lse }) => {
    if (!attention.disposed) attention.plan(batch);
    return [{ q, k: q, v: q, out, lse, batch, qScale: 2, kScale: 2, maskBits: null }];
  },
  "Attention#worthSharing": () => [64, 2, 2],
  alibiSlopes: () => [8],
  "PagedCache.create": ({ device }) => [
    device,
    { ...cacheOptions, planes: [{ name: "key", heads: 2, dim: 16, dtype: "f8e4m3" }] },
  ],
  "PagedCache#sequence": ({ index, tokens }) => [{ prefix: index.match(tokens) }],
  "PagedCache#reserve": ({ step, cache, sequence, other }) => {
    cache.rollback(step());
    return [[sequence, other], [2, 1], { padTo: 4, positions: [7, 8, 9] }];
  },
  "PagedCache#rollback": ({ step }) => [step()],
  "PagedCache#markWritten": ({ step }) => [step()],
  "PagedCache#sharePrefixes": ({ step, sequence, other }) => [
    step(),
    [sequence, other],
    () => true,
  ],
  "PagedCache#append": ({ step, q }) => [{ layer: 0, batch: step(), k: q, v: q }],
  "PagedCache#pageSize": none,
  "PagedCache#prefixIndex": none,
  "PagedCache#memoryStats": none,
  "PagedCache#disposed": none,
  "PagedCache#[dispose]": none,
  "PagedCache#plane": () => [0, "key"],
  "Device.open": () => ["cpu", { threads: 1, level: "baseline", memoryLimitBytes: 1e6 }],
  "Device#createStream": () => ["stream"],
  "Device#createEvent": () => ["event"],
  "Device#alloc": () => [64, "label", true],
  "Memory#hostBytes": none,
  "Memory#disposed": none,
  "Memory#[dispose]": none,
  "Device#upload": (world) => [address(world), new Uint8Array(16)],
  "Device#download": (world) => [address(world), new Trusted(16)],
  "Device#freezeMemory": () => [false],
  "Device#failure": none,
  "Device#memoryStats": none,
  "Device#disposed": none,
  "Device#[dispose]": none,
  "Device#capture": ({ device }) => [device.stream, () => {}, "label"],
  "Graph#replay": ({ device, step, append, captured }) => {
    const batch = step();
    append(batch);
    captured.plan(batch);
    return [device.stream];
  },
  "Graph#disposed": none,
  "Graph#[dispose]": none,
  "Graph#update": ({ recorded }) => [recorded()],
  "Stream.create": ({ device }) => [device, "label"],
  "Stream.wrap": ({ device, stream }) => [device, new Trusted(stream.handle)],
  "Stream#wait": none,
  "Stream#completed": none,
  "Stream#idle": none,
  "Stream#disposed": none,
  "Stream#[dispose]": none,
  "Stream#done": () => [{}],
  "Stream#waitFor": ({ event }) => [event],
  "Stream#copy": (world) => [address(world), address(world), new Trusted(16)],
  "Stream#fill": (world) => [address(world), 1, new Trusted(16)],
  "Event.create": ({ device }) => [device, "label"],
  "Event#record": ({ stream }) => [stream],
  "Event#reached": none,
  "Event#disposed": none,
  "Event#[dispose]": none,
  "Event#elapsedMs": ({ event }) => [event],
  createBatch: ({ batch }) => [
    {
      queryLengths: [2, 2],
      kvLengths: [2, 2],
      layout: batch.layout,
      padTo: 8,
      positions: [0, 1, 0, 1],
      slotMappings: [[0, 1, -1, 3]],
    },
  ],
  raggedLayout: () => [indptr(), indptr()],
  pagesLayout: () => [4, indptr(), Int32Array.of(0, 1), Int32Array.of(4, 8)],
  "new PrefixIndex": ({ pool }) => [pool],
  "PrefixIndex#match": ({ tokens }) => [tokens, 3],
  "PrefixIndex#insert": ({ tokens, sequence, step, append }) => {
    append(step());
    return [tokens, sequence, 2];
  },
  "PrefixIndex#evict": () => [1, 0],
  "PrefixIndex#stats": none,
  "PrefixIndex#clear": none,
  "PrefixIndex#[dispose]": none,
  "PrefixIndex#order": ({ sequence, other }) => [[sequence, other], new Int32Array(2)],
  "new SequencePool": () => [poolOptions],
  "SequencePool#create": ({ poolIndex, tokens }) => [{ prefix: poolIndex.match(tokens) }],
  "SequencePool#reserve": ({ poolSequence }) => [[poolSequence], [2], { padTo: 4 }],
  "SequencePool#pageSize": none,
  "SequencePool#maxSequences": none,
  "SequencePool#sequenceCount": none,
  "SequencePool#lastBatch": none,
  "SequencePool#rollback": ({ pool, poolSequence }) => [pool.reserve([poolSequence], [1])],
  "Sequence#length": none,
  "Sequence#pageCount": none,
  "Sequence#fork": none,
  "Sequence#free": none,
  "Sequence#[dispose]": none,
  "Sequence#pages": () => [0],
  "Sequence#truncate": () => [0],
  "Sequence#compact": ({ step, append }) => {
    append(step());
    return [[0, 1]];
  },
  blockMaskLayout: () => [blocks],
  tokenMaskLayout: () => [
    { queryIndptr: [0, 2], kvIndptr: [0, 3], mask: [1, 0, 1, 1, 1, 1], kvHeads: 1 },
  ],
  userPages: () => [
    {
      queryIndptr: [0, 2, 3],
      indptr: [0, 2, 3],
      indices: [0, 1, 2],
      lastPageLength: [1, 4],
      pageSize: 4,
      pageCount: 8,
      writes: true,
    },
  ],
  "PageLists.create": ({ device }) => [
    device,
    { pageSize: 4, pageCount: 8, maxBatch: 2, maxQueryTokens: 4, maxEntries: 16 },
  ],
  "PageLists#step": ({ device }) => [
    {
      queryIndptr: [0, 1, 2],
      indptr: [0, 1, 2],
      indices: Tensor.from(device, [1, 2], [2], "i32"),
      kvLengths: [4, 3],
      shared: [{ queryIndptr: [0, 2], indptr: [0, 1], indices: [3], lastPageLength: [4] }],
      writes: true,
      padTo: 4,
    },
  ],
  "PageLists#lastBatch": none,
  "PageLists#disposed": none,
  "PageLists#[dispose]": none,
  appendPages: ({ device, tensor }) => [
    {
      planes: [{ rows: tensor, pages: Tensor.zeros(device, [4, 4, 2], "f32"), scale: 2 }],
      slotMapping: Tensor.from(device, [0, 9], [2], "i32"),
      layout: "NHD",
      stream: device.stream,
    },
  ],
  matmul: ({ tensor, linear, weight }) => [
    tensor,
    linear,
    { bias: weight, activation: "silu", gated: false, residual: tensor, invariant: true },
  ],
  "Weight.dense": ({ tensor }) => [tensor],
  "Weight.fp8": ({ codes, scale }) => [codes, scale],
  "Weight.grouped": ({ grouped, groupScales }) => [grouped, groupScales, groupScales],
  "Weight#device": none,
  "Weight#disposed": none,
  "Weight#[dispose]": none,
  rmsNorm: ({ device, tensor, weight }) => [
    tensor,
    weight,
    { eps: 1e-5, zeroCentered: true, out: tensor, stream: device.stream },
  ],
  siluAndMul: ({ tensor, residual, device }) => [
    tensor,
    { up: residual, out: tensor, stream: device.stream },
  ],
  geluAndMul: ({ tensor, scale }) => [tensor, { dtype: "f8e5m2", scale }],
  geluTanhAndMul: ({ tensor, tokenScales, rowCount }) => [
    tensor,
    { dtype: "f8e4m3", tokenScales, rowCount },
  ],
  add: ({ tensor, residual, device }) => [tensor, residual, { out: tensor, stream: device.stream }],
  capLogits: ({ tensor, rowCount }) => [tensor, 30, { out: tensor, rowCount }],
  gatherRows: ({ tensor, rowCount }) => [tensor, rowCount, { factor: 2, dtype: "bf16" }],
  scatterRows: ({ tensor, indices, residual, rowCount }) => [
    tensor,
    indices,
    residual,
    { rowCount },
  ],
  argmax: ({ tensor, indices, rowCount }) => [tensor, { out: indices, rowCount }],
  addRmsNorm: ({ tensor, residual, weight, scale }) => [
    tensor,
    residual,
    weight,
    { eps: 1e-5, dtype: "f8e4m3", scale },
  ],
  layerNorm: ({ tensor, weight, tokenScales, rowCount }) => [
    tensor,
    weight,
    { eps: 1e-5, bias: weight, dtype: "i8", tokenScales, rowCount },
  ],
  mergeStates: ({ out, lse }) => [
    [
      { out, lse, lseBase: "e" },
      { out, lse, lseBase: "e" },
    ],
    { dtype: "bf16" },
  ],
  packBits: ({ device }) => [Tensor.zeros(device, [9], "bool"), { order: "big" }],
  segmentPackBits: ({ device }) => [
    Tensor.zeros(device, [9], "u8"),
    [0, 3, 9],
    { order: "little" },
  ],
  checkPlan: ({ plan, batch }) => [
    plan,
    batch,
    { queryHeads: 2, kvHeads: 2, valueDim: 16, processors: 1, classes: [...cpuClasses], costs },
  ],
  worthSharing: () => [costs, 64, 2, 2, 1],
  coverageOf: ({ plan, batch }) => [plan, batch],
  drawPlan: ({ plan }) => [plan, { processors: 2, title: "plan", width: 400, costs }],
  planTrace: ({ plan }) => [plan, { processors: 2, costs }],
  toDLPack: ({ tensor, stream }) => [tensor, { transfer: false, readOnly: true, stream }],
  fromDLPack: ({ device, tensor }) => [
    device,
    new Trusted(tensor.disposed ? 0 : flashbun.toDLPack(tensor)),
    { allowReadOnly: true },
  ],
  "Tensor.empty": ({ device }) => [device, [2, 2], "f32", "label"],
  "Tensor.zeros": ({ device }) => [device, [2, 2], "bf16"],
  "Tensor.from": ({ device }) => [device, [1, 2, 3, 4], [2, 2], "i64"],
  "Tensor.fromBits": ({ device }) => [device, new Uint16Array(4), [2, 2], "bf16"],
  "Tensor.randomNormal": ({ device }) => [device, [4], "f16", { seed: 1, mean: 2, deviation: 3 }],
  "Tensor.fromPointer": (world) => [
    world.device,
    address(world),
    [2, 2],
    "f32",
    { strides: [2, 1], keep: world.memory },
  ],
  "Tensor#slice": () => [0, 0, 1],
  "Tensor#select": () => [0, 1],
  "Tensor#permute": () => [1, 0],
  "Tensor#reshape": () => [4, 1],
  "Tensor#to": () => ["f16"],
  "Tensor#contiguous": none,
  "Tensor#toFloat64Array": none,
  "Tensor#toBytes": none,
  "Tensor#toTypedArray": none,
  "Tensor#disposed": none,
  "Tensor#[dispose]": none,
  "Tensor#copyFrom": ({ tensor, device }) => [tensor, device.stream],
  defineVariant: () => [variant],
  defineCudaVariant: () => [
    { name: "cuda", source: "float fb_logits() {}", hooks: ["logits"], softmax: false },
  ],
  "new Evaluator": ({ variant }) => [variant.hooks.logits],
  "Evaluator#run": () => [{ inputs: { x: 1 }, scalars: [1] }],
  "Evaluator#vector": () => [[1, 2], { inputs: { x: 1 } }],
  evaluate: ({ variant }) => [variant.hooks.logits, { inputs: { x: 1 } }],
  "variants.compose": ({ variant, masked }) => [[variant, masked]],
  "variants.flashSigmoid": () => [{ bias: -4 }],
  "variants.softCap": () => [{ cap: 30 }],
  "variants.slidingWindowWithSinks": () => [
    { window: 8, sinks: 2, rope: { dim: 16, interleaved: true } },
  ],
  "variants.prefixLm": () => [{ prefixes: [2, 3] }],
  "variants.documentMask": () => [{ causal: true, starts: () => [0, 4] }],
  "variants.blockMask": () => [{ block: 4, seen: [1, 0, 1, 1], columns: 2 }],
  "variants.dilated": () => [{ stride: 2, count: 4 }],
  "variants.qkNorm": () => [{ headDim: 16, epsilon: 1e-5 }],
  libraryPath: none,
  "variants.alibi": none,
  "variants.packedMask": none,
  "variants.logitBias": none,
  "variants.outputScale": none,
  "variants.dequantise": none,
  "variants.dumpLogits": none,
  inspectLibrary: ({ jobs }) => ["none.so", jobs, true],
  treemapPage: () => [[]],
  "new Pool": () => [0],
  "Pool#[dispose]": none,
  mergeProfiles: ({ profile }) => [profile, profile],
  subtractProfiles: ({ profile }) => [profile, profile],
  profiledLibrary: ({ profile }) => [profile, "id", "path"],
  parseProfile: () => [profile, "source"],
  formatProfile: ({ profile }) => [profile],
  traceCommand: () => [["none-such"], { host: "off" }],
  runShrunk: ({ profile }) => [["none-such"], { profile, arch: ["sm_90"], level: "arch" }],
  restoreFile: () => ["none.so", "none.side", "out.so"],
  shrinkLibrary: ({ jobs }) => ["none.so", "out.so", { arch: ["sm_90"], level: "arch" }, jobs],
  sidecarName: () => ["0123", "file"],
  verifyLibrary: () => ["none.so", "small.so", "none.side"],
};
