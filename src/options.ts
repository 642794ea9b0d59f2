import { OptionError } from "./errors.ts";

/** A JSON Schema, as TypeBox compiles it. `description` says what is allowed, in words. */
export interface OptionSchema {
  type?: string;
  description: string;
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

const compiled = new WeakMap<OptionSchemas, Validator>();

/**
 * Throws an OptionError for the first option that is unknown, missing or not allowed. TypeBox is
 * loaded and the schemas are compiled on first use, not when the package is imported.
 */
export function checkOptions(
  name: string,
  schemas: OptionSchemas,
  required: readonly string[],
  options: unknown,
): void {
  let validator = compiled.get(schemas);
  if (validator === undefined) compiled.set(schemas, (validator = compile(schemas, required)));
  if (validator.Check(options)) return;
  throw failureOf(name, schemas, required, options, validator.Errors(options)[1]);
}

function compile(schemas: OptionSchemas, required: readonly string[]): Validator {
  const { Compile } = require("typebox/schema") as { Compile(schema: unknown): Validator };
  return Compile({ type: "object", properties: schemas, required, additionalProperties: false });
}

function failureOf(
  name: string,
  schemas: OptionSchemas,
  required: readonly string[],
  options: unknown,
  failures: Failure[],
): OptionError {
  if (typeof options !== "object" || options === null) {
    return new OptionError(name, options, "an object", "pass an object of options.");
  }
  const values = options as Record<string, unknown>;
  const known = Object.keys(schemas);
  const missing = required.find((option) => values[option] === undefined);
  if (missing !== undefined) {
    return new OptionError(missing, undefined, schemas[missing].description, `set ${missing}.`);
  }
  const unknown = Object.keys(values).find((option) => !known.includes(option));
  if (unknown !== undefined) {
    const allowed = `one of the options ${known.join(", ")}`;
    return new OptionError(`${name}.${unknown}`, values[unknown], allowed, `remove or rename it.`);
  }
  const wrong = failures[0]?.instancePath.split("/")[1] ?? known[0];
  return new OptionError(wrong, values[wrong], schemas[wrong].description, `change ${wrong}.`);
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

/** One of the given strings. */
export function oneOf(values: readonly string[]): OptionSchema {
  return { enum: values, description: `one of ${values.join(", ")}` };
}

/** True or false. */
export const flag: OptionSchema = { type: "boolean", description: "true or false" };

/** Anything: checked by the code that takes it. */
export function unchecked(description: string): OptionSchema {
  return { description };
}
