import { builtinVariant } from "../../src/variant/builtin.ts";
import { defineVariant } from "../../src/variant/define.ts";
import {
  alibi,
  blockMask,
  compose,
  dequantise,
  dilated,
  documentMask,
  flashSigmoid,
  logitBias,
  outputScale,
  packedMask,
  prefixLm,
  qkNorm,
  slidingWindowWithSinks,
  softCap,
} from "../../src/variant/library.ts";
import type { Case } from "./cases.ts";
import type { OracleRow } from "./oracle.ts";
import { projectionCases } from "./projections.ts";
import { hostTensor, numbersOf, type VariantCase } from "./variants.ts";
import { normalised, turn, turns } from "./vectors.ts";

/** A variant of the library: its meaning is written by hand, and options that it is used with. */
export interface LibraryCase extends VariantCase {
  name: string;
  over?: Partial<Case>;
}

/** Where documents start in each test: every 11 tokens, later by the request. */
const documentStarts = (request: number) => [0, 11 + request, 30 + request, 31 + request];
const documentOf = (request: number, position: number) =>
  documentStarts(request).findLastIndex((start) => start <= position);
const prefixOf = (request: number) => [9, 0, 40, 5][request % 4];

const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);

function attentionLike(): LibraryCase[] {
  return [
    {
      name: "FlashSigmoid",
      variant: flashSigmoid({ bias: -3 }),
      meaning: () => ({ softmax: false, logits: (x) => 1 / (1 + Math.exp(3 - x)) }),
    },
    {
      name: "soft cap",
      variant: softCap({ cap: 30 }),
      inputs: () => ({ cap: 1.5 }),
      meaning: () => ({ softmax: true, logits: (x) => 1.5 * Math.tanh(x / 1.5) }),
    },
    {
      name: "ALiBi",
      variant: alibi(),
      inputs: ({ queryHeads }, random) => ({
        slopes: hostTensor([queryHeads], () => 0.3 * random.next()),
      }),
      meaning: (inputs) => {
        const slopes = numbersOf(inputs, "slopes");
        const logits = (x: number, { head, query }: OracleRow, { key }: { key: number }) =>
          x + slopes[head] * (key - query);
        return { softmax: true, logits };
      },
    },
    {
      name: "logit bias",
      variant: logitBias(),
      inputs: ({ queryHeads, tokens, kvLengths }, random) => ({
        bias: hostTensor([queryHeads, Math.max(tokens, 1), Math.max(1, ...kvLengths)], () =>
          random.normal(),
        ),
      }),
      meaning: (inputs) => {
        const { shape, data } = inputs["bias"] as { shape: number[]; data: Float64Array };
        const at = ({ head, queryToken }: OracleRow, key: number) =>
          data[(head * shape[1] + queryToken) * shape[2] + key];
        return { softmax: true, logits: (x, row, { key }) => x + at(row, key) };
      },
    },
  ];
}

function masks(): LibraryCase[] {
  const inWindow = (query: number, key: number) => key <= query && (query - key <= 12 || key < 3);
  return [
    {
      name: "window with sinks",
      over: { causal: false },
      variant: slidingWindowWithSinks({ window: 12, sinks: 3 }),
      meaning: () => ({ softmax: true, mask: ({ query }, { key }) => inWindow(query, key) }),
    },
    {
      name: "window with sinks, fused rope",
      over: { causal: false },
      variant: slidingWindowWithSinks({ window: 12, sinks: 3, rope: { dim: 16 } }),
      inputs: ({ kvLengths }) => ({ table: turns(Math.max(1, ...kvLengths), 8) }),
      meaning: (inputs) => {
        const table = numbersOf(inputs, "table");
        return {
          softmax: true,
          query: (x, { query }) => turn(x, table, query, 8),
          key: (x, { key }) => turn(x, table, key, 8),
          mask: ({ query }, { key }) => inWindow(query, key),
        };
      },
    },
    {
      name: "dilated",
      over: { causal: false },
      variant: dilated({ stride: 5, count: 7 }),
      meaning: () => ({
        softmax: true,
        mask: ({ query }, { key }) => key <= query && query - key < 35 && (query - key) % 5 === 0,
      }),
    },
    {
      name: "prefix LM",
      over: { causal: false },
      variant: prefixLm({ prefixes: [0, 1, 2, 3, 4, 5, 6, 7].map(prefixOf) }),
      inputs: ({ queryLengths }) => ({
        prefixes: hostTensor([Math.max(1, queryLengths.length)], prefixOf),
      }),
      meaning: () => ({
        softmax: true,
        mask: ({ query, request }, { key }) => key <= query || key < prefixOf(request),
      }),
    },
    ...[false, true].map((causal) => ({
      name: causal ? "documents, causal" : "documents",
      over: { causal: false },
      variant: documentMask({ causal, starts: documentStarts }),
      inputs: ({ kvLengths }: { kvLengths: number[] }) => {
        const width = Math.max(1, ...kvLengths);
        const shape = [Math.max(1, kvLengths.length), width];
        const of = (i: number) => documentOf(Math.floor(i / width), i % width);
        return { documents: hostTensor(shape, of) };
      },
      meaning: () => ({
        softmax: true,
        mask: ({ query, request }: OracleRow, { key }: { key: number }) =>
          documentOf(request, query) === documentOf(request, key) && (!causal || key <= query),
      }),
    })),
    packedMaskCase(),
    blockMaskCase(),
  ];
}

