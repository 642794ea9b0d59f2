import type { Device } from "../device/device.ts";
import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import type { Batch } from "../kv/batch.ts";
import { requireOptions } from "../require.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Appender } from "./append.ts";
import type { PlaneOptions } from "./options.ts";
import type { StepUpload } from "./step-upload.ts";

/** What one append writes; each tensor is [tokens, heads, dim] with innermost stride 1. */
export interface AppendTensors {
  layer: number;
  batch: Batch;
  /** New keys: the plane "key". */
  k?: Tensor;
  /** New values: the plane "value". */
  v?: Tensor;
  /** Other planes by name. */
  planes?: Record<string, Tensor>;
  /** f32 scales that divide keys and values before they are rounded to fp8. */
  kScale?: Tensor;
  vScale?: Tensor;
  stream?: Stream;
}

/** Names of {@link AppendTensors}. */
export const appendNames = [
  "layer",
  "batch",
  "k",
  "v",
  "planes",
  "kScale",
  "vScale",
  "stream",
] as const;

/** The appends of a cache's steps, of all planes of a layer at once. */
export class StepAppends {
  readonly #planes: readonly PlaneOptions[];
  readonly #views: readonly (readonly Tensor[])[];
  readonly #upload: StepUpload;
  /** By layer, then one for positions alone. */
  readonly #appenders: readonly Appender[];
  /** By layer, whether names of tensors were looked at: once, not in each step. */
  readonly #named: boolean[] = [];

  /** @param views [pages, pageSize, heads, dim] by layer and plane */
  constructor(
    device: Device,
    planes: readonly PlaneOptions[],
    views: readonly (readonly Tensor[])[],
    upload: StepUpload,
    pageSize: number,
  ) {
    this.#planes = planes;
    this.#views = views;
    this.#upload = upload;
    this.#appenders = Array.from(
      { length: views.length + 1 },
      () => new Appender(device, pageSize),
    );
  }

  /**
   * Queues a layer's append, of a batch that was sent; its positions go to `keyPositions`. `by`:
   * what launches the kernel. Errors: OptionError.
   */
  queue(
    tensors: AppendTensors,
    group: number,
    keyPositions: Tensor | undefined,
    stream: Stream,
    by: Appender | undefined,
  ): void {
    const { layer, batch } = tensors;
    const appender = by ?? this.#appenders[layer];
    if (by === undefined && this.#named[layer] !== true) {
      requireOptions("tensors", tensors, appendNames);
      const names = this.#planes.map(({ name }) => name);
      if (tensors.planes !== undefined) requireOptions("planes", tensors.planes, names);
      this.#named[layer] = true;
    }
    this.#begin(appender, batch, group, keyPositions);
    for (let i = 0; i < this.#planes.length; i++) {
      const { name } = this.#planes[i];
      const source = sourceOf(tensors, name);
      appender.plane(optionOf(name), this.#views[layer][i], source, scaleOf(tensors, name));
    }
    appender.launch(stream);
  }

  /** The same of positions alone. */
  queuePositions(batch: Batch, group: number, keyPositions: Tensor, stream: Stream): void {
    const appender = this.#appenders[this.#views.length];
    this.#begin(appender, batch, group, keyPositions);
    appender.launch(stream);
  }

  #begin(appender: Appender, batch: Batch, group: number, keyPositions: Tensor | undefined): void {
    appender.begin(batch, this.#upload.tokenRequests);
    appender.bySlot(this.#upload.slotMapping(group));
    if (keyPositions !== undefined)
      appender.withPositions(keyPositions.address, this.#upload.positions);
  }
}

function sourceOf(tensors: AppendTensors, name: string): Tensor {
  const source =
    tensors.planes?.[name] ??
    (name === "key" ? tensors.k : name === "value" ? tensors.v : undefined);
  if (source !== undefined) return source;
  const fix = `pass the new tokens of plane ${name}.`;
  throw new OptionError(optionOf(name), source, "a tensor", fix);
}

/** The option of append that holds a plane's new tokens. */
function optionOf(plane: string): string {
  return plane === "key" ? "k" : plane === "value" ? "v" : `planes.${plane}`;
}

function scaleOf(tensors: AppendTensors, name: string): Tensor | undefined {
  return name === "key" ? tensors.kScale : name === "value" ? tensors.vScale : undefined;
}
