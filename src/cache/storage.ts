/** Storage of a cache's planes: its own tensors, or those that the caller gives. */
import type { Device } from "../device/device.ts";
import { OptionError } from "../errors.ts";
import { requireOrder } from "../tensor/page-order.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";
import type { PagedCacheOptions, PlaneOptions } from "./options.ts";

/** The planes of one layer. */
export interface LayerStorage {
  /** Views [pages, pageSize, heads, dim], by plane. */
  readonly views: Tensor[];
  /** Tensors that were allocated for them. */
  readonly owned: Tensor[];
}

/** Allocates a layer's planes, or takes the caller's. Errors: OptionError, OutOfMemoryError. */
export function layerStorage(
  device: Device,
  options: PagedCacheOptions,
  planes: readonly PlaneOptions[],
  layer: number,
  pages: number,
): LayerStorage {
  if (options.storage !== undefined)
    return { views: planes.map((plane) => foreign(options, layer, plane, pages)), owned: [] };
  if (options.combined) return combined(device, options, planes, pages);
  const owned: Tensor[] = [];
  try {
    for (const plane of planes) {
      const shape = storageShape(options, plane, pages);
      owned.push(Tensor.empty(device, shape, plane.dtype, `KV cache ${plane.name}`));
    }
  } catch (error) {
    for (const tensor of owned) tensor[Symbol.dispose]();
    throw error;
  }
  const isHnd = options.layout === "HND";
  return { views: isHnd ? owned.map((tensor) => tensor.permute(0, 2, 1, 3)) : [...owned], owned };
}

/** Keys and values side by side in one tensor, as other libraries have them. */
function combined(
  device: Device,
  options: PagedCacheOptions,
  [first, second]: readonly PlaneOptions[],
  pages: number,
): LayerStorage {
  const shape = storageShape(options, first, pages);
  if (second === undefined || storageShape(options, second, pages).join() !== shape.join()) {
    const fix = "leave combined out, or give key and value the same heads and dim.";
    throw new OptionError("combined", true, "used with two planes of one shape", fix);
  }
  const whole = [pages, 2, ...shape.slice(1)];
  const tensor = Tensor.empty(device, whole, first.dtype, "KV cache key and value");
  const views = [0, 1].map((index) => {
    const view = tensor.select(1, index);
    return options.layout === "HND" ? view.permute(0, 2, 1, 3) : view;
  });
  return { views, owned: [tensor] };
}

function storageShape(options: PagedCacheOptions, plane: PlaneOptions, pages: number): number[] {
  const { pageSize, layout } = options;
  const { heads, dim } = plane;
  return layout === "HND" ? [pages, heads, pageSize, dim] : [pages, pageSize, heads, dim];
}

function foreign(
  options: PagedCacheOptions,
  layer: number,
  plane: PlaneOptions,
  pages: number,
): Tensor {
  const tensor = options.storage!(layer, plane);
  const shape = [pages, options.pageSize, plane.heads, plane.dim];
  const option = `storage(${layer}, ${plane.name})`;
  requireTensor(option, tensor);
  if (tensor.shape.join() !== shape.join() || tensor.strides[3] !== 1) {
    const allowed = `a view [${shape.join(", ")}] whose innermost stride is 1`;
    const got = `[${tensor.shape.join(", ")}] with strides [${tensor.strides.join(", ")}]`;
    throw new OptionError(option, got, allowed, "permute the view.");
  }
  if (tensor.dtype !== plane.dtype)
    throw new OptionError(option, tensor.dtype, plane.dtype, "match.");
  requireOrder(option, tensor, options.layout);
  return tensor;
}
