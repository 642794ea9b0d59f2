import { OptionError } from "../errors.ts";
import {
  type Extent,
  inputAxes,
  type ScalarSpec,
  scalarsMax,
  tensorAxesMax,
  type TensorDtype,
  type TensorSpec,
  tensorsMax,
} from "./expression.ts";

/** A tensor of a variant, as declared. */
export interface TensorDeclaration {
  readonly dtype: TensorDtype;
  /** For each axis a number, a size by name (such as "queryHeads"), or "any". */
  readonly shape: readonly Extent[];
}

/** A scalar's type, optionally with the value for runs that give none. */
export type ScalarDeclaration =
  "f32" | "i32" | { readonly type: "f32" | "i32"; readonly fallback?: number };

const dtypes = ["f32", "f16", "bf16", "f8e4m3", "f8e5m2", "i32", "u8", "bool"] as const;
const extents: readonly Extent[] = [
  "queryHeads",
  "kvHeads",
  "headDim",
  "valueDim",
  "requests",
  "tokens",
  "slots",
  "any",
];
const parts = ["name", "tensors", "scalars", "softmax", "visible"];
const hookNamesAreFunctions = ["query", "key", "value", "logits", "mask", "output", "visible"];

/**
 * The declarations of a definition, checked. `more`: parts in addition to those that all kinds
 * have.
 */
export function checkDefinition(
  definition: object,
  more: readonly string[],
): { tensors: TensorSpec[]; scalars: ScalarSpec[] } {
  if (typeof definition !== "object" || definition === null)
    throw new OptionError("variant", definition, "an object", "give { name, logits, ... }.");
  const given = definition as Record<string, unknown>;
  for (const part of Object.keys(given)) {
    const all = [...parts, ...more];
    if (!all.includes(part)) {
      const allowed = `one of ${all.join(", ")}`;
      throw new OptionError("a part of the variant", part, allowed, "correct or remove it.");
    }
  }
  const { name, tensors = {}, scalars = {}, softmax } = given;
  if (typeof name !== "string" || name === "" || name.length > 100)
    throw new OptionError("variant.name", name, "a text of 1 to 100 characters", "name it.");
  if (softmax !== undefined && typeof softmax !== "boolean")
    throw new OptionError("variant.softmax", softmax, "true or false", "leave it out for true.");
  for (const part of hookNamesAreFunctions) {
    if (part in given && given[part] !== undefined && typeof given[part] !== "function")
      throw new OptionError(`variant.${part}`, given[part], "a function", "give a function.");
  }
  const names = new Set<string>(["x", ...Object.keys(inputAxes)]);
  return {
    tensors: entries("tensors", tensors, tensorsMax, names).map(tensorOf),
    scalars: entries("scalars", scalars, scalarsMax, names).map(scalarOf),
  };
}

function entries(
  part: string,
  given: unknown,
  most: number,
  names: Set<string>,
): [string, unknown][] {
  if (typeof given !== "object" || given === null || Array.isArray(given))
    throw new OptionError(`variant.${part}`, given, "an object by name", "give { name: ... }.");
  const all = Object.entries(given);
  if (all.length > most)
    throw new OptionError(
      `the number of variant.${part}`,
      all.length,
      `at most ${most}`,
      part === "tensors" ? "join some into one with another axis." : "put them into a tensor.",
    );
  for (const [name] of all) {
    if (!/^[a-z_]\w{0,59}$/i.test(name) || names.has(name))
      throw new OptionError(
        `a name in variant.${part}`,
        name,
        "an identifier that nothing else of the hooks has",
        "rename it.",
      );
    names.add(name);
  }
  return all;
}

function tensorOf([name, given]: [string, unknown]): TensorSpec {
  const option = `variant.tensors.${name}`;
  const { dtype, shape } = (given ?? {}) as Partial<TensorDeclaration>;
  if (!dtypes.includes(dtype!)) {
    const fix = "declare { dtype, shape }.";
    throw new OptionError(`${option}.dtype`, dtype, `one of ${dtypes.join(", ")}`, fix);
  }
  const isExtent = (extent: Extent) =>
    typeof extent === "number"
      ? Number.isInteger(extent) && extent >= 1 && extent <= 0x7fffffff
      : extents.includes(extent);
  if (!Array.isArray(shape) || shape.length < 1 || shape.length > tensorAxesMax)
    throw new OptionError(
      `${option}.shape`,
      shape,
      `a list of 1 to ${tensorAxesMax} extents`,
      'declare an extent for each axis; "any" is one, too.',
    );
  if (!shape.every(isExtent))
    throw new OptionError(
      `${option}.shape`,
      shape,
      `positive integers and names among ${extents.join(", ")}`,
      "correct the extent.",
    );
  return { name, dtype: dtype!, shape: [...shape] };
}

function scalarOf([name, given]: [string, unknown]): ScalarSpec {
  const option = `variant.scalars.${name}`;
  const { type, fallback } = (
    typeof given === "string" ? { type: given } : (given ?? {})
  ) as Partial<ScalarSpec>;
  if (type !== "f32" && type !== "i32")
    throw new OptionError(option, given, '"f32", "i32" or { type, fallback }', "give its type.");
  const fits = type === "i32" ? fallback === (fallback! | 0) : Number.isFinite(fallback);
  if (fallback !== undefined && !fits)
    throw new OptionError(`${option}.fallback`, fallback, `a finite ${type}`, "correct it.");
  return { name, type, fallback };
}
