import type { Device } from "../device/device.ts";
import { OptionError } from "../errors.ts";
import { native } from "../ffi/library.ts";
import { type TensorMap, TensorMapSpec } from "../ffi/params.gen.ts";
import { check } from "../ffi/status.ts";
import { requireInteger } from "../require.ts";
import { type DType, dtypeCode, requireDType } from "./dtype.ts";

/** What bulk copies know of a tensor; axis 0 is the innermost, whose elements lie side by side. */
export interface TensorMapOptions {
  /** A multiple of 16. */
  readonly address: number;
  readonly dtype: DType;
  /** Elements along each of 1 to 5 axes; 0 in a tensor that holds none. */
  readonly extents: readonly number[];
  /** Bytes between neighbours along axes 1 and up: multiples of 16; any for extents of 1 or 0. */
  readonly strides: readonly number[];
  /** Elements of a tile along each axis, 1 to 256. */
  readonly box: readonly number[];
  /** Bytes over which a tile's 16-byte pieces are permuted in shared memory; default 0. */
  readonly swizzleBytes?: 0 | 32 | 64 | 128;
}

const axesMost = 5;
const strideUnitBytes = 16;
/** Of the driver: strides take 40 bits. */
const strideMost = 2 ** 40 - strideUnitBytes;
const spec = new TensorMapSpec();

/**
 * Writes a tensor map for bulk copies to where a kernel's parameters hold it, on a GPU only. The
 * same map is encoded once. Errors: OptionError, DeviceError, CudaError if the driver refuses it.
 */
export function encodeTensorMap(device: Device, options: TensorMapOptions, out: TensorMap): void {
  device.guard();
  const { address, dtype, extents, strides, box, swizzleBytes = 0 } = options;
  requireInteger("address", address, 16);
  requireDType("dtype", dtype);
  requireInteger("extents.length", extents.length, 1, axesMost);
  requireLength("strides", strides, extents.length - 1);
  requireLength("box", box, extents.length);
  spec.address = address;
  spec.dtype = dtypeCode(dtype);
  spec.rank = extents.length;
  spec.swizzleBytes = swizzleBytes;
  for (let axis = 0; axis < extents.length; axis++) {
    requireInteger("extents", extents[axis], 0, 2 ** 32);
    requireInteger("box", box[axis], 1, 256);
    // The driver refuses an axis of nothing, of which no kernel asks for an element.
    spec.setExtents(axis, Math.max(1, extents[axis]));
    spec.setBox(axis, box[axis]);
    if (axis === 0) continue;
    // A step along one element is never taken; the driver wants a right one all the same.
    const stride = extents[axis] <= 1 ? strideUnitBytes : strides[axis - 1];
    requireInteger("strides", stride, 0, strideMost);
    spec.setStrides(axis - 1, stride);
  }
  const status = native().fb_tensor_map_encode(device.handle, spec.view, out.view);
  check(status, "tensor map");
}

function requireLength(option: string, values: readonly number[], count: number): void {
  if (values.length === count) return;
  throw new OptionError(option, `${values.length} numbers`, `${count}`, "give one for each axis.");
}
