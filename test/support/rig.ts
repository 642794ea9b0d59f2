import { Attention } from "../../src/attention/attention.ts";
import type { KernelFamily } from "../../src/attention/families/family.ts";
import type { AttentionOptions } from "../../src/attention/options.ts";
import type { RunTensors } from "../../src/attention/tensors.ts";
import type { Device } from "../../src/device/device.ts";
import { type Batch } from "../../src/kv/batch.ts";
import { ropeFrequencies } from "../../src/ops/rope.ts";
import { attentionFactorOf } from "../../src/ops/rope-scaling.ts";
import { decode, type DType, dtypeBytes, isFp8, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { withTail, withValuePages } from "./apart.ts";
import { CapturedRun } from "./captured.ts";
import { type Case, graphSizesOf, outDimOf, queryDimOf, tailDim } from "./cases.ts";
import { expectState } from "./compare.ts";
import { concatenate, indptrOf, normals, poisoned } from "./numbers.ts";
import type { OracleInput, Rounding } from "./oracle.ts";
import { type Random, seeded } from "./random.ts";
import { caseOn } from "./targets.ts";
import { expectedOf } from "./tolerance.ts";
import { evaluated, type HostInputs, inputsOf, uploadInputs } from "./variants.ts";

/** One request's numbers on the host, as the kernels see them: rounded to their dtypes. */
export interface HostRequest {
  /** [queries, queryHeads, headDim] */
  q: Float64Array;
  /** [keys, kvHeads, headDim] and [keys, kvHeads, valueDim] */
  k: Float64Array;
  v: Float64Array;
  /** Page * pageSize + offset of each key (ragged: its token), for scales by token. */
  places?: Int32Array;
  queryPositions?: ArrayLike<number>;
  keyPositions?: ArrayLike<number>;
  visible?: (query: number, kvHead: number, key: number) => boolean;
}

type ScaleName = "qScale" | "outScale" | "kScale" | "vScale";
type Extra = "alibiSlopes" | "sinkLogits" | "maskBits" | "maskIndptr";

/** The options of Attention that a case asks for. */
export function optionsOf(c: Case): AttentionOptions {
  const { queryHeads, kvHeads, headDim, valueDim, dtype, kvDtype, outDtype } = c;
  const { causal, windowLeft, softCap, alibi, sinks, mask, lseBase, finalize } = c;
  return {
    queryHeads,
    kvHeads,
    headDim,
    valueDim,
    dtype,
    kvDtype,
    outDtype,
    causal,
    windowLeft,
    softCap,
    alibi,
    sinks,
    mask,
    lseBase,
    finalize,
    batchInvariant: c.batchInvariant,
    variant: c.variant?.variant,
    ...(c.latent ? { keyPlane: "latent", valuePlane: "latent" } : {}),
    ...(c.scales === "token" ? { tokenScales: true } : {}),
    ...(c.keyPositions ? { keyPositions: true } : {}),
    ...(c.tokenScales === undefined ? {} : { tokenScales: c.tokenScales }),
    ...(c.scale === 0 || c.atPlan ? {} : { scale: c.scale }),
    ...(c.atPlan ? { windowLeft: -1, softCap: c.softCap * 2 } : {}),
    ...(c.rope === undefined ? {} : { rope: c.rope }),
    ...(c.fastAccumulation ? { fastAccumulation: true } : {}),
    ...(c.deviceLengths ? { deviceLengths: true } : {}),
    ...(c.keyTail ? { keyTail: tailDim(c) } : {}),
    ...(c.valuePages ? { valuePages: true } : {}),
    ...(c.raggedRows ? { raggedRows: true } : {}),
    ...(c.graph ? { graph: graphSizesOf(c) } : {}),
  };
}

/** What the case's plan says. The run's query scale is 2, so that half of it is left. */
function settingsOf({ windowLeft, softCap, scale, headDim }: Case) {
  return { windowLeft, softCap, scale: (scale === 0 ? 1 / Math.sqrt(headDim) : scale) / 2 };
}

const odd = [NaN, NaN, Infinity, -Infinity];

/** Lengths known only on the device, by request. */
export interface Clamps {
  kv?: number[];
  queries?: number[];
}

/** An infinite number becomes the largest of fp8, beside which others drown in f32's error. */
function finiteIn<T extends Float32Array | Float64Array>(dtype: DType, rows: T): T {
  return isFp8(dtype) ? (rows.map((x) => (Math.abs(x) === Infinity ? NaN : x)) as T) : rows;
}

/** Some keys less than the batch says, where lengths are known only on the device. */
function clampsOf(c: Case, requests: readonly HostRequest[]): Clamps {
  if (!c.deviceLengths) return {};
  const row = c.kvHeads * c.headDim;
  return { kv: requests.map(({ k }) => Math.max(0, k.length / row - 5)) };
}

/** Families to choose kernels from. */
export type Families = readonly KernelFamily[];

/** An attention object with what is needed to check its runs against the oracle. */
export class Rig implements Disposable {
  readonly attention: Attention;
  readonly random: Random;

  readonly c: Case;
  /** Scales that are numbers: those of the first run, which a graph keeps. */
  readonly #numbers: Partial<Record<ScaleName, number>> = {};
  #captured: CapturedRun | undefined;

  constructor(
    readonly device: Device,
    wanted: Case,
    over: Partial<AttentionOptions> = {},
    families?: Families,
  ) {
    const c = (this.c = caseOn(device, wanted));
    this.attention = Attention.createSync(device, { ...optionsOf(c), ...over }, families);
    this.random = seeded(c.seed);
  }

  /** Queries for `tokens` tokens. */
  queries(tokens: number): Float64Array {
    const { queryHeads, dtype } = this.c;
    const dim = queryDimOf(this.c);
    const rows = normals(this.random, tokens * queryHeads * dim, dtype);
    return finiteIn(dtype, this.#spoilt(rows, dim, 0.05));
  }

  /**
   * Keys or values of `tokens` tokens; a key in eight points along a query, so that it is found.
   */
  rows(tokens: number, dim: number, needles?: Float64Array): Float64Array {
    const { c, random } = this;
    const rows = normals(random, tokens * c.kvHeads * dim, "f32");
    if (needles !== undefined && needles.length > 0) {
      for (let row = 0; row < tokens * c.kvHeads; row++) {
        if (!random.chance(0.125)) continue;
        const query = random.integer(0, Math.floor(needles.length / dim) - 1);
        for (let d = 0; d < dim; d++) rows[row * dim + d] = needles[query * dim + d] * 0.7;
      }
    }
    const spoilt = this.#spoilt(rows, dim, needles === undefined ? 0.04 : 0.01);
    return roundTo(c.kvDtype, finiteIn(c.kvDtype, spoilt));
  }

  /** Values of the tokens whose keys these are. */
  values(tokens: number, keys: Float64Array): Float64Array {
    const { headDim, valueDim, kvHeads, latent } = this.c;
    if (!latent) return this.rows(tokens, valueDim);
    const rows = Array.from({ length: tokens * kvHeads }, (_, row) => row * headDim);
    return concatenate(rows.map((from) => keys.subarray(from, from + valueDim)));
  }

  /**
   * Plans and runs `batch`, then checks every request against the oracle, and that nothing past the
   * batch's tokens was written. A case of graphs captures the first run, and replays it here and
   * for the batches that follow. Returns the output's bytes.
   */
  check(
    batch: Batch,
    requests: readonly HostRequest[],
    source: Partial<RunTensors>,
    clamps: Clamps = clampsOf(this.c, requests),
  ): Uint8Array {
    const { c, device } = this;
    this.attention.plan(batch, c.atPlan ? settingsOf(c) : undefined);
    const [queryHeads, tokens] = [c.queryHeads, batch.tokenCount];
    const [queryDim, outDim] = [queryDimOf(c), outDimOf(c)];
    using q = this.upload(concatenate(requests.map((r) => r.q)), c.dtype, queryHeads, queryDim);
    using out = poisoned(device, [tokens + 2, queryHeads, outDim], c.outDtype);
    using lse = poisoned(device, [tokens + 2, queryHeads], "f32");
    const extras = this.#extras(requests, source);
    const variant = this.#variantOf(batch, requests, source);
    const lseOf = variant.softmax ? { lse } : {};
    const lengths = (values: number[] | undefined) =>
      values && Tensor.from(device, values, [values.length], "i32");
    using kvLengths = lengths(clamps.kv);
    using queryLengths = lengths(clamps.queries);
    const known = { kvLengths, queryLengths };
    const { variantInputs } = variant;
    // A tensor takes the place of the number.
    const said = c.atPlan && extras.tensors.qScale === undefined ? { qScale: 2 } : {};
    const inputs = { ...extras.tensors, variantInputs, ...known, ...said };
    const owned: Tensor[] = [];
    let places: Partial<RunTensors> = source;
    if (c.keyTail && source.k != null) {
      const split = withTail(c, places);
      owned.push(...split.owned);
      const { owned: _, ...tensors } = split;
      places = tensors;
    }
    if (c.valuePages) {
      const { owned: own, vScale, ...tensors } = withValuePages(batch, places, inputs.vScale);
      owned.push(...own);
      places = tensors;
      inputs.vScale = vScale ?? undefined;
    }
    const tensors = { q, out, ...lseOf, ...places, ...inputs };
    // Only steps of a cache or of page lists can be captured.
    if (c.graph === undefined || batch.owner === null) this.attention.run(tensors);
    else {
      const keysMost = Math.max(...c.kvLengths) + Math.max(...c.queryLengths);
      (this.#captured ??= new CapturedRun(this.attention, keysMost)).run(tensors);
    }
    for (const tensor of owned) tensor[Symbol.dispose]();
    const bytes = out.toBytes();
    const outputs = decode(c.outDtype, bytes);
    const sums = lse.toFloat64Array();
    for (const tensor of Object.values(extras.tensors))
      if (typeof tensor === "object") tensor[Symbol.dispose]();
    for (const tensor of variant.owned) tensor[Symbol.dispose]();
    const rows = tokens * queryHeads;
    if (![...outputs.subarray(rows * outDim), ...sums.subarray(rows)].every(Number.isNaN))
      throw new Error("rows past the batch's tokens were written");
    for (let r = 0, token = 0; r < requests.length; r++) {
      const queries = requests[r].q.length / (queryHeads * queryDim);
      const whole = { ...extras.inputs[r], ...variant.inputOf(r, token) };
      const input = clamp(whole, clamps.kv?.[r], clamps.queries?.[r]);
      const expected = expectedOf(input, c.outDtype);
      // Query rows that a clamp dropped hold 0 and -inf.
      const live = expected.lse.length;
      const from = token * queryHeads;
      const part = (x: Float64Array, dim: number) => x.subarray(from * dim, (from + live) * dim);
      try {
        const actual = {
          out: part(outputs, outDim),
          lse: variant.softmax ? part(sums, 1) : undefined,
        };
        expectState(actual, expected, queryHeads, outDim);
        const end = (token + queries) * queryHeads;
        const dead = outputs.subarray((from + live) * outDim, end * outDim);
        if (!dead.every((x) => x === 0)) throw new Error("a clamped query row is not 0");
        const deadSums = sums.subarray(from + live, end);
        if (!c.sinks && variant.softmax && !deadSums.every((x) => x === -Infinity))
          throw new Error("the LSE of a clamped query row is not -inf");
      } catch (cause) {
        throw new Error(`request ${r}: ${(cause as Error).message}`, { cause });
      }
      token += queries;
    }
    return bytes.subarray(0, rows * outDim * dtypeBytes(c.outDtype));
  }

  /** An element of some rows becomes NaN or infinite, where the case has such; never of most. */
  #spoilt<T extends Float32Array | Float64Array>(rows: T, dim: number, share: number): T {
    const { c, random } = this;
    const count = Math.min(3, (rows.length / dim) * share);
    for (let i = 0; c.notFinite && i < count; i++)
      if (random.chance(0.7)) rows[random.integer(0, rows.length - 1)] = random.pick(odd);
    return rows;
  }

  /** A tensor [tokens, heads, dim] of numbers. */
  upload(data: Float64Array, dtype: DType, heads: number, dim: number): Tensor {
    return Tensor.from(this.device, data, [data.length / (heads * dim), heads, dim], dtype);
  }

  [Symbol.dispose](): void {
    this.#captured?.[Symbol.dispose]();
    this.attention[Symbol.dispose]();
  }

  /** Inputs of the case's variant and what they mean to the oracle. */
  #variantOf(batch: Batch, requests: readonly HostRequest[], source: Partial<RunTensors>) {
    const { c, device, random } = this;
    const { variant: of } = c;
    if (of === undefined) return { softmax: true, owned: [], inputOf: () => ({}) };
    const k = source.cache?.plane(0, this.attention.options.keyPlane) ?? source.k!;
    const { queryHeads, kvHeads, headDim, valueDim } = c;
    const sizes = {
      queryHeads,
      kvHeads,
      headDim,
      valueDim,
      tokens: batch.tokenCount,
      slots: k.shape.length === 4 ? k.shape[0] * k.shape[1] : k.shape[0],
      queryLengths: requests.map(({ q }) => q.length / (queryHeads * queryDimOf(c))),
      kvLengths: requests.map((request) => request.k.length / (kvHeads * headDim)),
    };
    const inputs: HostInputs = inputsOf(of, sizes, random);
    const { given, owned } = uploadInputs(device, of.variant, inputs);
    const variant = of.meaning?.(inputs) ?? evaluated(of.variant, inputs);
    const inputOf = (request: number, firstToken: number): Partial<OracleInput> => {
      const { places: slots = [] } = requests[request];
      return { variant, place: { request, firstToken, slots } };
    };
    return { softmax: of.variant.softmax, variantInputs: given, owned, inputOf };
  }

  /** Tensors of the case's options and what they mean to the oracle. */
  #extras(requests: readonly HostRequest[], source: Partial<RunTensors>) {
    const { c, device, random } = this;
    const floats = (count: number) =>
      Float32Array.from({ length: count }, () => 0.5 + random.next());
    const tensors: Partial<Record<Extra, Tensor> & Record<ScaleName, Tensor | number>> = {};
    const common: Partial<OracleInput> = {};
    if (c.alibi) {
      common.alibiSlopes = this.#spoilt(
        floats(c.queryHeads).map((x) => 0.2 * x),
        1,
        0.1,
      );
      tensors.alibiSlopes = Tensor.from(device, common.alibiSlopes, [c.queryHeads], "f32");
    }
    if (c.sinks) {
      common.sinks = this.#spoilt(
        floats(c.queryHeads).map((x) => 4 * x - 3),
        1,
        0.1,
      );
      tensors.sinkLogits = Tensor.from(device, common.sinks, [c.queryHeads], "f32");
    }
    const masks = c.mask === "none" ? [] : requests.map((r) => this.#maskOf(r));
    if (c.mask !== "none") {
      const parts = masks.map((bits, r) => {
        const pairs = c.maskDtype === "bool" ? this.#pairsOf(requests[r]) : bits.length;
        return Float64Array.from({ length: pairs }, (_, i) =>
          c.maskDtype === "bool" ? (bits[i >> 3] >> (i & 7)) & 1 : bits[i],
        );
      });
      // The first request's mask starts at element 3.
      const starts = indptrOf([3, ...parts.map(({ length }) => length)]).slice(1, -1);
      const all = concatenate([new Float64Array(3), ...parts]);
      tensors.maskBits = Tensor.from(device, all, [all.length], c.maskDtype);
      tensors.maskIndptr = Tensor.from(device, starts, [starts.length], "i32");
    }
    const qScale = this.#queryScales(requests);
    tensors.qScale = qScale?.given;
    if (c.outScale > 0 && isFp8(c.outDtype)) {
      common.outScale = Math.fround(c.outScale);
      const isNumber = c.scales === "number";
      tensors.outScale = isNumber ? c.outScale : Tensor.from(device, [c.outScale], [1], "f32");
    }
    const kScale = this.#scaleOf("kScale", requests, source);
    const vScale = this.#scaleOf("vScale", requests, source);
    tensors.kScale = kScale?.given;
    tensors.vScale = vScale?.given;
    const inputs = requests.map((request, r) => ({
      ...this.#input(request),
      ...common,
      qScale: qScale && ((query: number, head: number) => qScale.at(r, query, head)),
      kScale: kScale && ((head: number, key: number) => kScale.at(r, head, key)),
      vScale: vScale && ((head: number, key: number) => vScale.at(r, head, key)),
      mask: c.mask === "none" ? undefined : { mode: c.mask, bits: masks[r] },
    }));
    return { tensors, inputs };
  }

  #input({ q, k, v, queryPositions, keyPositions, visible }: HostRequest): OracleInput {
    const { c } = this;
    const rope = c.rope && {
      frequencies: ropeFrequencies(c.rope, c.headDim),
      first: c.rope.first ?? 0,
      interleaved: c.rope.interleaved,
      factor: attentionFactorOf(c.rope.scaling) ** 2,
    };
    const rounding = this.device.kind === "cpu" ? undefined : gpuRounding(c, this.#fp8Products);
    return {
      q,
      k,
      v,
      queryPositions,
      keyPositions,
      visible,
      rope,
      rounding,
      queryHeads: c.queryHeads,
      kvHeads: c.kvHeads,
      keyDim: c.headDim,
      queryDim: queryDimOf(c),
      valueDim: c.valueDim,
      outDim: outDimOf(c),
      causal: c.causal,
      windowLeft: c.windowLeft,
      softCap: c.softCap,
      lseBase: c.lseBase,
      finalize: c.finalize,
      ...(c.scale === 0 ? {} : { scale: c.scale }),
    };
  }

  /** Pairs of a request that its mask speaks of. */
  #pairsOf({ q, k }: HostRequest): number {
    const { c } = this;
    const queries = q.length / (c.queryHeads * queryDimOf(c));
    const keys = k.length / (c.kvHeads * c.headDim);
    return queries * (c.mask === "all" ? keys : queries);
  }

  #maskOf(request: HostRequest): Uint8Array {
    const { random } = this;
    const bits = this.#pairsOf(request);
    const bytes = new Uint8Array(Math.ceil(bits / 8));
    for (let i = 0; i < bits; i++) if (random.chance(0.7)) bytes[i >> 3] |= 1 << (i & 7);
    return bytes;
  }

  /** Whether the last plan has products of fp8. */
  get #fp8Products(): boolean {
    const { launches } = this.attention.lastPlan!;
    return launches.some(({ kernelClass, grid }) => grid > 0 && /^hopper.fp8/.test(kernelClass));
  }

  /** Scales of fp8 queries, as a tensor and by request, query and head. */
  #queryScales(requests: readonly HostRequest[]) {
    const { device, random } = this;
    const { queryHeads, qScales, dtype, atPlan } = this.c;
    const factor = atPlan ? 2 : 1;
    if (qScales === "number") {
      const number = this.#numberOf("qScale");
      return { given: factor * number, at: () => number };
    }
    if (qScales === "none" || !isFp8(dtype)) return undefined;
    const lengths = requests.map(({ q }) => q.length / (queryHeads * queryDimOf(this.c)));
    const first = indptrOf(lengths);
    const byToken = qScales !== "tensor" && qScales !== "head";
    const byHead = qScales === "head" || qScales === "both";
    const heads = byHead ? queryHeads : 1;
    const tokens = byToken ? first.at(-1)! : 1;
    if (tokens === 0) return undefined;
    const signOf = (row: number) => (qScales === "signs" ? (row % 3) - 1 : 1);
    const values = Float32Array.from(
      { length: tokens * heads },
      (_, row) => factor * signOf(row) * (0.5 + random.next()),
    );
    const shape = byToken ? [tokens, heads] : [heads];
    const at = (request: number, query: number, head: number) => {
      const row = byToken ? first[request] + query : 0;
      return values[row * heads + (byHead ? head : 0)] / factor;
    };
    return { given: Tensor.from(device, values, shape, "f32"), at };
  }

  #numberOf(name: ScaleName): number {
    return (this.#numbers[name] ??= Math.fround(0.5 + this.random.next()));
  }

  #scaleOf(name: ScaleName, requests: readonly HostRequest[], source: Partial<RunTensors>) {
    const { c } = this;
    if (c.scales === "number") {
      const number = this.#numberOf(name);
      return { given: number, at: () => number };
    }
    const heads = c.kvHeads;
    const first = source.cache?.plane(0, this.attention.options.keyPlane) ?? source.k;
    const paged = first!.shape.length === 4;
    // Pages of the caller may have heads before tokens.
    const plane = paged ? [first!.shape[0], c.pageSize] : [1, first!.shape[0]];
    const shapes = {
      none: [],
      tensor: [1],
      head: [heads],
      request: [requests.length, heads],
      token: [...plane, heads],
    };
    if (c.scales === "none" || requests.length === 0) return undefined;
    const shape = shapes[c.scales];
    const count = shape.reduce((product, size) => product * size, 1);
    const values = Float32Array.from({ length: count }, () => 0.5 + this.random.next());
    // One infinite scale of many values may multiply their sum, which loses their signs: only NaN.
    if (c.notFinite && this.random.chance(0.3)) values[this.random.integer(0, count - 1)] = NaN;
    const given = Tensor.from(this.device, values, shape, "f32");
    const at = (request: number, head: number, key: number) => {
      if (c.scales === "tensor") return values[0];
      if (c.scales === "head") return values[head];
      if (c.scales === "request") return values[request * heads + head];
      return values[requests[request].places![key] * heads + head];
    };
    return { given, at };
  }
}

/**
 * Tensor cores take f16 or bf16: what the transform stage and the softmax make is rounded to it.
 * The Hopper kernels multiply fp8 by fp8, whose sums keep about 14 bits.
 */
function gpuRounding({ dtype, kvDtype }: Case, fp8Products: boolean): Rounding {
  if (fp8Products) return { probabilities: "f8e4m3", products: 2 ** -9 };
  const operands = !isFp8(dtype) ? dtype : isFp8(kvDtype) ? "f16" : kvDtype;
  return { transform: operands, probabilities: operands };
}

/** What clamps known only on the device leave of a request. */
function clamp(input: OracleInput, keys?: number, queries?: number): OracleInput {
  const { queryHeads, kvHeads, keyDim, valueDim } = input;
  const q = queries === undefined ? input.q : input.q.slice(0, queries * queryHeads * keyDim);
  if (keys === undefined) return { ...input, q };
  const k = input.k.slice(0, keys * kvHeads * keyDim);
  const mask = input.mask && { ...input.mask, keys: input.k.length / (kvHeads * keyDim) };
  return { ...input, q, k, mask, v: input.v.slice(0, keys * kvHeads * valueDim) };
}
