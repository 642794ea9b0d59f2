import type { Device } from "../device/device.ts";
import { Owner } from "../device/owner.ts";
import { GrowingBuffer } from "../device/ring.ts";
import { OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";

/**
 * Rotary position embedding (RoFormer, arXiv 2104.09864), with Llama 3.1's scaling if asked for.
 */
export interface RopeOptions {
  /** Base of the frequencies; default 10000. */
  theta?: number;
  /** Leading elements of a head that rotate; default all. Even. */
  dim?: number;
  /** True: pairs (0, 1), (2, 3) ...; false: (i, i + dim / 2). */
  interleaved?: boolean;
  /** Positions that the table holds at first; it grows with the plan. Default 4096. */
  maxPositions?: number;
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
  const { dim = headDim, scaling } = options;
  requireInteger("rope.dim", dim, 2, headDim);
  if (dim % 2 !== 0) throw new OptionError("rope.dim", dim, "even", "rotation works on pairs.");
  if (scaling?.kind !== "llama3") return;
  const { lowFrequencyFactor: low, highFrequencyFactor: high, originalPositions } = scaling;
  if (!(low < high)) {
    const allowed = `a number above lowFrequencyFactor (${low})`;
    throw new OptionError("rope.scaling.highFrequencyFactor", high, allowed, "Llama has 1 and 4.");
  }
  requireInteger("rope.scaling.originalPositions", originalPositions, 1);
}

/** Inverse frequencies of the rotated pairs, [dim / 2], after scaling. */
export function ropeFrequencies(options: RopeOptions, headDim: number): Float64Array {
  const { theta = 10000, dim = headDim, scaling } = options;
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

/** The cosines and sines of every position, f32 [positions, dim / 2, 2], on the device. */
export class RopeTable extends Owner {
  readonly #buffer: GrowingBuffer;
  readonly #frequencies: Float64Array;
  #positions = 0;

  constructor(device: Device, options: RopeOptions, headDim: number) {
    super("rope table");
    this.#buffer = new GrowingBuffer(device, this.label);
    this.#frequencies = ropeFrequencies(options, headDim);
    this.ensure(options.maxPositions ?? 4096);
  }

  get address(): number {
    return this.#buffer.address;
  }

  /** Raised when the table moved: captured graphs then hold an old address. */
  get version(): number {
    return this.#buffer.version;
  }

  /**
   * Makes the table hold `positions` positions, doubling as it grows. True when it grew: the upload
   * runs on the default stream, which others then have to wait for.
   */
  ensure(positions: number): boolean {
    if (positions <= this.#positions) return false;
    const count = Math.max(positions, 2 * this.#positions);
    const pairs = this.#frequencies.length;
    const table = new Float32Array(count * pairs * 2);
    for (let position = 0, at = 0; position < count; position++) {
      for (let pair = 0; pair < pairs; pair++, at += 2) {
        const angle = position * this.#frequencies[pair];
        table[at] = Math.cos(angle);
        table[at + 1] = Math.sin(angle);
      }
    }
    this.#buffer.ensure(table.byteLength);
    this.#buffer.device.upload(this.address, new Uint8Array(table.buffer));
    this.#positions = count;
    return true;
  }

  protected override release(): void {
    this.#buffer[Symbol.dispose]();
  }
}
