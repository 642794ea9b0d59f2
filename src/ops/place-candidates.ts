import { PlaceParams } from "../ffi/params.gen.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** What ranks that share a vocabulary have found in their parts of it, one after the other. */
export interface Candidates {
  /** Of rank 0: [rows, k] of the logits' dtype. */
  readonly values: Tensor;
  /** Of rank 0: i32 [rows, k], columns of a rank's part. */
  readonly indices: Tensor;
  /** Bytes from what one rank has to what the next has. */
  readonly rankBytes: number;
  readonly ranks: number;
  /** Columns of a rank's part. */
  readonly columns: number;
}

const params = new PlaceParams();

/**
 * Queues out [rows, vocabulary], dense: the candidates of all ranks at their tokens, -inf at all
 * others. What is left out of a rank's part names no column of it.
 */
export function placeCandidates(candidates: Candidates, out: Tensor): Tensor {
  const { values, indices, rankBytes, ranks, columns } = candidates;
  const { device } = out;
  const [rows, vocabulary] = out.shape;
  params.values = values.address;
  params.indices = indices.address;
  params.out = out.address;
  params.rankBytes = rankBytes;
  params.outStride = out.strides[0];
  params.rowCount = rows;
  params.k = values.shape[1];
  params.rankCount = ranks;
  params.columnCount = columns;
  params.vocabulary = vocabulary;
  params.dtype = dtypeCode(out.dtype);
  const kernel = device.kernel("place_candidates");
  if (device.capturing) device.needOnReplay(out, values, indices);
  device.launch(device.stream, kernel, params, rows * Math.ceil(vocabulary / kernel.itemRows));
  return out;
}
