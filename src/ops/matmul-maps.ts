import { MatmulMapParams, type TensorMap } from "../ffi/params.gen.ts";
import { dtypeBytes } from "../tensor/dtype.ts";
import { encodeTensorMap } from "../tensor/tensor-map.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";

/** Rows of x, and of the weight, that one bulk copy of a kernel takes. */
export interface Boxes {
  readonly x: number;
  readonly weight: number;
}

/** A kernel of products: which rows it is for, and how many of them an item takes. */
export interface MatmulKernel {
  readonly name: string;
  /** Rows of x that an item of the grid covers; its outputs are what the kernel itself says. */
  readonly itemRows: number;
  /** Of a kernel that is passed tensor maps. */
  readonly boxes?: Boxes;
}

/** What is asked of a product besides its operands. */
export interface Wanted {
  /** Of out. */
  readonly rows: number;
  readonly columns: number;
  readonly invariant: boolean;
  /** Rows may be rounded to whole numbers. */
  readonly roundRows: boolean;
  readonly gated: boolean;
  /** Nothing queued writes the weight. */
  readonly settled: boolean;
  /** Rows of out name theirs of x. */
  readonly gathers: boolean;
}

/** Bytes of a row that one bulk copy takes. */
const span = 128 as const;

/** What a kernel with tensor maps is passed: these and the product's own parameters. */
export const mapParams = new MatmulMapParams();

/** Whether bulk copies reach every row of a tensor: addresses and distances of 16 bytes. */
export function bulkReaches({ address, strides, shape, dtype }: Tensor): boolean {
  const rows = shape.at(-2)!;
  const columns = shape.at(-1)!;
  const stride = strides.at(-2)!;
  const apart = stride * dtypeBytes(dtype);
  return address % 16 === 0 && (rows === 1 || (apart % 16 === 0 && stride >= columns));
}

/** Writes the maps of both operands, which bulk copies reach. */
export function placeMaps(x: Tensor, { scheme, experts = 1 }: Weight, boxes: Boxes): void {
  const { values } = scheme;
  placeMap(x, x.shape[0], boxes.x, mapParams.x);
  placeMap(values, experts * values.shape.at(-2)!, boxes.weight, mapParams.weight);
}

function placeMap(tensor: Tensor, rows: number, boxRows: number, map: TensorMap): void {
  const { device, address, dtype, shape, strides } = tensor;
  const bytes = dtypeBytes(dtype);
  const extents = [shape.at(-1)!, rows];
  const box = [span / bytes, boxRows];
  const distances = [bytes * strides.at(-2)!];
  const spec = { address, dtype, extents, strides: distances, box, swizzleBytes: span } as const;
  encodeTensorMap(device, spec, map);
}