function packedMaskCase(): LibraryCase {
  return {
    name: "packed mask",
    variant: packedMask(),
    inputs: ({ queryLengths, kvLengths }, random) => {
      const bytes = queryLengths.map((queries, r) => Math.ceil((queries * kvLengths[r]) / 8));
      const start = (request: number) => 2 + sum(bytes.slice(0, request));
      return {
        bits: hostTensor([start(bytes.length) + 1], () => random.integer(0, 255)),
        offsets: hostTensor([Math.max(1, bytes.length)], start),
      };
    },
    meaning: (inputs) => {
      const [bits, offsets] = [numbersOf(inputs, "bits"), numbersOf(inputs, "offsets")];
      const bit = ({ queryIndex, kvLength, request }: OracleRow, key: number) => {
        const at = queryIndex * kvLength + key;
        return (bits[offsets[request] + Math.floor(at / 8)] >> (at % 8)) & 1;
      };
      return { softmax: true, mask: (row, { key }) => bit(row, key) === 1 };
    },
  };
}

function blockMaskCase(): LibraryCase {
  const columns = 512;
  const seen = Uint8Array.from({ length: columns * columns }, (_, i) =>
    Number(((i * 2654435761) >>> 8) % 3 === 0),
  );
  return {
    name: "block mask",
    over: { causal: false },
    variant: blockMask({ block: 16, columns, seen }),
    inputs: () => ({ blocks: hostTensor([columns, columns], (i) => seen[i]) }),
    meaning: () => ({
      softmax: true,
      mask: ({ query }, { key }) =>
        seen[Math.floor(query / 16) * columns + Math.floor(key / 16)] !== 0,
    }),
  };
}

function vectors(): LibraryCase[] {
  const norm: VariantCase = {
    variant: qkNorm({ headDim: 32 }),
    inputs: ({ headDim }, random) => ({
      queryWeights: hostTensor([headDim], () => 0.5 + random.next()),
      keyWeights: hostTensor([headDim], () => 0.5 + random.next()),
    }),
    meaning: (inputs) => ({
      softmax: true,
      query: (x) => normalised(x, numbersOf(inputs, "queryWeights")),
      key: (x) => normalised(x, numbersOf(inputs, "keyWeights")),
    }),
  };
  const scale: VariantCase = {
    variant: outputScale(),
    inputs: ({ queryHeads }, random) => ({
      factors: hostTensor([queryHeads], () => random.normal()),
    }),
    meaning: (inputs) => ({
      softmax: true,
      output: (x, { head }) => x.map((value) => value * numbersOf(inputs, "factors")[head]),
    }),
  };
  return [
    { name: "QK norm", ...norm },
    { name: "output scale", ...scale },
    {
      name: "QK norm and output scale, composed",
      variant: compose([norm.variant, scale.variant]),
      inputs: (sizes, random) => ({
        ...norm.inputs!(sizes, random),
        ...scale.inputs!(sizes, random),
      }),
      meaning: (inputs) => ({
        ...scale.meaning!(inputs),
        ...norm.meaning!(inputs),

        output: scale.meaning!(inputs).output,
      }),
    },
    {
      name: "fp8 keys and values by token",
      over: { kvDtype: "f8e4m3" },
      variant: dequantise(),
      inputs: ({ slots, kvHeads }, random) => ({
        keyScales: hostTensor([slots, kvHeads], () => 0.5 + random.next()),
        valueScales: hostTensor([slots, kvHeads], () => 0.5 + random.next()),
      }),
      meaning: (inputs) => {
        const by = (name: string) => (x: Float64Array, at: { slot: number; kvHead: number }) => {
          const scales = inputs[name] as { shape: number[]; data: Float64Array };
          return x.map((value) => value * scales.data[at.slot * scales.shape[1] + at.kvHead]);
        };
        return { softmax: true, key: by("keyScales"), value: by("valueScales") };
      },
    },
    {
      name: "fp8 keys and values by token and group of elements",
      over: { kvDtype: "f8e4m3" },
      variant: dequantise({ group: 24 }),
      inputs: ({ slots, kvHeads }, random) => ({
        keyScales: hostTensor([slots, kvHeads, 8], () => 0.5 + random.next()),
        valueScales: hostTensor([slots, kvHeads, 8], () => 0.5 + random.next()),
      }),
      meaning: (inputs) => {
        const by = (name: string) => (x: Float64Array, at: { slot: number; kvHead: number }) => {
          const { shape, data } = inputs[name] as { shape: number[]; data: Float64Array };
          const first = (at.slot * shape[1] + at.kvHead) * shape[2];
          return x.map((value, element) => value * data[first + Math.floor(element / 24)]);
        };
        return { softmax: true, key: by("keyScales"), value: by("valueScales") };
      },
    },
  ];
}

