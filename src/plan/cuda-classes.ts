import type { KernelTraits } from "./traits.ts";
export interface CudaShape {
  headDim: number;
  valueDim: number;
  kvElementBytes: number;
  transform: boolean;
  sharedBytesPerBlock: number;
}
export function cudaClasses(_: CudaShape): readonly KernelTraits[] {
  return [];
}
