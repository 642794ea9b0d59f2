import { imageOf } from "../jit/image.ts";
import { type Target, targetOf } from "../jit/target.ts";
import type { Device } from "./device.ts";
import { type Kernel, Module } from "./kernel.ts";

/** A kernel that every CUDA device has beside attention. */
interface Operator {
  readonly name: string;
  readonly threads: number;
  readonly itemRows: number;
}

/** By source file; names, threads and rows of an item as the file states them. */
export const operators: Readonly<Record<string, readonly Operator[]>> = {};

/** Loads the operators' kernels on a GPU; compiles what no cache holds. Errors: CompileError. */
export async function loadOperators(device: Device): Promise<Kernel[]> {
  const target = jitTarget(device);
  const kernels = Object.entries(operators).map(async ([source, list]) => {
    const { bytes } = await imageOf({ source, constants: {} }, target);
    const module = new Module(device, bytes, source);
    return list.map(({ name, threads, itemRows }) => module.kernel(name, { threads, itemRows }));
  });
  return (await Promise.all(kernels)).flat();
}

/** What kernels of a GPU are compiled for. Errors: DriverError for one that is too old. */
export function jitTarget({ properties }: Device): Target {
  const { computeMajor, computeMinor, emulated } = properties;
  return targetOf(computeMajor, computeMinor, emulated !== 0);
}
