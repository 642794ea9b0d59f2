import { OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";

/** Axes that a tensor may have. */
export const axesMax = 6;

/** The shape, unless it has too many axes or sizes out of range. Errors: OptionError. */
export function checkShape(shape: readonly number[]): readonly number[] {
  if (!Array.isArray(shape) || shape.length > axesMax) {
    throw new OptionError(
      "shape",
      shape,
      `an array of at most ${axesMax} sizes`,
      "give the sizes.",
    );
  }
  for (const size of shape) requireInteger("shape", size, 0, 2 ** 47);
  return shape;
}

/** Throws an OptionError unless there is an integer for each axis. */
export function checkStrides(strides: readonly number[], shape: readonly number[]): void {
  const isList = Array.isArray(strides) && strides.length === shape.length;
  if (isList && strides.every(Number.isSafeInteger)) return;
  throw new OptionError("strides", strides, `${shape.length} integers`, "one for each axis.");
}

/** Strides, in elements, of a row-major tensor without gaps. */
export function denseStrides(shape: readonly number[]): number[] {
  const strides = shape.map(() => 1);
  for (let axis = shape.length - 2; axis >= 0; axis--) {
    strides[axis] = strides[axis + 1] * shape[axis + 1];
  }
  return strides;
}

/** Elements of a tensor of that shape. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Throws an OptionError unless a shape has as many elements as the one that it replaces. */
export function requireAsMany(shape: readonly number[], before: readonly number[]): void {
  const wanted = elementsOf(before);
  if (elementsOf(shape) === wanted) return;
  throw new OptionError("shape", shape, `sizes of ${wanted} elements`, `match [${before}].`);
}

/** Throws an OptionError unless data of `count` elements fill a shape. */
export function requireCount(count: number, shape: readonly number[]): void {
  const wanted = elementsOf(shape);
  if (count === wanted) return;
  throw new OptionError("data", `${count} elements`, `${wanted} elements`, `match [${shape}].`);
}
