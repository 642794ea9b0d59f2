import type { CudaKernel } from "./kernel.ts";

/** Kernels that stay loaded though nobody holds them. */
const keptMost = 128;

/**
 * Kernels of specialised images by name, loaded once. The last ones used stay loaded, and those
 * that somebody holds: an attention object, a graph that captured their launch. Others are
 * forgotten, and unloaded behind all that is queued.
 */
export class KernelCache {
  readonly #recent = new Map<string, CudaKernel>();
  readonly #known = new Map<string, WeakRef<CudaKernel>>();

  /** Kernels that are loaded, those that are forgotten but not yet unloaded too. */
  get size(): number {
    return this.#known.size;
  }

  /** The kernel of a name, loaded by `load` where it is not. Errors: those of `load`. */
  get(name: string, load: () => CudaKernel): CudaKernel {
    const kernel = this.#known.get(name)?.deref() ?? load();
    for (const [each, known] of this.#known)
      if (known.deref() === undefined) this.#known.delete(each);
    if (!this.#known.has(name)) this.#known.set(name, new WeakRef(kernel));
    this.#recent.delete(name);
    this.#recent.set(name, kernel);
    if (this.#recent.size > keptMost) this.#recent.delete(this.#recent.keys().next().value!);
    return kernel;
  }
}
