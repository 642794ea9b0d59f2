import { OptionError } from "./errors.ts";
import { unknownOption } from "./require.ts";

/** A JSON Schema, as TypeBox compiles it. `description` says what is allowed, in words. */
export interface OptionSchema {
  type?: string;
  description: string;
  /** Of an object. */
  properties?: OptionSchemas;
  required?: readonly string[];
  /** Of a list. */
  items?: OptionSchema;
  [keyword: string]: unknown;
}

/** Schemas of an options object, by option. */
export type OptionSchemas = Record<string, OptionSchema>;

interface Failure {
  keyword: string;
  instancePath: string;
}

interface Validator {
  Check(value: unknown): boolean;
  Errors(value: unknown): [boolean, Failure[]];
}

interface Checked {
  schema: OptionSchema;
  validator: Validator;
}

const compiled = new WeakMap<OptionSchemas, Checked>();

/**
 * Throws an OptionError for the first option that is unknown, missing or not allowed. TypeBox is
 * loaded and the schemas are compiled on first use, not when the package is imported.
 * `prefix` begins the options' names.
 */
export function checkOptions(
  name: string,
  schemas: OptionSchemas,
  required: readonly string[],
  options: unknown,
  prefix = "",
): void {
  let checked = compiled.get(schemas);
  if (checked === undefined) {
    compiled.set(schemas, (checked = compile(object(schemas, required, "an object of options"))));
  }
  const { schema, validator } = checked;
  const hole = holeIn(options);
  if (hole === undefined && validator.Check(options)) return;
  const path = hole ?? validator.Errors(options)[1][0]?.instancePath.split("/").slice(1) ?? [];
  throw failureOf(name, prefix, schema, options, path);
}

/** The path to a list's entry that was never set, which validators skip. */
function holeIn(value: unknown, depth = 4): string[] | undefined {
  if (depth === 0 || typeof value !== "object" || value === null || ArrayBuffer.isView(value))
    return undefined;
  const isList = Array.isArray(value);
  if (!isList && Object.getPrototypeOf(value) !== Object.prototype) return undefined;
  for (const key of isList ? value.keys() : Object.keys(value)) {
    if (isList && !(key in value)) return [String(key)];
    const inner = holeIn((value as Record<string, unknown>)[key], depth - 1);
    if (inner !== undefined) return [String(key), ...inner];
  }
  return undefined;
}

function compile(schema: OptionSchema): Checked {
  const { Compile } = require("typebox/schema") as { Compile(schema: unknown): Validator };
  return { schema, validator: Compile(schema) };
}

/**
 * The error of `value`, or of what lies at `path` in it. An option's name begins with `prefix`,
 * that of the object which holds it.
 */
function failureOf(
  name: string,
  prefix: string,
  schema: OptionSchema,
  value: unknown,
  path: readonly string[],
): OptionError {
  const [key, ...rest] = path;
  const { items, properties, required = [], description } = schema;
  if (items !== undefined && key !== undefined) {
    const item = (value as unknown[])[Number(key)];
    return failureOf(`${name}[${key}]`, `${name}[${key}].`, items, item, rest);
  }
  if (properties === undefined || typeof value !== "object" || value === null) {
    return new OptionError(name, value, description, `change ${name}.`);
  }
  const values = value as Record<string, unknown>;
  const known = Object.keys(properties);
  const missing = required.find((option) => values[option] === undefined);
  if (missing !== undefined) {
    const allowed = properties[missing].description;
    return new OptionError(`${prefix}${missing}`, undefined, allowed, `set ${prefix}${missing}.`);
  }
  // Validators count properties that are not enumerable, as those of a RegExp.
  const unknown = Object.getOwnPropertyNames(values).find((option) => !known.includes(option));
  if (unknown !== undefined) {
    return unknownOption(name, unknown, values[unknown], known);
  }
  const wrong = key ?? known[0];
  const option = `${prefix}${wrong}`;
  return failureOf(option, `${option}.`, properties[wrong], values[wrong], rest);
}

/** An integer in [least, most]. */
export function integer(least: number, most = 2 ** 31 - 1): OptionSchema {
  const description = `an integer from ${least} to ${most}`;
  return { type: "integer", minimum: least, maximum: most, description };
}

/** A finite number in [least, most]. */
export function finite(least = -Number.MAX_VALUE, most = Number.MAX_VALUE): OptionSchema {
  const range =
    least <= -Number.MAX_VALUE ? "" : ` from ${least}${most < 1e300 ? ` to ${most}` : " up"}`;
  return { type: "number", minimum: least, maximum: most, description: `a finite number${range}` };
}

/** A finite number above 0. */
export const positive: OptionSchema = {
  type: "number",
  exclusiveMinimum: 0,
  maximum: Number.MAX_VALUE,
  description: "a finite number above 0",
};

/** One of the given strings. */
export function oneOf(values: readonly string[]): OptionSchema {
  return { enum: values, description: `one of ${values.join(", ")}` };
}

/** True or false. */
export const flag: OptionSchema = { type: "boolean", description: "true or false" };

/** A list of items of one schema. */
export function list(items: OptionSchema, description: string): OptionSchema {
  return { type: "array", items, description };
}

/** An object with these properties and no others. */
export function object(
  properties: OptionSchemas,
  required: readonly string[],
  description: string,
): OptionSchema {
  return { type: "object", properties, required, additionalProperties: false, description };
}

/** Anything: checked by the code that takes it. */
export function unchecked(description: string): OptionSchema {
  return { description };
}
