import { requireDevice } from "../device/context.ts";
import type { Device } from "../device/device.ts";
import type { Memory } from "../device/memory.ts";
import { Owner } from "../device/owner.ts";
import { OptionError } from "../errors.ts";
import { checkOptions, flag, integer, list, object, positive } from "../options.ts";
import { requireInteger } from "../require.ts";
import {
  attentionFactorOf,
  checkScaling,
  type RopeScaling,
  scaledFrequencies,
} from "./rope-scaling.ts";

/** Rotary position embedding (RoFormer, arXiv 2104.09864). */
export interface RopeOptions {
  /** Base of the frequencies; default 10000. */
  theta?: number;
  /** Elements of a head that rotate; default all from `first` on. Even. */
  dim?: number;
  /** The first of them; default 0. */
  first?: number;
  /** True: pairs (0, 1), (2, 3) ...; false: (i, i + dim / 2). */
  interleaved?: boolean;
  /** For lengths beyond those that a model was trained on. */
  scaling?: RopeScaling;
  /**
   * Multimodal sections (Qwen2-VL, arXiv 2409.12191): how many pairs turn by each axis of a token's
   * positions, such as [16, 24, 24] for time, height and width. For applyRope, not for attention.
   */
  sections?: readonly number[];
  /** True: pairs take turns at the axes (Qwen3-VL), those left over have the first. */
  interleavedSections?: boolean;
}

/** Most axes of positions. */
const axesMost = 4;
/** Longest head. */
const dimMost = 576;

/** What each of the options may be; checkRope looks at those of a scaling. */
export const ropeSchema = object(
  {
    theta: positive,
    dim: integer(2, dimMost),
    interleaved: flag,
    first: integer(0, dimMost - 2),
    scaling: { type: "object", description: "an object { kind, factor } and more by kind" },
    sections: list(integer(0, dimMost), "a list of numbers of pairs"),
    interleavedSections: flag,
  },
  [],
  "an object { theta, dim, first, interleaved, scaling, sections, interleavedSections }",
);

const defaultTheta = 10_000;

/**
 * Throws OptionError unless the options, each of them in its range, go together and fit a head of
 * `headDim` elements.
 */
export function checkRope(options: RopeOptions, headDim: number): void {
  const { scaling, theta = defaultTheta } = options;
  const { first, dim } = ropeRange(options, headDim);
  requireInteger("rope.first", first, 0, headDim - 2);
  requireInteger("rope.dim", dim, 2, headDim - first);
  if (dim % 2 !== 0) throw new OptionError("rope.dim", dim, "even", "rotation works on pairs.");
  if (scaling !== undefined) checkScaling(scaling, theta, dim / 2);
  // Numbers that are each in their range may still divide to infinity.
  if (!scaledFrequencies(scaling, theta, dim / 2).every(Number.isFinite)) {
    const fix = "give a theta and a factor nearer to 1.";
    throw new OptionError("rope", options, "of finite frequencies", fix);
  }
  checkSections(options, dim / 2);
}

function checkSections(
  { sections, interleavedSections = false }: RopeOptions,
  pairs: number,
): void {
  if (sections === undefined) {
    if (!interleavedSections) return;
    const fix = "give the sections too.";
    throw new OptionError("rope.interleavedSections", true, "false without sections", fix);
  }
  const axes = sections.length;
  const sum = sections.reduce((total, count) => total + count, 0);
  // The last pair that turns by an axis has to be one of the head's.
  const last = (count: number, axis: number) => (axis === 0 ? 0 : axis + axes * (count - 1));
  const reach = interleavedSections ? Math.max(...sections.map(last)) : 0;
  if (axes <= axesMost && sum === pairs && reach < pairs) return;
  const allowed = `1 to ${axesMost} numbers of pairs, ${pairs} together`;
  const fix = "say by which axis each pair turns.";
  throw new OptionError("rope.sections", sections, allowed, fix);
}

/** The elements [first, first + dim) of a head that rotate. */
export function ropeRange(
  { first = 0, dim }: RopeOptions,
  headDim: number,
): { readonly first: number; readonly dim: number } {
  return { first, dim: dim ?? headDim - first };
}

