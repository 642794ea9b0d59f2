import { OptionError } from "../errors.ts";
import {
  anyList,
  anyObject,
  anyValue,
  listRule,
  memberRule,
  membersRule,
  otherKey,
  space,
  stringRule,
} from "./json-rules.ts";
import { integerRange, type NumberBounds, numberRange } from "./number-range.ts";
import { all, either, literal, named, oneOf, type Rule } from "./rule.ts";

/** A JSON Schema, of which docs/engine.md names what is known. */
export type JsonSchema = boolean | { readonly [keyword: string]: unknown };
type Fields = Readonly<Record<string, unknown>>;

/** Keywords that allow no more and no less. */
const remarks = [
  ["title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"],
  ["$schema", "$id", "$comment", "$defs", "definitions", "discriminator"],
].flat();
/** Keywords by the type of values that they speak of. */
const keywords: Readonly<Record<string, readonly string[]>> = {
  object: ["properties", "required", "additionalProperties", "maxProperties"],
  array: ["items", "prefixItems", "minItems", "maxItems"],
  string: ["minLength", "maxLength"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  integer: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  boolean: [],
  null: [],
};
const alternatives = ["anyOf", "oneOf", "allOf"];
const known = [
  ...new Set([...Object.values(keywords).flat(), ...alternatives, "$ref", "enum", "const", "type"]),
];
/** How deep schemas lie in each other, and how many there are, at most. */
const [depthMost, schemasMost] = [64, 10_000];

/**
 * The JSON texts that a schema allows, as this writes them: properties in the schema's order, none
 * beside them unless `additionalProperties` says so. `oneOf` is as `anyOf`. Errors: OptionError for
 * keywords that are not known, so that no schema means less than it says.
 */
export function schemaRule(schema: unknown, name: string): Rule {
  return new Compiler(schema, name).root;
}

class Compiler {
  readonly root: Rule;
  readonly #schema: unknown;
  /** By pointer. */
  readonly #referred = new Map<string, Rule>();
  #count = 0;

  constructor(schema: unknown, name: string) {
    this.#schema = schema;
    this.root = this.#refer("#", name, 0);
  }

  #rule(schema: unknown, at: string, depth: number): Rule {
    if (schema === true) return anyValue;
    if (depth > depthMost || ++this.#count > schemasMost)
      throw wrong(at, schema, `${schemasMost} schemas at most, ${depthMost} deep`, "make it less.");
    if (typeof schema !== "object" || schema === null || Array.isArray(schema))
      throw wrong(at, schema, "a JSON Schema that allows something", "give an object.");
    const fields = schema as Fields;
    const said = Object.keys(fields).filter((key) => !remarks.includes(key));
    const odd = said.find((key) => !known.includes(key));
    if (odd !== undefined) throw unknownKeyword(at, odd, fields[odd]);
    const [first] = [...alternatives, "$ref"].filter((key) => said.includes(key));
    if (first === undefined) return this.#typed(fields, said, at, depth);
    const beside = said.find((key) => key !== first);
    if (beside !== undefined)
      throw wrong(`${at}.${beside}`, fields[beside], `absent beside ${first}`, "put it inside.");
    if (first === "$ref") return this.#refer(fields["$ref"], `${at}.$ref`, depth);
    const parts = fields[first];
    const isOne = first !== "allOf" || (Array.isArray(parts) && parts.length === 1);
    if (!Array.isArray(parts) || parts.length === 0 || !isOne)
      throw wrong(`${at}.${first}`, parts, isOne ? "schemas" : "one schema", "make it one schema.");
    return either(...parts.map((part, i) => this.#rule(part, `${at}.${first}[${i}]`, depth + 1)));
  }

  /** What a pointer into the schema leads to; made once, so that schemas may hold themselves. */
  #refer(pointer: unknown, at: string, depth: number): Rule {
    const parts = typeof pointer === "string" ? pointer.split("/") : [""];
    let found = this.#schema;
    for (const part of parts.slice(1)) {
      const key = part.replaceAll("~1", "/").replaceAll("~0", "~");
      const isHeld = typeof found === "object" && found !== null && Object.hasOwn(found, key);
      found = isHeld ? (found as Fields)[key] : undefined;
    }
    if (parts[0] !== "#" || found === undefined)
      throw wrong(at, pointer, "a pointer to a part of this schema, as #/$defs/x", "mend it.");
    const made = this.#referred.get(pointer as string);
    if (made !== undefined) return made;
    let rule: Rule | undefined;
    this.#referred.set(
      pointer as string,
      named(() => rule ?? either()),
    );
    rule = this.#rule(found, at, depth + 1);
    return rule;
  }

  #typed(fields: Fields, said: readonly string[], at: string, depth: number): Rule {
    const types = typesOf(fields, said, at);
    if ("const" in fields || "enum" in fields) return enumRule(fields, said, types, at);
    const odd = said.find(
      (key) => key !== "type" && types?.every((type) => !keywords[type].includes(key)),
    );
    if (odd !== undefined)
      throw wrong(`${at}.${odd}`, fields[odd], "absent for its type", "drop it.");
    if (types === undefined) return anyValue;
    return either(...types.map((type) => this.#ofType(type, fields, at, depth)));
  }

  #ofType(type: string, fields: Fields, at: string, depth: number): Rule {
    switch (type) {
      case "object":
        return this.#object(fields, at, depth);
      case "array":
        return this.#array(fields, at, depth);
      case "string": {
        const [least, most] = counts(fields, "minLength", "maxLength", at);
        return stringRule(least, most);
      }
      case "number":
        return numberRange(boundsOf(fields, at));
      case "integer":
        return integerRange(boundsOf(fields, at));
      case "boolean":
        return either(literal("true"), literal("false"));
      default:
        return literal("null");
    }
  }

  #object(fields: Fields, at: string, depth: number): Rule {
    const { properties = {}, required = [], additionalProperties } = fields;
    const [, most] = counts(fields, "minProperties", "maxProperties", at);
    if (!isObject(properties))
      throw wrong(`${at}.properties`, properties, "an object of schemas", "give one.");
    if (!Array.isArray(required) || required.some((name) => typeof name !== "string"))
      throw wrong(`${at}.required`, required, "a list of names", "give one.");
    const isFree = !("properties" in fields) && required.length === 0;
    const others = additionalProperties ?? isFree;
    const other =
      others === false ? undefined : this.#rule(others, `${at}.additionalProperties`, depth + 1);
    const names = [...new Set([...Object.keys(properties), ...(required as string[])])];
    if (names.length === 0 && other === anyValue && most === Infinity) return anyObject;
    if (names.length > 0 && most !== Infinity)
      throw wrong(`${at}.maxProperties`, most, "absent beside properties", "drop it.");
    const member = other && memberRule(otherKey(names), other);
    if (names.length === 0) return membersRule(member ?? either(), 0, member ? most : 0);
    const values = names.map((name) => {
      if (Object.hasOwn(properties, name))
        return this.#rule(properties[name], `${at}.properties.${name}`, depth + 1);
      if (other !== undefined) return other;
      throw wrong(`${at}.required`, name, "among the properties", "describe it there.");
    });
    return objectRule(names, values, required as string[], member);
  }

  #array(fields: Fields, at: string, depth: number): Rule {
    const { items = true, prefixItems = [] } = fields;
    const [least, most] = counts(fields, "minItems", "maxItems", at);
    if (!Array.isArray(prefixItems))
      throw wrong(`${at}.prefixItems`, prefixItems, "a list of schemas", "give one.");
    if (prefixItems.length === 0) {
      if (items === false) return listRule(either(), 0, 0);
      const item = this.#rule(items, `${at}.items`, depth + 1);
      return item === anyValue && least === 0 && most === Infinity
        ? anyList
        : listRule(item, least, most);
    }
    if (items !== false || "minItems" in fields || "maxItems" in fields)
      throw wrong(`${at}.prefixItems`, prefixItems, "with items: false alone", "fix its length.");
    const rules = prefixItems.map((item, i) =>
      this.#rule(item, `${at}.prefixItems[${i}]`, depth + 1),
    );
    const parts = rules.flatMap((rule, i) => (i === 0 ? [rule] : [space, oneOf(","), space, rule]));
    return all(oneOf("["), space, ...parts, space, oneOf("]"));
  }
}

