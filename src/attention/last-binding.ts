import type { PagedCache } from "../cache/paged-cache.ts";
import type { Batch } from "../kv/batch.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type RunTensors, tensorNames } from "./bind.ts";
import type { AttentionLaunch, Planes } from "./launch.ts";

/**
 * What the last run checked and bound. The layers of a step differ in their planes only, so a run
 * of the same tensors has its planes put in place and nothing else.
 */
export class LastBinding {
  readonly #tensors: (Tensor | undefined)[] = new Array(tensorNames.length);
  #batch: Batch | undefined;
  #generation = -1;
  #cache: PagedCache | undefined;
  /** Planes of the layers that were bound, in the format of the parameters. */
  #planes: (Planes | undefined)[] = [];

  /** Puts the layer's planes in place when all else is bound; false when it has to be. */
  reuse(launch: AttentionLaunch, batch: Batch, tensors: RunTensors): boolean {
    if (batch !== this.#batch || batch.generation !== this.#generation) return false;
    if (tensors.cache === undefined || tensors.cache !== this.#cache) return false;
    const planes = this.#planes[tensors.layer ?? 0];
    if (planes === undefined) return false;
    for (let i = 0; i < tensorNames.length; i++) {
      const tensor = tensors[tensorNames[i]];
      if (tensor !== this.#tensors[i]) return false;
      tensor?.guard();
    }
    this.#cache.guard();
    launch.putPlanes(planes);
    return true;
  }

  /** Remembers a run that was bound. */
  keep(launch: AttentionLaunch, batch: Batch, tensors: RunTensors): void {
    // Scales are checked against the pages of each layer.
    const { cache, layer = 0, kScale, vScale } = tensors;
    this.#batch = kScale === undefined && vScale === undefined ? batch : undefined;
    this.#generation = batch.generation;
    if (cache !== this.#cache) this.#planes = [];
    this.#cache = cache;
    if (cache !== undefined) this.#planes[layer] = launch.keepPlanes();
    for (let i = 0; i < tensorNames.length; i++) this.#tensors[i] = tensors[tensorNames[i]];
  }

  /** Forgets: what is bound next is checked in full. */
  clear(): void {
    this.#batch = undefined;
  }
}
