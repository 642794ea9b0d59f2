import { type Image, imageOf, imageSync } from "../jit/image.ts";
import { type OperatorKernel, operatorKernels, operatorSources } from "../jit/operators.ts";
import { type Target, targetOf } from "../jit/target.ts";
import type { Context } from "./context.ts";
import { findKernel, type Kernel, Module } from "./kernel.ts";

/**
 * The kernel of this name; on a GPU with all others of its source, whose image is loaded. One that
 * is neither embedded nor cached is compiled now, in about a second, once for all runs: this thread
 * waits. Errors: DeviceError when there is no such kernel, CompileError, CudaError.
 */
export function loadKernels(device: Context, name: string): readonly Kernel[] {
  if (device.kind === "cpu") return [findKernel(device, name)];
  const table = operatorKernels();
  const source = table.get(name)?.source;
  if (source === undefined) return [findKernel(device, name)];
  const image = imageSync({ source, constants: {} }, jitTarget(device));
  const module = new Module(device, image.bytes, source);
  return [...table.values()]
    .filter((kernel) => kernel.source === source && isHere(device, kernel))
    .map((kernel) => ({ ...module.kernel(kernel.entry, kernel), name: kernel.name }));
}

/** Whether as many blocks as a cluster has run at once. */
function isHere({ properties }: Context, kernel: OperatorKernel): boolean {
  const { sharedBytes, processorBlocks = 1, cluster = 1 } = kernel;
  return sharedBytes === undefined || cluster <= properties.processors * processorBlocks;
}

/** Images of all operators, so that no first use has to wait for one. Errors: CompileError. */
export function operatorImages(target: Target): Promise<readonly Image[]> {
  const images = operatorSources().map((source) => imageOf({ source, constants: {} }, target));
  return Promise.all(images);
}

/** What kernels of a GPU are compiled for. Errors: DriverError for one that is too old. */
export function jitTarget({ properties }: Context): Target {
  const { computeMajor, computeMinor, emulated } = properties;
  return targetOf(computeMajor, computeMinor, emulated !== 0);
}