/** Named members in their order, those that are not required or not there; then others. */
export function objectRule(
  names: readonly string[],
  values: readonly Rule[],
  required: readonly string[],
  other: Rule | undefined,
): Rule {
  const comma = all(space, oneOf(","), space);
  const others = (isFirst: boolean): Rule => {
    if (other === undefined) return all();
    const more: Rule = { kind: "times", rule: all(comma, other), least: 0, most: Infinity };
    return either(all(), isFirst ? all(space, other, more) : all(comma, other, more));
  };
  // From the last one back: what may follow, where no member came before and where one did.
  let [atFirst, later] = [others(true), others(false)];
  for (let i = names.length - 1; i >= 0; i--) {
    const member = memberRule(literal(JSON.stringify(names[i])), values[i]);
    const begun = all(space, member, later);
    const goneOn = all(comma, member, later);
    const isRequired = required.includes(names[i]);
    [atFirst, later] = isRequired
      ? [begun, goneOn]
      : [either(begun, atFirst), either(goneOn, later)];
  }
  return all(oneOf("{"), atFirst, space, oneOf("}"));
}

/** The types that a schema names, else those that its keywords speak of; undefined: any. */
function typesOf(fields: Fields, said: readonly string[], at: string): string[] | undefined {
  const { type } = fields;
  if (type !== undefined) {
    const types: unknown[] = Array.isArray(type) ? type : [type];
    const odd = types.find((each) => !Object.hasOwn(keywords, each as string));
    if (odd === undefined && types.length > 0) return types as string[];
    throw wrong(`${at}.type`, type, `of ${Object.keys(keywords).join(", ")}`, "name one of them.");
  }
  const spoken = Object.keys(keywords).filter(
    (each) => each !== "integer" && keywords[each].some((key) => said.includes(key)),
  );
  return spoken.length === 0 ? undefined : spoken;
}

