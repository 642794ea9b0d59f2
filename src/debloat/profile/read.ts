/** Reads a profile from what is unknown: JSON, or what a caller gives. */
import { OptionError } from "../../errors.ts";
import { joinRanges } from "../elf/ranges.ts";
import { joinCubins, joinFunctions, joinNames } from "./join.ts";
import type { CubinId, HostMode, Profile, ProfiledLibrary, ProfileRun } from "./types.ts";

/** Where a value is; text of it is made only when one is wrong, as profiles have many values. */
interface Place {
  readonly of?: Place;
  key: string | number;
}

/** Reads one value of a profile's JSON. */
type Reader<T> = (value: unknown, at: Place) => T;

/** Where a value is wrong, before anyone knows the file's name. */
export class Misfit extends Error {}

/** Throws an OptionError unless `value` is a profile. */
export function requireProfile(option: string, value: unknown): asserts value is Profile {
  try {
    readProfile(value);
  } catch (cause) {
    if (!(cause instanceof Misfit)) throw cause;
    const fix = `pass what parseProfile or traceCommand gave: ${cause.message}.`;
    throw new OptionError(option, value, "a profile", fix);
  }
}

function misfit(at: Place, allowed: string): Misfit {
  return new Misfit(`${textOf(at) || "it"} must be ${allowed}`);
}

/** As in libraries.ab12.pages[3]; nothing for the whole. */
function textOf({ of, key }: Place): string {
  const before = of === undefined ? "" : textOf(of);
  if (typeof key === "number") return `${before}[${key}]`;
  return before === "" ? key : `${before}.${key}`;
}

/** An object with exactly these properties. */
function record<T extends object>(readers: { [K in keyof T]: Reader<T[K]> }): Reader<T> {
  const names = Object.keys(readers) as (keyof T & string)[];
  return (value, at) => {
    const object = objectAt(value, at);
    const read = names.map((name) => [name, readers[name](object[name], { of: at, key: name })]);
    const unknown = Object.keys(object).find((key) => !Object.hasOwn(readers, key));
    if (unknown !== undefined) {
      const place = textOf({ of: at, key: unknown });
      throw new Misfit(`${place} is not known; known are ${names.join(", ")}`);
    }
    return Object.fromEntries(read) as T;
  };
}

function objectAt(value: unknown, at: Place): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw misfit(at, "an object");
  return value as Record<string, unknown>;
}

function list<T>(reader: Reader<T>): Reader<T[]> {
  return (value, at) => {
    if (!Array.isArray(value)) throw misfit(at, "a list");
    const place = { of: at, key: 0 };
    return Array.from(value, (item: unknown, index) => {
      place.key = index;
      return reader(item, place);
    });
  };
}

/** A reader whose result is put in order. */
function ordered<T, U>(reader: Reader<T>, order: (value: T) => U): Reader<U> {
  return (value, at) => order(reader(value, at));
}

/** A reader of what may be absent. */
function optional<T>(reader: Reader<T>): Reader<T | undefined> {
  return (value, at) => (value === undefined ? undefined : reader(value, at));
}

const text: Reader<string> = (value, at) => {
  if (typeof value !== "string") throw misfit(at, "a string");
  return value;
};

const textOrNull: Reader<string | null> = (value, at) => {
  if (typeof value !== "string" && value !== null) throw misfit(at, "a string or null");
  return value;
};

function integer(most: number): Reader<number> {
  return (value, at) => {
    if (!Number.isSafeInteger(value) || (value as number) < 0 || (value as number) > most)
      throw misfit(at, `an integer from 0 to ${most}`);
    return value as number;
  };
}

const address = integer(2 ** 48);

/** [start, length] within addresses of 2^48 bytes, in whichever unit. */
const span: Reader<[number, number]> = (value, at) => {
  if (!Array.isArray(value) || value.length !== 2) throw misfit(at, "a pair of numbers");
  const place = { of: at, key: 0 };
  const start = address(value[0], place);
  place.key = 1;
  return [start, address(value[1], place)];
};

const hostMode: Reader<HostMode> = (value, at) => {
  if (value !== "pages" && value !== "functions" && value !== "off")
    throw misfit(at, "pages, functions or off");
  return value;
};

const idPattern = /^(([0-9a-f]{2}){1,64}|sha256:[0-9a-f]{64})$/;

const cubin = record<CubinId>({ bytes: integer(2 ** 48), crc32: integer(2 ** 32 - 1) });
const cubins = ordered(list(cubin), (read) => joinCubins(read, []));
const names = ordered(list(text), (read) => joinNames(read, []));

const run = record<ProfileRun>({
  command: list(text),
  date: text,
  host: hostMode,
  gpu: textOrNull,
  driver: textOrNull,
  cuda: textOrNull,
});

/** Whether functions are sorted, each once. */
function isAscending(functions: readonly [number, number][]): boolean {
  return functions.every(([start], at) => at === 0 || functions[at - 1][0] < start);
}

const library = record<ProfiledLibrary>({
  path: text,
  bytes: integer(2 ** 48),
  kernels: names,
  cubins,
  globals: names,
  pages: ordered(list(span), joinRanges),
  devicePages: optional(ordered(list(span), joinRanges)),
  functions: ordered(list(span), (read) => (isAscending(read) ? read : joinFunctions(read, []))),
});

const libraries: Reader<Record<string, ProfiledLibrary>> = (value, at) => {
  const entries = Object.entries(objectAt(value, at)).map(([id, item]) => {
    if (!idPattern.test(id))
      throw new Misfit(`the key ${JSON.stringify(id)} of ${textOf(at)} must be ${allowedId}`);
    return [id, library(item, { of: at, key: id })] as const;
  });
  return Object.fromEntries(entries);
};
const allowedId = "a build id in hex, or sha256: and 64 digits";

const versionOne: Reader<1> = (value, at) => {
  if (value !== 1) throw misfit(at, "1, the only version that this flashbun reads");
  return 1;
};

const whole = record<Profile>({
  version: versionOne,
  runs: list(run),
  libraries,
  unresolved: record<Profile["unresolved"]>({ kernels: names, cubins }),
});

/** Reads a whole profile. Errors: Misfit. */
export function readProfile(value: unknown): Profile {
  return whole(value, { key: "" });
}
