import type { Device } from "../device/device.ts";
import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { BitsParams } from "../ffi/params.gen.ts";
import { requireList, requireOptions } from "../require.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";

/** Options of {@link packBits} and {@link segmentPackBits}. */
export interface PackBitsOptions {
  /** Which bit of a byte is the first bool's: "little" the lowest, as masks have it; default. */
  order?: "little" | "big";
  stream?: Stream;
}

/** Bools as bits, segment by segment. */
export interface SegmentBits {
  /** u8 [bytes]. */
  bits: Tensor;
  /** i32 [segments + 1]: where each segment's bytes begin, and the end; for maskIndptr. */
  indptr: Tensor;
}

const params = new BitsParams();

/** Packs bools [n], or u8 (0 or not), into bits: u8 [ceil(n / 8)]. Errors: OptionError. */
export function packBits(bools: Tensor, options: PackBitsOptions = {}): Tensor {
  requireBools(bools);
  const { bits, indptr } = pack(bools, Int32Array.of(0, bools.elements), options);
  indptr[Symbol.dispose]();
  return bits;
}

/**
 * Packs each segment of bools, [indptr[s], indptr[s + 1]) of them, into bytes of its own: masks of
 * several requests. An indptr in a tensor is read back, which waits. Errors: OptionError.
 */
export function segmentPackBits(
  bools: Tensor,
  indptr: ArrayLike<number> | Tensor,
  options: PackBitsOptions = {},
): SegmentBits {
  requireBools(bools);
  return pack(bools, boundsOf(bools, indptr), options);
}

function requireBools(bools: Tensor): void {
  requireTensor("bools", bools);
  bools.guard();
  const isMask = bools.dtype === "bool" || bools.dtype === "u8";
  if (isMask && bools.contiguous && bools.elements < 2 ** 31) return;
  const allowed = "a dense bool or u8 tensor of fewer than 2^31 elements";
  throw new OptionError("bools", bools.label, allowed, "copy it by to(bool).");
}

/** Where segments begin, and the end. Errors: OptionError. */
function boundsOf({ device, elements }: Tensor, indptr: ArrayLike<number> | Tensor): Int32Array {
  if (indptr instanceof Tensor) {
    indptr.requireOn(device, "indptr");
    if (indptr.dtype !== "i32" && indptr.dtype !== "i64")
      throw new OptionError("indptr", indptr.label, "an i32 or i64 tensor", "convert it.");
  }
  const given = indptr instanceof Tensor ? indptr.toFloat64Array() : indptr;
  const bounds = new Int32Array(requireList("indptr", given));
  for (let i = 0; i < bounds.length; i++) {
    const least = i === 0 ? 0 : bounds[i - 1];
    const most = i === 0 ? 0 : elements;
    const value = given[i];
    if (!Number.isInteger(value) || value < least || value > most) {
      const fix = "make indptr a running sum of the segments' bools.";
      throw new OptionError(`indptr[${i}]`, value, `${least} to ${most}`, fix);
    }
    bounds[i] = value;
  }
  if (bounds.length > 0) return bounds;
  throw new OptionError("indptr.length", 0, "1 or more", "give one entry more than segments.");
}

function pack(bools: Tensor, bounds: Int32Array, options: PackBitsOptions): SegmentBits {
  requireOptions("options", options, ["order", "stream"]);
  const { order = "little", stream = bools.device.stream } = options;
  if (order !== "little" && order !== "big")
    throw new OptionError("order", order, '"little" or "big"', "say which bit is the first.");
  const { device } = bools;
  requireStream(stream, device);
  const segments = bounds.length - 1;
  const bytes = new Int32Array(segments + 1);
  for (let s = 0; s < segments; s++)
    bytes[s + 1] = bytes[s] + Math.ceil((bounds[s + 1] - bounds[s]) / 8);
  const bits = Tensor.empty(device, [bytes[segments]], "u8");
  using starts = uploaded(device, bounds, stream);
  const indptr = uploaded(device, bytes, stream);
  params.source = bools.address;
  params.target = bits.address;
  params.boolIndptr = starts.address;
  params.byteIndptr = indptr.address;
  params.byteCount = bytes[segments];
  params.segmentCount = segments;
  params.highestFirst = order === "big" ? 1 : 0;
  if (device.capturing) device.needOnReplay(bools, bits, indptr);
  const kernel = device.kernel("pack_bits");
  const grid = Math.ceil(bytes[segments] / kernel.itemRows);
  if (grid > 0) device.launch(stream, kernel, params, grid);
  return { bits, indptr };
}

/** A tensor that work of the stream finds filled. */
function uploaded(device: Device, values: Int32Array, stream: Stream): Tensor {
  const tensor = Tensor.from(device, values, [values.length], "i32");
  if (stream !== device.stream) device.stream.wait();
  return tensor;
}
