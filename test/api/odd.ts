/** Odd arguments: right ones of which something is replaced, left out or added. */
import type { Random } from "../support/random.ts";

/** A number that a call trusts, such as an address: replaced by what is no such number only. */
export class Trusted {
  constructor(readonly value: unknown) {}
}

const noNumbers: readonly unknown[] = [
  undefined,
  null,
  0,
  -1,
  1.5,
  NaN,
  "x",
  {},
  [],
  2n,
  -Infinity,
];

const small = [0, -0, 1, 3, -1, 1.5, NaN, Infinity, -Infinity, 1e308, 5e-324];
const large = [127, 65536, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 48, 2 ** 53, -(2 ** 31)];
const numbers: readonly unknown[] = [...small, ...large];

/** Values of every kind, made anew for each use. */
function anyValue(random: Random, live: readonly unknown[]): unknown {
  const makers: (() => unknown)[] = [
    () => random.pick(numbers),
    () => random.pick(numbers),
    () => random.pick(live),
    () => random.pick([undefined, null, true, false, 10n, 2n ** 64n, Symbol("odd")]),
    () => random.pick(["", "x", "0", "f32", "bf16", "cpu", "toString", "__proto__", "\0"]),
    () => random.pick([[], [1], [undefined], [[1]], new Array(5), [NaN, "x"], ["a", "a"]]),
    () => random.pick([{}, Object.create(null), { x: 1 }, new Date(0), /x/, new Map(), [1, , 3]]),
    () => ({ length: random.pick([3, -1, 1.5, 2 ** 32, 2 ** 53 - 1, "2"]) }),
    () => random.pick([() => 5, async () => 5, function* () {}, Promise.resolve(5)]),
    () => random.pick([new Int32Array(0), Int32Array.of(-1, 2), Float64Array.of(NaN)]),
    () => random.pick([new Uint8Array(4), new BigInt64Array(2), new DataView(new ArrayBuffer(8))]),
  ];
  return random.pick(makers)();
}

/** What a mutation may replace: a place in an array or a plain object. */
interface Place {
  holder: Record<string, unknown>;
  key: string;
}

function isPlain(value: unknown): value is Record<string, unknown> {
  return (
    typeof value === "object" &&
    value !== null &&
    [Object.prototype, Array.prototype].includes(Object.getPrototypeOf(value))
  );
}

/** A copy down to what is `live`, or neither an array, a plain object nor a typed array. */
function copied(value: unknown, live: readonly unknown[]): unknown {
  if (live.includes(value)) return value;
  if (Array.isArray(value)) return value.map((item) => copied(item, live));
  if (isPlain(value))
    return Object.fromEntries(Object.entries(value).map(([key, v]) => [key, copied(v, live)]));
  return value instanceof Int32Array ? value.slice() : value;
}

function placesIn(
  holder: Record<string, unknown>,
  live: readonly unknown[],
  places: Place[] = [],
): Place[] {
  for (const key of Object.keys(holder)) {
    places.push({ holder, key });
    const value = holder[key];
    if ((isPlain(value) || value instanceof Int32Array) && !live.includes(value))
      placesIn(value as Record<string, unknown>, live, places);
  }
  return places;
}

/** The arguments with up to three changes; `live` are objects that may turn up anywhere. */
export function oddArguments(
  random: Random,
  right: readonly unknown[],
  live: readonly unknown[],
): unknown[] {
  const args = copied(right, live) as unknown[];
  for (let changes = random.pick([0, 1, 1, 1, 1, 2, 3]); changes > 0; changes--) {
    const places = placesIn(args as unknown as Record<string, unknown>, live);
    if (places.length === 0) {
      args.push(anyValue(random, live));
      continue;
    }
    // The outermost places are few, and the checks of the inner ones many.
    const { holder, key } = random.chance(0.3)
      ? {
          holder: args as unknown as Record<string, unknown>,
          key: String(random.integer(0, args.length - 1)),
        }
      : random.pick(places);
    const value = holder[key];
    if (value instanceof Trusted) holder[key] = new Trusted(random.pick(noNumbers));
    else if (holder instanceof Int32Array)
      (holder as Int32Array)[Number(key)] = random.pick([-1, 0, 7, 2 ** 31 - 1]);
    else if (random.chance(0.1)) delete holder[key];
    else if (random.chance(0.1) && isPlain(value) && !live.includes(value))
      value["odd"] = anyValue(random, live);
    else if (random.chance(0.1) && Array.isArray(value)) value.length = random.integer(0, 3);
    else holder[key] = anyValue(random, live);
  }
  return trustedValues(args, live) as unknown[];
}

function trustedValues(value: unknown, live: readonly unknown[]): unknown {
  if (value instanceof Trusted) return value.value;
  if (!isPlain(value) || live.includes(value)) return value;
  for (const key of Object.keys(value)) value[key] = trustedValues(value[key], live);
  return value;
}

/** The arguments as they are. */
export function withTrusted(args: readonly unknown[]): unknown[] {
  return args.map((value) => (value instanceof Trusted ? value.value : value));
}

/** A value in a line of a report. */
export function shown(value: unknown): string {
  return Bun.inspect(value, { depth: 3 }).replace(/\s+/g, " ").slice(0, 600);
}
