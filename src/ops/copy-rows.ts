import type { Stream } from "../device/stream.ts";
import { GatherParams } from "../ffi/params.gen.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";

const params = new GatherParams();

/**
 * Queues out[i] = source[indices[i]] for `rows` whole rows of two dense tensors of equal row size
 * and dtype; `indices` is the device address of int32, where -1 gives a row of zeros.
 */
export function copyRows(
  stream: Stream,
  source: Tensor,
  indices: number,
  out: Tensor,
  rows: number,
): void {
  params.source = source.address;
  params.indices = indices;
  params.out = out.address;
  params.rowBytes = source.strides[0] * dtypeBytes(source.dtype);
  params.rowCount = rows;
  const { device } = source;
  const kernel = device.kernel("gather_rows");
  device.launch(stream, kernel, params, Math.ceil(rows / kernel.itemRows));
}
