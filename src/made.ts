/** Kinds of objects that users pass back as they got them: what is in them is not checked again. */
export type MadeKind = "plan" | "variant" | "expression" | "batch";

const key = Symbol.for("flashbun made");
const home = globalThis as { [key]?: Map<MadeKind, WeakSet<object>> };
/** On globalThis, so that what was made before a hot reload still serves. */
const byKind = (home[key] ??= new Map());
/** By kind, the prototype that was asked for last and is noted: steps ask for one at each call. */
const lastPrototype: { [Kind in MadeKind]?: object } = {};

/** Notes that flashbun made an object, and returns it. */
export function made<T extends object>(kind: MadeKind, object: T): T {
  let objects = byKind.get(kind);
  if (objects === undefined) byKind.set(kind, (objects = new WeakSet()));
  objects.add(object);
  return object;
}

/** Whether flashbun made it, or the prototype that it has, rather than that it looks alike. */
export function isMade(kind: MadeKind, value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  const prototype = Object.getPrototypeOf(value) as object | null;
  if (prototype !== null && prototype === lastPrototype[kind]) return true;
  const objects = byKind.get(kind);
  if (objects === undefined) return false;
  if (objects.has(value)) return true;
  if (prototype === null || !objects.has(prototype)) return false;
  lastPrototype[kind] = prototype;
  return true;
}
