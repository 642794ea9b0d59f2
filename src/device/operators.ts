import { imageOf } from "../jit/image.ts";
import { type Target, targetOf } from "../jit/target.ts";
import type { Context } from "./context.ts";
import { type Kernel, Module } from "./kernel.ts";

/** A kernel that every CUDA device has beside attention. */
interface Operator {
  readonly name: string;
  readonly threads: number;
  readonly itemRows: number;
}

/** By source file; threads and rows of an item as the file states them, which a test compares. */
export const operators: Readonly<Record<string, readonly Operator[]>> = {
  "page/page.cu": [
    { name: "append", threads: 128, itemRows: 4 },
    { name: "copy_tokens", threads: 256, itemRows: 1 },
    { name: "table_update", threads: 256, itemRows: 1 },
  ],
  "tensor/tensor.cu": [
    { name: "random_normal", threads: 256, itemRows: 4096 },
    { name: "fill", threads: 256, itemRows: 4096 },
    { name: "convert", threads: 256, itemRows: 4096 },
    { name: "gather_rows", threads: 256, itemRows: 4 },
  ],
  "states/states.cu": [{ name: "merge_states", threads: 128, itemRows: 8 }],
  "probe/probe.cu": [
    { name: "probe_spin", threads: 32, itemRows: 1 },
    { name: "probe_read", threads: 256, itemRows: 1 },
    { name: "probe_fma", threads: 256, itemRows: 1 },
  ],
};

/** Loads the operators' kernels on a GPU; compiles what no cache holds. Errors: CompileError. */
export async function loadOperators(device: Context): Promise<Kernel[]> {
  const target = jitTarget(device);
  const sources = Object.keys(operators);
  const images = await Promise.all(
    sources.map((source) => imageOf({ source, constants: {} }, target)),
  );
  device.guard();
  return sources.flatMap((source, i) => {
    const module = new Module(device, images[i]!.bytes, source);
    const list = operators[source]!;
    return list.map(({ name, threads, itemRows }) => module.kernel(name, { threads, itemRows }));
  });
}

/** What kernels of a GPU are compiled for. Errors: DriverError for one that is too old. */
export function jitTarget({ properties }: Context): Target {
  const { computeMajor, computeMinor, emulated } = properties;
  return targetOf(computeMajor, computeMinor, emulated !== 0);
}
