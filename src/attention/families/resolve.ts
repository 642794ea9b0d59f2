import type { Device } from "../../device/device.ts";
import { type CudaKernel, type Kernel, Module } from "../../device/kernel.ts";
import { KernelCache } from "../../device/kernel-cache.ts";
import { jitTarget } from "../../device/operators.ts";
import { DeviceError, OptionError } from "../../errors.ts";
import { AttentionMapParams, AttentionParams } from "../../ffi/params.gen.ts";
import { Status } from "../../ffi/status.ts";
import { type Image, imageOf, imagesSync } from "../../jit/image.ts";
import type { Target } from "../../jit/target.ts";
import { classesFor, classesOfPrefix } from "../../plan/traits.ts";
import type { ResolvedOptions } from "../options.ts";
import { atUsersLine } from "../variant/errors.ts";
import type {
  DeviceFacts,
  KernelClass,
  KernelFamily,
  KernelOffer,
  KernelSource,
} from "./family.ts";
import { families } from "./table.ts";

/** The closed set of kernels that an attention object can choose, resolved once. */
export interface AttentionKernels {
  readonly offer: KernelOffer;
  /** One for each class of the offer. */
  readonly kernels: readonly Kernel[];
  /** The same, as they are launched where tiles are few. */
  readonly few: readonly (Kernel | undefined)[];
  readonly merge: Kernel;
}

const loaded = new WeakMap<Device, KernelCache>();

/**
 * What the first family that takes the options offers. Errors: OptionError, as the last family
 * gives it, when none does.
 */
export function offerOf(
  among: readonly KernelFamily[],
  facts: DeviceFacts,
  options: ResolvedOptions,
): KernelOffer {
  let refused: OptionError | undefined;
  for (const family of among) {
    const offer = family.offer(facts, options);
    if (!(offer instanceof OptionError)) return launched(offer, options);
    refused = offer;
  }
  throw refused!;
}

/**
 * What is left of an offer where a graph launches no classes for long queries: all where bits must
 * not depend on the class.
 */
function launched(offer: KernelOffer, options: ResolvedOptions): KernelOffer {
  const { graph, batchInvariant } = options;
  if (graph === undefined || batchInvariant) return offer;
  const group = options.queryHeads / options.kvHeads;
  const { maxQueryTokens, maxQueryLength: longest, sharedPrefix } = graph;
  const all = maxQueryTokens * group;
  const rows = longest === undefined ? all : longest * group;
  if (sharedPrefix) return { ...offer, classes: classesOfPrefix(offer.classes, rows, all) };
  return longest === undefined ? offer : { ...offer, classes: classesFor(offer.classes, rows) };
}

/** Resolves the kernels of the options; compiles what no cache holds. Errors: CompileError. */
export async function resolveKernels(
  device: Device,
  options: ResolvedOptions,
  among: readonly KernelFamily[],
): Promise<AttentionKernels> {
  const offer = offerOf(among, device.properties, options);
  if (device.kind === "cpu") return loadAll(device, offer, []);
  const images = await compileAll(offer, options, jitTarget(device));
  device.guard();
  return loadAll(device, offer, images);
}

/** As resolveKernels; this thread waits while kernels are compiled. Errors: CompileError. */
export function resolveKernelsNow(
  device: Device,
  options: ResolvedOptions,
  among: readonly KernelFamily[],
): AttentionKernels {
  const offer = offerOf(among, device.properties, options);
  if (device.kind === "cpu") return loadAll(device, offer, []);
  const target = jitTarget(device);
  try {
    const images = imagesSync(
      sourcesOf(offer).map(({ image }) => image!),
      target,
    );
    return loadAll(device, offer, images);
  } catch (error) {
    throw atUsersLine(error, options.variant);
  }
}

/**
 * Images of a GPU's kernels for some options; no GPU is needed. Errors: OptionError, CompileError
 * at the line of the variant's source.
 */
export function kernelImages(
  facts: DeviceFacts,
  options: ResolvedOptions,
  target: Target,
): Promise<readonly Image[]> {
  return compileAll(offerOf(families.cuda, facts, options), options, target);
}

async function compileAll(
  offer: KernelOffer,
  { variant }: ResolvedOptions,
  target: Target,
): Promise<readonly Image[]> {
  const sources = sourcesOf(offer);
  try {
    // Large tiles take longest to compile: they start first, so that all cores end together.
    const images: Promise<Image>[] = [];
    for (let i = sources.length - 1; i >= 0; i--) images[i] = imageOf(sources[i].image!, target);
    return await Promise.all(images);
  } catch (error) {
    throw atUsersLine(error, variant);
  }
}

/** The merge, the classes by rising query tile, and those that have an image for few tiles. */
export function sourcesOf({ classes, merge }: KernelOffer): readonly KernelSource[] {
  const own = classes.filter(({ image, fewKernel }) => fewKernel && fewKernel.image !== image);
  return [merge, ...classes, ...own.map(({ fewKernel }) => fewKernel!)];
}

function loadAll(device: Device, offer: KernelOffer, images: readonly Image[]): AttentionKernels {
  const merge = load(device, offer.merge, images[0]);
  const kernels = offer.classes.map((row, i) => load(device, row, images[i + 1], row));
  const own = images.slice(1 + offer.classes.length).values();
  const few = offer.classes.map((row, i) => {
    const { fewKernel } = row;
    if (fewKernel === undefined) return undefined;
    if (fewKernel.image === row.image) return loadFew(device, fewKernel, kernels[i]);
    return load(device, fewKernel, own.next().value, { ...row, ...row.few });
  });
  return { offer, kernels, few, merge };
}

/** Loads a kernel once per device and checks what its class promises. Errors: DeviceError. */
function load(device: Device, source: KernelSource, image?: Image, row?: KernelClass): Kernel {
  if (image === undefined) return device.kernel(source.entry);
  const key = JSON.stringify([source.entry, source.image]);
  return kernelsOf(device).get(key, () => loadNow(device, source, image, row));
}

/** The same kernel, launched as where tiles are few. Errors: CudaError. */
function loadFew(device: Device, { entry, image, launch }: KernelSource, kernel: Kernel): Kernel {
  const key = JSON.stringify([entry, image, launch]);
  return kernelsOf(device).get(key, () => (kernel as CudaKernel).module.kernel(entry, launch!));
}

/** @internal Kernels of attention that a device has loaded. */
export function kernelsOf(device: Device): KernelCache {
  let kernels = loaded.get(device);
  if (kernels === undefined) loaded.set(device, (kernels = new KernelCache()));
  return kernels;
}

function loadNow(device: Device, source: KernelSource, image: Image, row?: KernelClass) {
  const module = new Module(device, image.bytes, source.image!.source);
  const kernel = module.kernel(source.entry, { ...source.launch!, cluster: row?.cluster ?? 1 });
  requireParams(kernel, row?.bindMaps === undefined ? AttentionParams : AttentionMapParams);
  const promised = row?.blocksPerProcessor ?? 1;
  if (kernel.blocksPerProcessor < promised) {
    const fits = `${source.entry} fits ${kernel.blocksPerProcessor} blocks on a multiprocessor`;
    throw new DeviceError(Status.unsupported, `${fits}, its class says ${promised}`);
  }
  return kernel;
}

function requireParams({ name, paramsBytes }: Kernel, passed: { readonly byteLength: number }) {
  if (paramsBytes === passed.byteLength) return;
  const takes = `${name} takes ${paramsBytes} bytes of parameters`;
  throw new DeviceError(Status.unsupported, `${takes}, attention passes ${passed.byteLength}`);
}
