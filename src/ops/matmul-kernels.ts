import type { Device } from "../device/device.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import { hopperKernel } from "./matmul-hopper.ts";
import type { MatmulKernel, Wanted } from "./matmul-maps.ts";

interface Bucket extends MatmulKernel {
  /** Most rows that it is chosen for. */
  readonly most: number;
}

/**
 * By rows: the first whose `most` is not below them is taken. All kernels of a table add a row's
 * products in the same order, so its bits do not depend on the choice.
 */
const cpu: readonly Bucket[] = [
  { most: 8, name: "matmul_few", itemRows: 8 },
  { most: Infinity, name: "matmul", itemRows: 128 },
];
/** Of whole numbers, where the processor multiplies them and groups of codes are their size. */
const cpuWhole: readonly Bucket[] = [{ most: Infinity, name: "matmul_whole", itemRows: 64 }];
const tensorCores: readonly Bucket[] = [
  { most: 8, name: "matmul_8", itemRows: 8 },
  { most: 16, name: "matmul_16", itemRows: 16 },
  { most: 32, name: "matmul_32", itemRows: 32 },
  { most: 64, name: "matmul_64", itemRows: 64 },
  { most: Infinity, name: "matmul_128", itemRows: 128 },
];
const cudaCores: readonly Bucket[] = [{ most: Infinity, name: "matmul_any", itemRows: 8 }];

/** The kernel for a product, by its operands' types, the device and the bucket of rows. */
export function matmulKernel(x: Tensor, weight: Weight, wanted: Wanted): MatmulKernel {
  const hopper = hopperKernel(x, weight, wanted);
  if (hopper !== undefined) return hopper;
  const each = wanted.rows / (weight.experts ?? 1);
  return tableOf(x, weight, wanted).find(({ most }) => each <= most)!;
}

function tableOf(x: Tensor, weight: Weight, { roundRows }: Wanted): readonly Bucket[] {
  if (x.device.kind === "cpu")
    return roundRows && weight.scheme.kind === "grouped" ? cpuWhole : cpu;
  const { values } = weight.scheme;
  const fits =
    weight.scheme.kind === "dense" && x.dtype === values.dtype && multiplies(x.device, x.dtype);
  const reaches = weight.inputs % 8 === 0 && isAligned(x) && isAligned(values);
  return fits && reaches ? tensorCores : cudaCores;
}

/** Whether the device's tensor cores take the dtype. */
function multiplies({ properties }: Device, dtype: string): boolean {
  return dtype === "f16" || (dtype === "bf16" && properties.computeMajor >= 8);
}

/** Whether copies of 16 bytes reach every row of a 16-bit type. */
function isAligned({ address, strides }: Tensor): boolean {
  return address % 16 === 0 && strides.at(-2)! % 8 === 0;
}
