import type { Device } from "../device/device.ts";
import type { Memory } from "../device/memory.ts";
import { Owner } from "../device/owner.ts";
import { OptionError } from "../errors.ts";
import { flag, integer, object, positive } from "../options.ts";
import { requireInteger } from "../require.ts";
import { checkScaling, type RopeScaling, scaledFrequencies } from "./rope-scaling.ts";

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
}

/** What each of the options may be; checkRope looks at those of a scaling. */
export const ropeSchema = object(
  {
    theta: positive,
    dim: integer(2, 576),
    interleaved: flag,
    first: integer(0, 574),
    scaling: { type: "object", description: "an object { kind, factor } and more by kind" },
  },
  [],
  "an object { theta, dim, first, interleaved, scaling }",
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

/** The rates of an attention's pairs on its device. */
export class RopeRates extends Owner {
  readonly #memory: Memory;

  constructor(device: Device, options: RopeOptions, headDim: number) {
    super("rope rates");
    const rates = ropeRates(ropeFrequencies(options, headDim));
    this.#memory = device.alloc(rates.byteLength, this.label);
    device.upload(this.address, new Uint8Array(rates.buffer));
  }

  get address(): number {
    return this.#memory.address;
  }

  protected override release(): void {
    this.#memory[Symbol.dispose]();
  }
}