/** What the language can say that no variant of the library does. */
function others(): LibraryCase[] {
  return [
    {
      name: "weights with an output hook and no softmax",
      variant: defineVariant({
        name: "relu",
        logits: (x) => x.max(0).mul(x),
        output: (x, { queryLength, kvLength }) =>
          x.div(kvLength.add(1).toF32()).add(queryLength.toF32().mul(0.01)),
        softmax: false,
      }),
      meaning: () => ({
        softmax: false,
        logits: (x) => Math.max(x, 0) * x,
        output: (x, { queryLength, kvLength }) =>
          x.map((value) => value / (kvLength + 1) + 0.01 * queryLength),
      }),
    },
    {
      name: "an output that knows its log-sum-exp",
      variant: defineVariant({ name: "gate", output: (x, { lse }) => x.mul(lse.sigmoid()) }),
      meaning: () => ({
        softmax: true,
        output: (x, _, lse) => x.map((value) => value / (1 + Math.exp(-lse))),
      }),
    },
    {
      name: "values that change by place, logits by parity",
      variant: defineVariant({
        name: "places",
        value: (x, { key, element, kvHead }) =>
          x.add(key.mod(7).add(element.and(3)).add(kvHead).toF32().mul(0.1)),
        logits: (x, { query, key, queryIndex }) =>
          query.sub(key).add(queryIndex).and(1).eq(0).select(x, x.mul(0.5).sub(1)),
      }),
      meaning: () => ({
        softmax: true,
        value: (x, { key, kvHead }) =>
          x.map((value, d) => value + 0.1 * ((key % 7) + (d & 3) + kvHead)),
        logits: (x, { query, queryIndex }, { key }) =>
          ((query - key + queryIndex) & 1) === 0 ? x : 0.5 * x - 1,
      }),
    },
    {
      name: "the options' own variants",
      variant: builtinVariant({ softCap: true, alibi: true, rope: { dim: 16 } }),
      inputs: ({ queryHeads, kvLengths }, random) => ({
        softCap: 20,
        alibiSlopes: hostTensor([queryHeads], () => 0.2 * random.next()),
        ropeTable: turns(Math.max(1, ...kvLengths), 8),
      }),
      meaning: (inputs) => {
        const [slopes, table] = [numbersOf(inputs, "alibiSlopes"), numbersOf(inputs, "ropeTable")];
        return {
          softmax: true,
          query: (x, { query }) => turn(x, table, query, 8),
          key: (x, { key }) => turn(x, table, key, 8),
          logits: (x, { head, query }, { key }) =>
            20 * Math.tanh(x / 20) + slopes[head] * (key - query),
        };
      },
    },
  ];
}

/** Every variant of the library, and a few more, with meanings that the language has no part in. */
export const libraryCases: readonly LibraryCase[] = [
  ...attentionLike(),
  ...masks(),
  ...vectors(),
  ...projectionCases,
  ...others(),
];