function enumRule(
  fields: Fields,
  said: readonly string[],
  types: readonly string[] | undefined,
  at: string,
): Rule {
  const beside = said.find((key) => !["enum", "const", "type"].includes(key));
  if (beside !== undefined)
    throw wrong(`${at}.${beside}`, fields[beside], "absent beside const and enum", "drop it.");
  const values = "const" in fields ? [fields["const"]] : fields["enum"];
  if (!Array.isArray(values)) throw wrong(`${at}.enum`, values, "a list of values", "give one.");
  const fitting = values.filter((value) => types === undefined || types.some(isOf(value)));
  if (fitting.length === 0 || fitting.length > schemasMost)
    throw wrong(`${at}.enum`, values, `1 to ${schemasMost} values of its type`, "mend them.");
  return either(...fitting.map((value) => valueRule(value, at)));
}

function isOf(value: unknown): (type: string) => boolean {
  const own = value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
  return (type) => type === own || (type === "integer" && Number.isInteger(value));
}

/** Exactly this value. */
function valueRule(value: unknown, at: string, depth = 0): Rule {
  if (depth > depthMost)
    throw wrong(at, value, `values ${depthMost} deep at most`, "make it less.");
  if (Array.isArray(value)) {
    const parts = value.flatMap((item, i) => {
      const rule = valueRule(item, at, depth + 1);
      return i === 0 ? [rule] : [space, oneOf(","), space, rule];
    });
    return all(oneOf("["), space, ...parts, space, oneOf("]"));
  }
  if (!isObject(value)) return literal(JSON.stringify(value));
  const names = Object.keys(value);
  const values = names.map((name) => valueRule(value[name], at, depth + 1));
  return objectRule(names, values, names, undefined);
}

function counts(fields: Fields, least: string, most: string, at: string): [number, number] {
  const read = (key: string, absent: number): number => {
    const value = fields[key] ?? absent;
    if (value === absent || (Number.isSafeInteger(value) && (value as number) >= 0))
      return value as number;
    throw wrong(`${at}.${key}`, value, "an integer of 0 or more", "mend it.");
  };
  const range: [number, number] = [read(least, 0), read(most, Infinity)];
  if (range[0] <= range[1]) return range;
  throw wrong(`${at}.${least}`, range[0], `at most ${most}, ${range[1]}`, "mend them.");
}

function boundsOf(fields: Fields, at: string): NumberBounds {
  const read = (key: string, absent: number): number => {
    const value = fields[key] ?? absent;
    if (value === absent || Number.isSafeInteger(value)) return value as number;
    throw wrong(`${at}.${key}`, value, "a whole number", "round it.");
  };
  const [least, above] = [read("minimum", -Infinity), read("exclusiveMinimum", -Infinity)];
  const [most, below] = [read("maximum", Infinity), read("exclusiveMaximum", Infinity)];
  const isAboveLeast = above >= least && above > -Infinity;
  const isBelowMost = below <= most && below < Infinity;
  const bounds = { least: Math.max(least, above), most: Math.min(most, below) };
  const room = bounds.most - bounds.least - (isAboveLeast ? 1 : 0) - (isBelowMost ? 1 : 0);
  const isWhole = fields["type"] === "integer";
  const isEmpty = isWhole ? room < 0 : bounds.most - bounds.least < (room < 0 ? 1 : 0);
  if (isEmpty) throw wrong(at, fields, "with a number between its bounds", "mend them.");
  return { ...bounds, isAboveLeast, isBelowMost };
}

function isObject(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function unknownKeyword(at: string, keyword: string, value: unknown): OptionError {
  const fix = "leave it out, and check what comes against it.";
  return wrong(`${at}.${keyword}`, value, `absent: known are ${known.join(", ")}`, fix);
}

function wrong(option: string, value: unknown, allowed: string, fix: string): OptionError {
  return new OptionError(option, value, allowed, fix);
}
