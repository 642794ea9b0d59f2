import { ConvertParams } from "../ffi/params.gen.ts";
import { type DType, dtypeCode } from "./dtype.ts";
import { axesMax } from "./shape.ts";

/** A tensor, as far as a copy looks. */
interface Strided {
  readonly address: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
}

const params = new ConvertParams();

/** Parameters of the kernel that copies between tensors of one shape; reused by the next call. */
export function convertParams(source: Strided, target: Strided): ConvertParams {
  params.source = source.address;
  params.target = target.address;
  params.sourceDtype = dtypeCode(source.dtype);
  params.targetDtype = dtypeCode(target.dtype);
  for (let i = 0; i < axesMax; i++) {
    const axis = i - axesMax + target.shape.length;
    params.setSizes(i, axis < 0 ? 1 : target.shape[axis]);
    params.setSourceStrides(i, axis < 0 ? 0 : source.strides[axis]);
    params.setTargetStrides(i, axis < 0 ? 0 : target.strides[axis]);
  }
  return params;
}