/** Inverse frequencies of the rotated pairs, [dim / 2], after scaling. */
export function ropeFrequencies(options: RopeOptions, headDim: number): Float64Array {
  const { theta = defaultTheta, scaling } = options;
  return scaledFrequencies(scaling, theta, ropeRange(options, headDim).dim / 2);
}

/**
 * What pairs turn by per position, int32 [pairs, 2]: whole turns in 2^-32 and, signed, 2^-64. Its
 * products with positions wrap around whole turns, so devices find the angle of any position in
 * integers. `pairs` is rounded up to whole vectors of a CPU; those past the last are 0.
 */
export function ropeRates(frequencies: Float64Array): Int32Array {
  const rates = new Int32Array(2 * pairVector * Math.ceil(frequencies.length / pairVector));
  frequencies.forEach((frequency, pair) => {
    const turns = frequency / (2 * Math.PI);
    const parts = BigInt(Math.round((turns - Math.floor(turns)) * 2 ** 64));
    const low = BigInt.asIntN(32, parts);
    rates[2 * pair] = Number(BigInt.asIntN(32, (parts - low) >> 32n));
    rates[2 * pair + 1] = Number(low);
  });
  return rates;
}

/** Pairs that a CPU turns at a time, at most. */
const pairVector = 16;

/** By pair, the axis of its positions: int32 [pairs], rounded up as rates are. */
function ropeAxes(sections: readonly number[], interleaved: boolean, pairs: number): Int32Array {
  const axes = new Int32Array(pairVector * Math.ceil(pairs / pairVector));
  let first = 0;
  sections.forEach((count, axis) => {
    if (!interleaved) axes.fill(axis, first, first + count);
    else if (axis > 0) for (let i = 0; i < count; i++) axes[axis + sections.length * i] = axis;
    first += count;
  });
  return axes;
}

/**
 * Rotary embedding of heads of `headDim` elements on a device: what {@link applyRope} turns by.
 * Make it once for a model; it holds a few numbers by pair, none by position.
 */
export class Rope extends Owner {
  readonly #table: Memory;
  /** The elements [first, first + dim) of a head turn. */
  readonly first: number;
  readonly dim: number;
  /** @internal Factor of what turned. */
  readonly factor: number;

  private constructor(
    readonly device: Device,
    readonly headDim: number,
    readonly options: RopeOptions,
  ) {
    super("rope");
    const { sections, interleavedSections = false, scaling } = options;
    ({ first: this.first, dim: this.dim } = ropeRange(options, headDim));
    this.factor = attentionFactorOf(scaling);
    const rates = ropeRates(ropeFrequencies(options, headDim));
    const axes = ropeAxes(sections ?? [], interleavedSections, this.dim / 2);
    this.#table = device.alloc(rates.byteLength + axes.byteLength, this.label);
    device.upload(this.rates, new Uint8Array(rates.buffer));
    device.upload(this.rates + rates.byteLength, new Uint8Array(axes.buffer));
  }

  /** Errors: OptionError naming the option. */
  static create(device: Device, headDim: number, options: RopeOptions = {}): Rope {
    requireDevice(device);
    requireInteger("headDim", headDim, 2, dimMost);
    checkOptions("options", { rope: ropeSchema }, ["rope"], { rope: options });
    checkRope(options, headDim);
    return new Rope(device, headDim, structuredClone({ ...options }));
  }

  /** @internal Address of int32 [pair, 2], the rates. */
  get rates(): number {
    return this.#table.address;
  }

  /** @internal Address of int32 [pair], the axes; 0 where all pairs have the first. */
  get axes(): number {
    if (this.options.sections === undefined) return 0;
    return this.rates + 8 * pairVector * Math.ceil(this.dim / 2 / pairVector);
  }

  /** @internal */
  override toString(): string {
    const { first, dim, headDim, options } = this;
    const kind = options.scaling === undefined ? "" : `, ${options.scaling.kind}`;
    const what = `Rope on ${this.device.label}: elements ${first} to ${first + dim} of ${headDim}`;
    return `${what}${kind}${this.gone ? " (disposed)" : ""}`;
  }

  protected override release(): void {
    this.#table?.[Symbol.dispose]();
  }
}
