/** Objects of every public class, alive and gone, and right arguments of every public call. */
import * as flashbun from "../../src/index.ts";
import * as debloat from "../../src/debloat/index.ts";
import { modelWorld } from "./model.ts";

const {
  Attention,
  createBatch,
  Device,
  Evaluator,
  PagedCache,
  PageLists,
  PrefixIndex,
  raggedLayout,
  SequencePool,
  Tensor,
  Weight,
} = flashbun;

const listSizes = { pageSize: 4, pageCount: 8, maxBatch: 2, maxQueryTokens: 4, maxEntries: 16 };
const graph = { maxBatch: 2, maxQueryTokens: 4, maxColumns: 8 };

/** One object of each public class, by its name, and what calls need besides. */
export async function makeWorld(kind: "cpu" | "cuda:0" = "cpu") {
  const dtype = kind === "cpu" ? "f32" : "f16";
  const shape = { layers: 1, queryHeads: 2, kvHeads: 2, headDim: 16, dtype } as const;
  const threads = kind === "cpu" ? { threads: 1 } : {};
  const device = await Device.open(kind, { ...threads, memoryLimitBytes: 64 << 20 });
  const tensor = Tensor.from(device, [1, 2, 3, 4], [2, 2], "f32");
  const q = Tensor.zeros(device, [4, 2, 16], dtype);
  const lse = Tensor.zeros(device, [4, 2], "f32");
  const out = Tensor.zeros(device, [4, 2, 16], dtype);
  const attention = await Attention.create(device, shape);
  const captured = await Attention.create(device, { ...shape, graph });
  const cache = PagedCache.create(device, { ...shape, pages: 16, pageSize: 4, maxSequences: 8 });
  const sequence = cache.sequence();
  const other = cache.sequence();
  const tokens = Int32Array.from([1, 2, 3, 4]);
  const index = cache.prefixIndex();
  /** The last step is over, and a new one reserved. */
  const step = () => {
    const last = cache.pool.lastBatch;
    if (last?.stale === false) cache.rollback(last);
    for (const each of [sequence, other]) if (each.length > 24) each.truncate(0);
    const batch = cache.reserve([sequence, other], [2, 1]);
    if (!batch.ok) throw batch.error;
    return batch;
  };
  const append = (batch: flashbun.Batch) => cache.append({ layer: 0, batch, k: q, v: q });
  append(step());
  captured.plan(cache.pool.lastBatch!);
  captured.run({ layer: 0, q, cache, out });
  const recorded = () =>
    device.capture(device.stream, () => captured.run({ layer: 0, q, cache, out }));
  const layout = raggedLayout([0, 2, 4], [0, 2, 4]);
  const batch = createBatch({ queryLengths: [2, 2], kvLengths: [2, 2], layout });
  const variant = flashbun.defineVariant({ name: "scaled", logits: (x) => x.mul(2) });
  const pool = new SequencePool({ pageSize: 4, maxSequences: 4, groups: [{ pages: 8 }] });
  const stream = device.createStream();
  const event = device.createEvent();
  event.record(stream);
  stream.wait();
  return {
    device,
    tensor,
    q,
    lse,
    out,
    attention,
    cache,
    sequence,
    other,
    tokens,
    index,
    step,
    append,
    batch,
    plan: attention.plan(batch),
    lists: PageLists.create(device, listSizes),
    variant,
    pool,
    stream,
    event,
    memory: device.alloc(64, "memory"),
    graph: recorded(),
    recorded,
    captured,
    ...operandsOf(device),
    ...tokensOf(device),
    masked: flashbun.variants.packedMask(),
    evaluator: new Evaluator(variant.hooks.logits!),
    poolIndex: new PrefixIndex(pool),
    poolSequence: pool.create(),
    profile: debloat.parseProfile(profile, "profile"),
    jobs: new debloat.Pool(0),
    model: await modelWorld(),
  };
}

/** What operators take besides the tensors that all have. */
function operandsOf(device: flashbun.Device) {
  return {
    weight: Tensor.zeros(device, [2], "f32"),
    residual: Tensor.zeros(device, [2, 2], "f32"),
    scale: Tensor.from(device, [1], [1], "f32"),
    tokenScales: Tensor.zeros(device, [2], "f32"),
    indices: Tensor.from(device, [1, 0], [2], "i32"),
    rowCount: Tensor.from(device, [2], [1], "i32"),
    linear: Weight.dense(Tensor.from(device, [1, 2, 3, 4], [2, 2], "f32")),
    stack: Weight.dense(Tensor.zeros(device, [2, 2, 2], "f32")),
    narrow: Weight.dense(Tensor.zeros(device, [2, 2, 1], "f32")),
    routing: flashbun.ExpertRouting.create(device, 2, 1, 2),
    codes: Tensor.zeros(device, [2, 2], "f8e4m3"),
    grouped: Tensor.zeros(device, [2, 16], "u8"),
    groupScales: Tensor.zeros(device, [2, 1], "f16"),
    rope: flashbun.Rope.create(device, 16),
    positions: Tensor.zeros(device, [4], "i32"),
  };
}

/** What operators that choose tokens take. */
function tokensOf(device: flashbun.Device) {
  return {
    ids: Tensor.zeros(device, [2], "i32"),
    drafts: Tensor.zeros(device, [2, 2], "i32"),
    targets: Tensor.zeros(device, [2, 3], "i32"),
    targetProbs: Tensor.zeros(device, [2, 3, 2], "f32"),
    draftProbs: Tensor.zeros(device, [2, 2, 2], "f32"),
  };
}

/** The objects that calls are made with. */
export type World = Awaited<ReturnType<typeof makeWorld>>;

/** The text of a profile of nothing. */
export const profile = JSON.stringify({
  version: 1,
  runs: [],
  libraries: {},
  unresolved: { kernels: [], cubins: [] },
});

/** Frees what a caller would free, each by itself; what is left of it refuses everything. */
export function disposeObjects(world: World): void {
  const { tensor, q, lse, out, stream, event, attention, cache, memory, graph, index } = world;
  world.lists[Symbol.dispose]();
  for (const each of [world.sequence, world.other, world.poolSequence]) each.free();
  for (const each of [tensor, q, lse, out, stream, event, attention, memory, graph, index, cache])
    each[Symbol.dispose]();
}

/** Instances of the public classes by name; the methods are called on them. */
export function objectsOf(world: World): Record<string, unknown> {
  return {
    ApiServer: world.model.server,
    Attention: world.attention,
    ChatTemplate: world.model.engine.chatTemplate,
    Device: world.device,
    Encoder: world.model.encoder,
    Engine: world.model.engine,
    Evaluator: world.evaluator,
    Event: world.event,
    ExpertRouting: world.routing,
    Graph: world.graph,
    Memory: world.memory,
    PagedCache: world.cache,
    PageLists: world.lists,
    Pool: world.jobs,
    PrefixIndex: world.index,
    Rope: world.rope,
    Sequence: world.sequence,
    SequencePool: world.pool,
    Stream: world.stream,
    Tensor: world.tensor,
    Tokenizer: world.model.engine.tokenizer,
    Weight: world.linear,
  };
}
