import type { Device } from "../device/device.ts";
import { type Kernel, Module } from "../device/kernel.ts";
import { jitTarget } from "../device/operators.ts";
import { DeviceError, OptionError } from "../errors.ts";
import { Status } from "../ffi/status.ts";
import { imageNow, imageOf } from "../jit/image.ts";
import type { Specialization } from "../jit/specialization.ts";
import type { Target } from "../jit/target.ts";
import { type CostModel, costsFor, cudaCosts } from "../plan/cost.ts";
import { cudaClasses } from "../plan/cuda-classes.ts";
import { cpuClasses, type KernelTraits } from "../plan/traits.ts";
import { dtypeBytes, dtypeCode } from "../tensor/dtype.ts";
import type { ResolvedOptions } from "./options.ts";

/** The closed set of kernels that an attention object can choose, resolved once. */
export interface AttentionKernels {
  /** What the planner reads, by rising query tile. */
  readonly classes: readonly KernelTraits[];
  readonly costs: CostModel;
  /** For paged layouts, then for contiguous ones: a kernel for each class. */
  readonly paged: readonly Kernel[];
  readonly contiguous: readonly Kernel[];
  readonly merge: Kernel;
}

/** Names of the CPU's kernels, by class. */
const cpuNames = ["attention_row", "attention_tile"];

/** File and entry of each class of a GPU, below kernels/attention/tiled. */
const cudaSources: Readonly<Record<string, readonly [string, string]>> = {
  "cuda.decode16": ["decode.cu", "attention_decode"],
  "cuda.wide16": ["decode_wide.cu", "attention_decode"],
  "cuda.tile64": ["prefill.cu", "attention_prefill"],
  "cuda.tile128": ["prefill.cu", "attention_prefill"],
};

/** A kernel to load: what it is made of and how it is launched. */
interface Wanted {
  readonly specialization: Specialization;
  readonly entry: string;
  readonly traits: KernelTraits | undefined;
}

const loaded = new WeakMap<Device, Map<string, Kernel>>();

/** Resolves the kernels of the options; compiles what no cache holds. Errors: CompileError. */
export async function resolveKernels(
  device: Device,
  options: ResolvedOptions,
): Promise<AttentionKernels> {
  if (device.kind === "cpu") return cpuKernels(device, options);
  const target = jitTarget(device);
  const { classes, wanted } = wantedKernels(device, options);
  const images = await Promise.all(
    wanted.map(({ specialization }) => imageOf(specialization, target)),
  );
  device.guard();
  const kernels = wanted.map((each, i) => load(device, each, images[i]!.bytes));
  return arranged(options, classes, kernels);
}

/** As resolveKernels, of kernels that are built in or cached. Errors: CompileError. */
export function resolveKernelsNow(device: Device, options: ResolvedOptions): AttentionKernels {
  if (device.kind === "cpu") return cpuKernels(device, options);
  const target = jitTarget(device);
  const { classes, wanted } = wantedKernels(device, options);
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
  const kernels = cpuNames.map((name) => device.kernel(name));
  return {
    classes: cpuClasses,
    costs: costsFor(dtypeBytes(options.kvDtype)),
    paged: kernels,
    contiguous: kernels,
    merge: device.kernel("attention_merge"),
  };
}

function wantedKernels(device: Device, options: ResolvedOptions) {
  const { headDim, valueDim, dtype, kvDtype } = options;
  if (dtype === "f32" || kvDtype === "f32") {
    const option = dtype === "f32" ? "dtype" : "kvDtype";
    const fix = 'use bf16 or f16, or open the "cpu" device.';
    throw new OptionError(option, "f32", "f16, bf16 or (keys and values) fp8 on a GPU", fix);
  }
  const same = kvDtype === dtype || dtypeBytes(kvDtype) === 1;
  if (!same) {
    const fix = "keep the cache in the dtype of queries, or in fp8.";
    throw new OptionError("kvDtype", kvDtype, `${dtype}, f8e4m3 or f8e5m2 on a GPU`, fix);
  }
  const classes = cudaClasses({
    ...{ headDim, valueDim },
    kvElementBytes: dtypeBytes(kvDtype),
    keysChange: kvDtype !== dtype || options.rope !== undefined,
    valuesChange: kvDtype !== dtype,
    sharedBytesPerBlock: device.properties.sharedBytesPerBlock,
    sharedBytesPerProcessor: device.properties.sharedBytesPerProcessor,
  });
  const wanted: Wanted[] = [];
  for (const contiguous of [0, 1]) {
    for (const traits of classes) {
      const constants = constantsOf(options, traits, contiguous);
      const [source, entry] = cudaSources[traits.name]!;
      const specialization = { source: `attention/tiled/${source}`, constants };
      wanted.push({ specialization, entry, traits });
    }
  }
  const merge = { source: "attention/merge/merge.cu", constants: {} };
  wanted.push({ specialization: merge, entry: "attention_merge", traits: undefined });
  return { classes, wanted };
}

/** What a specialisation of the attention kernels is compiled for. */
function constantsOf(options: ResolvedOptions, traits: KernelTraits, contiguous: number) {
  const { headDim, valueDim, dtype, kvDtype, outDtype, rope } = options;
  return {
    FB_QUERY_TILE: traits.queryTile,
    FB_KV_TILE: traits.kvTile,
    FB_THREADS: traits.threads,
    FB_MIN_BLOCKS: traits.blocksPerProcessor,
    FB_STAGES: traits.stages,
    FB_SHARED_BYTES: traits.sharedBytes,
    FB_KEY_DIM: headDim,
    FB_VALUE_DIM: valueDim,
    FB_Q_TYPE: dtypeCode(dtype),
    FB_KV_TYPE: dtypeCode(kvDtype),
    FB_OUT_TYPE: dtypeCode(outDtype),
    FB_SOFT_CAP: options.softCap > 0 ? 1 : 0,
    FB_ALIBI: options.alibi ? 1 : 0,
    FB_MASK: options.mask === "none" ? 0 : 1,
    FB_ROPE: rope === undefined ? 0 : rope.interleaved ? 2 : 1,
    FB_K_TOKEN_SCALE: options.tokenScales ? 1 : 0,
    FB_V_TOKEN_SCALE: options.tokenScales ? 1 : 0,
    FB_DEVICE_LENGTHS: options.deviceLengths ? 1 : 0,
    FB_CONTIGUOUS: contiguous,
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
    threads: traits?.threads ?? 256,
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
    paged: kernels.slice(0, classes.length),
    contiguous: kernels.slice(classes.length, 2 * classes.length),
    merge: kernels.at(-1)!,
  };
}
