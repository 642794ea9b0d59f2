import { cString, out, valueOf } from "../ffi/foreign.ts";
import { native } from "../ffi/library.ts";
import { KernelFacts, KernelTraits } from "../ffi/params.gen.ts";
import { check } from "../ffi/status.ts";
import type { KernelHandle, ModuleHandle } from "../ffi/symbols.ts";
import type { Context } from "./context.ts";
import { Owner } from "./owner.ts";

/** A kernel of a device: its name, handle and the bytes of parameters that a launch passes. */
export interface Kernel {
  readonly name: string;
  readonly handle: KernelHandle;
  readonly paramsBytes: number;
  /** Rows, tokens or elements that one item of the grid covers. */
  readonly itemRows: number;
}

/** How a CUDA kernel is launched. */
export interface LaunchTraits {
  readonly threads: number;
  readonly itemRows?: number;
  /** Dynamic shared memory of a block. */
  readonly sharedBytes?: number;
  /** Blocks of a cluster, which takes an item of the grid together; default 1. */
  readonly cluster?: number;
  /** At most as many blocks as are resident; they, or their clusters, take items by ticket. */
  readonly persistent?: boolean;
  /** Starts while the kernel before it drains (programmatic dependent launch). */
  readonly programmatic?: boolean;
}

/** What the driver says of a loaded CUDA kernel. */
export interface CudaKernel extends Kernel {
  /** Stays loaded as long as somebody holds one of its kernels. */
  readonly module: Module;
  readonly blocksPerProcessor: number;
  readonly registers: number;
  /** Spills and stack of a thread. */
  readonly localBytes: number;
  readonly staticSharedBytes: number;
}

const moduleOut = out<ModuleHandle>();
const kernelOut = out<KernelHandle>();

/** A kernel that the native library holds, by name. Errors: DeviceError when there is none. */
export function findKernel(device: Context, name: string): Kernel {
  const facts = new KernelFacts();
  const status = native().fb_kernel_find(device.handle, cString(name), kernelOut, facts.view);
  check(status, `kernel ${name}`);
  const { paramsBytes, itemRows } = facts;
  return { name, handle: valueOf(kernelOut), paramsBytes, itemRows };
}

/** A loaded module, and its device while that is held. */
interface Loaded {
  readonly handle: ModuleHandle;
  readonly device: WeakRef<Context>;
}

/** Unloads forgotten modules, once what is queued is done. A device that goes takes its own. */
const forgotten = new FinalizationRegistry<Loaded>(({ handle, device }) => unload(handle, device));

function unload(handle: ModuleHandle, device: WeakRef<Context>): void {
  const held = device.deref();
  if (held !== undefined && !held.disposed) native().fb_module_unload(handle);
}

/** Kernels loaded from one image (a cubin) on a CUDA device. */
export class Module extends Owner {
  readonly #handle: ModuleHandle;
  readonly #device: WeakRef<Context>;

  /** Errors: CudaError for an image that the device does not run. */
  constructor(device: Context, image: Uint8Array, label: string) {
    super(label);
    const status = native().fb_module_load(device.handle, image, image.byteLength, moduleOut);
    check(status, label);
    this.#handle = valueOf(moduleOut);
    this.#device = new WeakRef(device);
    forgotten.register(this, { handle: this.#handle, device: this.#device }, this);
  }

  /** A kernel by name. Errors: CudaError for traits that do not fit the device, DeviceError. */
  kernel(name: string, launch: LaunchTraits): CudaKernel {
    this.guard();
    const traits = new KernelTraits();
    traits.threads = launch.threads;
    traits.sharedBytes = launch.sharedBytes ?? 0;
    traits.cluster = launch.cluster ?? 1;
    traits.persistent = launch.persistent ? 1 : 0;
    traits.programmatic = launch.programmatic ? 1 : 0;
    traits.itemRows = launch.itemRows ?? 1;
    const facts = new KernelFacts();
    const status = native().fb_module_kernel(
      this.#handle,
      cString(name),
      traits.view,
      facts.view,
      kernelOut,
    );
    check(status, `kernel ${name} of ${this.label}`);
    const { paramsBytes, itemRows, blocksPerProcessor, registers, localBytes } = facts;
    const { staticSharedBytes } = facts;
    const loaded = { registers, localBytes, staticSharedBytes, module: this };
    const handle = valueOf(kernelOut);
    return { name, handle, paramsBytes, itemRows, blocksPerProcessor, ...loaded };
  }

  protected override release(): void {
    forgotten.unregister(this);
    unload(this.#handle, this.#device);
  }
}
