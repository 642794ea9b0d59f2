import type { Device } from "../device/device.ts";
import type { Memory } from "../device/memory.ts";
import { Owner } from "../device/owner.ts";
import { OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";

/**
 * Rotary position embedding (RoFormer, arXiv 2104.09864), with Llama 3.1's scaling if asked for.
 */
export interface RopeOptions {
  /** Base of the frequencies; default 10000. */
  theta?: number;
  /** Elements of a head that rotate; default all from `first` on. Even. */
  dim?: number;
  /** The first of them; default 0. */
  first?: number;
  /** True: pairs (0, 1), (2, 3) ...; false: (i, i + dim / 2). */
  interleaved?: boolean;
  /** Divides positions (linear) or frequencies by wavelength (llama3). */
  scaling?:
    | { kind: "linear"; factor: number }
    | {
        kind: "llama3";
        factor: number;
        lowFrequencyFactor: number;
        highFrequencyFactor: number;
        originalPositions: number;
      };
}

/**
 * Throws OptionError unless the options, each of them in its range, go together and fit a head of
 * `headDim` elements.
 */
export function checkRope(options: RopeOptions, headDim: number): void {
  const { scaling } = options;
  const { first, dim } = ropeRange(options, headDim);
  requireInteger("rope.first", first, 0, headDim - 2);
  requireInteger("rope.dim", dim, 2, headDim - first);
  if (dim % 2 !== 0) throw new OptionError("rope.dim", dim, "even", "rotation works on pairs.");
  if (scaling?.kind !== "llama3") return;
  const { lowFrequencyFactor: low, highFrequencyFactor: high, originalPositions } = scaling;
  if (!(low < high)) {
    const allowed = `a number above lowFrequencyFactor (${low})`;
    throw new OptionError("rope.scaling.highFrequencyFactor", high, allowed, "Llama has 1 and 4.");
  }
  requireInteger("rope.scaling.originalPositions", originalPositions, 1);
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
  const { theta = 10000, scaling } = options;
  const { dim } = ropeRange(options, headDim);
  const frequencies = new Float64Array(dim / 2);
  for (let i = 0; i < frequencies.length; i++) {
    const frequency = theta ** ((-2 * i) / dim);
    frequencies[i] = scaling === undefined ? frequency : scaled(frequency, scaling);
  }
  return frequencies;
}

function scaled(frequency: number, scaling: NonNullable<RopeOptions["scaling"]>): number {
  if (scaling.kind === "linear") return frequency / scaling.factor;
  const { factor, lowFrequencyFactor: low, highFrequencyFactor: high } = scaling;
  const turns = (scaling.originalPositions * frequency) / (2 * Math.PI);
  if (turns > high) return frequency;
  if (turns < low) return frequency / factor;
  const smooth = (turns - low) / (high - low);
  return ((1 - smooth) * frequency) / factor + smooth * frequency;
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
