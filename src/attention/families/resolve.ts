import type { Device } from "../../device/device.ts";
import { type Kernel, Module } from "../../device/kernel.ts";
import { jitTarget } from "../../device/operators.ts";
import { DeviceError } from "../../errors.ts";
import { Status } from "../../ffi/status.ts";
import { type Image, imageNow, imageOf } from "../../jit/image.ts";
import type { Target } from "../../jit/target.ts";
import { type CostModel, costsFor, cudaCosts } from "../../plan/cost.ts";
import type { SharedLimits } from "./tiled-classes.ts";
import { cpuClasses, type KernelTraits } from "../../plan/traits.ts";
import { dtypeBytes } from "../../tensor/dtype.ts";
import type { ResolvedOptions } from "../options.ts";
import { type Wanted, wantedKernels } from "./tiled.ts";
import { atUsersLine } from "../variant/errors.ts";

/** The closed set of kernels that an attention object can choose, resolved once. */
export interface AttentionKernels {
  /** What the planner reads, by rising query tile. */
  readonly classes: readonly KernelTraits[];
  readonly costs: CostModel;
  /** One for each class. */
  readonly tiled: readonly Kernel[];
  readonly merge: Kernel;
}

/** Names of the CPU's kernels, by class. */
const cpuNames = ["attention_row", "attention_tile"];

/** merge_threads of kernels/attention/merge.cu. */
const mergeThreads = 128;

const loaded = new WeakMap<Device, Map<string, Kernel>>();

/** Resolves the kernels of the options; compiles what no cache holds. Errors: CompileError. */
export async function resolveKernels(
  device: Device,
  options: ResolvedOptions,
): Promise<AttentionKernels> {
  if (device.kind === "cpu") return cpuKernels(device, options);
  const { classes, wanted, images } = await kernelImages(
    device.properties,
    options,
    jitTarget(device),
  );
  device.guard();
  const kernels = wanted.map((each, i) => load(device, each, images[i]!.bytes));
  return arranged(options, classes, kernels);
}

/**
 * The closed set of a GPU's kernels for some options, with an image of each; no GPU is needed.
 * Errors: OptionError, CompileError at the line of the variant's source.
 */
export async function kernelImages(
  limits: SharedLimits,
  options: ResolvedOptions,
  target: Target,
): Promise<{
  classes: readonly KernelTraits[];
  wanted: readonly Wanted[];
  images: readonly Image[];
}> {
  const { classes, wanted } = wantedKernels(limits, options);
  try {
    // Large tiles take longest to compile: they start first, so that all cores end together.
    const images: Promise<Image>[] = [];
    for (const i of [...wanted.keys()].sort((a, b) => tileOf(wanted[b]!) - tileOf(wanted[a]!)))
      images[i] = imageOf(wanted[i]!.specialization, target);
    return { classes, wanted, images: await Promise.all(images) };
  } catch (error) {
    throw atUsersLine(error, options.variant);
  }
}

function tileOf({ traits }: Wanted): number {
  return traits?.queryTile ?? 0;
}

/** As resolveKernels, of kernels that are built in or cached. Errors: DeviceError if not. */
export function resolveKernelsNow(device: Device, options: ResolvedOptions): AttentionKernels {
  if (device.kind === "cpu") return cpuKernels(device, options);
  const target = jitTarget(device);
  const { classes, wanted } = wantedKernels(device.properties, options);
  const kernels = wanted.map((each) => load(device, each, cachedImage(each, target)));
  return arranged(options, classes, kernels);
}

function cachedImage({ specialization, entry }: Wanted, target: Target): Uint8Array {
  const image = imageNow(specialization, target);
  if (image !== undefined) return image.bytes;
  throw new DeviceError(
    Status.notFound,
    `${entry} was never compiled for ${target.architectures[0]} with these options. ` +
      "Fix: await Attention.create(device, options) with the same options once, first.",
  );
}

function cpuKernels(device: Device, options: ResolvedOptions): AttentionKernels {
  return {
    classes: cpuClasses,
    costs: costsFor(dtypeBytes(options.kvDtype)),
    tiled: cpuNames.map((name) => device.kernel(name)),
    merge: device.kernel("attention_merge"),
  };
}

/** Loads a kernel once a device and checks what its traits promise. Errors: DeviceError. */
function load(
  device: Device,
  { specialization, entry, traits }: Wanted,
  image: Uint8Array,
): Kernel {
  let kernels = loaded.get(device);
  if (kernels === undefined) loaded.set(device, (kernels = new Map()));
  const key = JSON.stringify(specialization);
  const known = kernels.get(key);
  if (known !== undefined) return known;
  const module = new Module(device, image, specialization.source);
  const kernel = module.kernel(entry, {
    threads: traits?.threads ?? mergeThreads,
    sharedBytes: traits?.sharedBytes ?? 0,
    cluster: traits?.cluster ?? 1,
    persistent: traits !== undefined,
    programmatic: true,
  });
  const promised = traits?.blocksPerProcessor ?? 1;
  if (kernel.blocksPerProcessor < promised) {
    throw new DeviceError(
      Status.unsupported,
      `${entry} fits ${kernel.blocksPerProcessor} blocks on a multiprocessor, its traits say ${promised}`,
    );
  }
  kernels.set(key, kernel);
  return kernel;
}

function arranged(
  options: ResolvedOptions,
  classes: readonly KernelTraits[],
  kernels: readonly Kernel[],
): AttentionKernels {
  return {
    classes,
    costs: cudaCosts(dtypeBytes(options.kvDtype)),
    tiled: kernels.slice(0, classes.length),
    merge: kernels.at(-1)!,
  };
}
