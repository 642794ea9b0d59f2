import { type Image, imageNow, imageOf, imageSync } from "../jit/image.ts";
import {
  oneOperator,
  type OperatorKernel,
  operatorKernels,
  operatorSources,
} from "../jit/operators.ts";
import { emulated, type Target, targetOf } from "../jit/target.ts";
import type { Context } from "./context.ts";
import { findKernel, type Kernel, Module } from "./kernel.ts";

/**
 * The kernel of this name; on a GPU with all others of its source, if their image is embedded or
 * cached. Else this one alone is compiled now, in 0.1 to 8 seconds, once for all runs: this thread
 * waits. Errors: DeviceError when there is no such kernel, CompileError, CudaError.
 */
export function loadKernels(device: Context, name: string): readonly Kernel[] {
  if (device.kind === "cpu") return [findKernel(device, name)];
  const table = operatorKernels();
  const wanted = table.get(name);
  if (wanted === undefined) return [findKernel(device, name)];
  const { source, entry } = wanted;
  const { image, isWhole } = imageFor(wanted, jitTarget(device));
  const module = new Module(device, image.bytes, source);
  return [...table.values()]
    .filter((kernel) => kernel.source === source && (isWhole || kernel.entry === entry))
    .filter((kernel) => isHere(device, kernel))
    .map((kernel) => ({ ...module.kernel(kernel.entry, kernel), name: kernel.name }));
}

/** An image that holds a kernel, and whether it holds all of its source. */
function imageFor(kernel: OperatorKernel, target: Target): { image: Image; isWhole: boolean } {
  const all = { source: kernel.source, constants: {} };
  const whole = imageNow(all, target);
  if (whole !== undefined) return { image: whole, isWhole: true };
  // The emulated GPU's are compiled whole: they are small, and tests use most of them.
  if (target.architectures[0] === emulated) return { image: imageSync(all, target), isWhole: true };
  return { image: imageSync(oneOperator(kernel), target), isWhole: false };
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
