/**
 * The library behind shim.py: reads a call a line from standard input, finds its tensors in the
 * shared file that the call names, runs it on the CPU device and answers with a line. What it
 * writes lies in the file.
 */
import { ptr } from "bun:ffi";
import {
  alibiSlopes,
  appendPages,
  Attention,
  type AttentionOptions,
  type Batch,
  blockMaskLayout,
  type BlockMaskOptions,
  createBatch,
  Device,
  type DType,
  mergeStates,
  packBits,
  PageLists,
  type PageStepOptions,
  raggedLayout,
  type RunTensors,
  segmentPackBits,
  Tensor,
  tokenMaskLayout,
  type TokenMaskOptions,
} from "../../src/index.ts";

/** Bytes `at` of the file on, strides in elements. */
interface Place {
  dtype: DType;
  shape: number[];
  strides: number[];
  at: number;
}

interface Call {
  file: string;
  op: string;
  tensors: Record<string, Place>;
  options: AttentionOptions;
  settings: Record<string, number>;
  layout: Layout;
  numbers: Record<string, number[]>;
}

type Layout =
  | { kind: "ragged"; queryIndptr: number[]; kvIndptr: number[] }
  | { kind: "pages"; pageSize: number; pageCount: number; step: PageStepOptions }
  | { kind: "blocks"; queries: number; keys: number; mask: BlockMaskOptions }
  | { kind: "tokens"; queries: number; keys: number; mask: TokenMaskOptions };

const device = await Device.open("cpu");
const attentions = new Map<string, Attention>();
const lists = new Map<string, PageLists>();
let mapped: { file: string; bytes: Uint8Array } | undefined;

function tensorsOf({ file, tensors }: Call): Record<string, Tensor> {
  if (mapped?.file !== file) mapped = { file, bytes: Bun.mmap(file, { shared: true }) };
  const { bytes } = mapped;
  return Object.fromEntries(
    Object.entries(tensors).map(([name, { dtype, shape, strides, at }]) => {
      const view = Tensor.fromPointer(device, ptr(bytes) + at, shape, dtype, {
        strides,
        keep: bytes,
      });
      return [name, view];
    }),
  );
}

function batchOf(layout: Layout): Batch {
  if (layout.kind === "ragged") {
    const { queryIndptr, kvIndptr } = layout;
    const queryLengths = queryIndptr.slice(1).map((end, i) => end - queryIndptr[i]);
    return createBatch({ queryLengths, layout: raggedLayout(queryIndptr, kvIndptr) });
  }
  if (layout.kind === "pages") {
    const { pageSize, pageCount, step } = layout;
    const entries = [...(step.shared ?? []), step].map(
      ({ indices }) => (indices as number[]).length,
    );
    const queries = step.queryIndptr as number[];
    const sizes = {
      pageSize,
      pageCount,
      maxBatch: queries.length,
      maxQueryTokens: queries[queries.length - 1] + 1,
      maxEntries: entries.reduce((sum, count) => sum + count, 1),
    };
    const key = JSON.stringify(sizes);
    if (!lists.has(key)) lists.set(key, PageLists.create(device, sizes));
    return lists.get(key)!.step({ ...step, writes: false });
  }
  const sizes = { queryLengths: [layout.queries], kvLengths: [layout.keys] };
  if (layout.kind === "blocks")
    return createBatch({ ...sizes, layout: blockMaskLayout(layout.mask) });
  return createBatch({ ...sizes, layout: tokenMaskLayout(layout.mask) });
}

function attentionOf(options: AttentionOptions): Attention {
  const key = JSON.stringify(options);
  let attention = attentions.get(key);
  if (attention === undefined)
    attentions.set(key, (attention = Attention.createSync(device, options)));
  return attention;
}

const operations: Record<string, (call: Call, tensors: Record<string, Tensor>) => void> = {
  attention({ options, settings, layout }, tensors) {
    const attention = attentionOf(options);
    const { qScale = 1, kScale, vScale } = settings;
    attention.plan(batchOf(layout));
    const slopes = options.alibi
      ? Tensor.from(device, alibiSlopes(options.queryHeads), [options.queryHeads], "f32")
      : undefined;
    const order = (settings.hnd ? { layout: "HND" } : {}) as Partial<RunTensors>;
    attention.run({
      ...(tensors as unknown as RunTensors),
      ...order,
      qScale,
      kScale,
      vScale,
      alibiSlopes: slopes,
    });
  },
  append({ settings }, tensors) {
    const order = settings.hnd ? ({ layout: "HND" } as const) : {};
    const { requests, positions, pageTable, indptr } = tensors;
    const planes = Object.keys(tensors)
      .filter((name) => name.startsWith("rows"))
      .map((name) => ({ rows: tensors[name], pages: tensors[name.replace("rows", "pages")] }));
    appendPages({ planes, requests, positions, pageTable, indptr, ...order });
  },
  merge(_, tensors) {
    const { count } = {
      count: Object.keys(tensors).filter((name) => name.startsWith("lse")).length,
    };
    const states = Array.from({ length: count }, (_, i) => ({
      out: tensors[`out${i}`],
      lse: tensors[`lse${i}`],
      lseBase: "2" as const,
    }));
    mergeStates(states, { out: tensors.to, lse: tensors.toLse, mask: tensors.mask });
  },
  stack(_, { out, lse, to, toLse }) {
    mergeStates({ out, lse, lseBase: "2" }, { out: to, lse: toLse });
  },
  pack({ settings, numbers }, { bools, bits }) {
    const order = settings.big ? ("big" as const) : ("little" as const);
    const packed =
      numbers.indptr === undefined
        ? packBits(bools, { order })
        : segmentPackBits(bools, numbers.indptr, { order }).bits;
    bits.copyFrom(packed);
  },
};

for await (const line of console) {
  const call = JSON.parse(line) as Call;
  try {
    const tensors = tensorsOf(call);
    operations[call.op](call, tensors);
    await device.stream.done();
    for (const tensor of Object.values(tensors)) tensor[Symbol.dispose]();
    console.log(JSON.stringify({ ok: true }));
  } catch (error) {
    console.log(
      JSON.stringify({ error: (error as Error).name, message: (error as Error).message }),
    );
  }
}
