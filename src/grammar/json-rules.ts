import { all, either, bytes, literal, named, oneOf, optional, type Rule, times } from "./rule.ts";

const digit = bytes([0x30, 0x39]);
const hexDigit = bytes([0x30, 0x39], [0x41, 0x46], [0x61, 0x66]);
const continuation = bytes([0x80, 0xbf]);

/** Characters beyond ASCII, in well-formed UTF-8 (Unicode 16, table 3-7). */
const beyondAscii = either(
  all(bytes([0xc2, 0xdf]), continuation),
  all(bytes([0xe0, 0xe0]), bytes([0xa0, 0xbf]), continuation),
  all(bytes([0xe1, 0xec], [0xee, 0xef]), continuation, continuation),
  all(bytes([0xed, 0xed]), bytes([0x80, 0x9f]), continuation),
  all(bytes([0xf0, 0xf0]), bytes([0x90, 0xbf]), continuation, continuation),
  all(bytes([0xf1, 0xf3]), continuation, continuation, continuation),
  all(bytes([0xf4, 0xf4]), bytes([0x80, 0x8f]), continuation, continuation),
);

/** A character in ASCII that a JSON string holds as it is, but for some. */
function asciiCharacter(except: string): Rule {
  const allowed = new Uint8Array(256);
  allowed.fill(1, 0x20, 0x80);
  for (const character of `"\\${except}`) allowed[character.charCodeAt(0)] = 0;
  return { kind: "byte", allowed };
}

/** A character that a JSON string holds as it is, but for some in ASCII. */
function plainCharacter(except = ""): Rule {
  return either(asciiCharacter(except), beyondAscii);
}

/** Halves of pairs are left out: a character counts once. */
const codeUnit = either(
  all(bytes([0x30, 0x39], [0x41, 0x43], [0x45, 0x46]), times(hexDigit, 3, 3)),
  all(bytes([0x61, 0x63], [0x65, 0x66]), times(hexDigit, 3, 3)),
  all(oneOf("dD"), bytes([0x30, 0x37]), times(hexDigit, 2, 2)),
);
const escape = all(oneOf("\\"), either(oneOf('"\\/bfnrt'), all(oneOf("u"), codeUnit)));
const character = either(plainCharacter(), escape);
const quote = oneOf('"');

/** A JSON string of so many characters. */
export function stringRule(least = 0, most = Infinity): Rule {
  return all(quote, times(character, least, most), quote);
}

/**
 * A JSON string that is none of some names, written without escapes: keys beside those that an
 * object names.
 */
export function otherKey(names: readonly string[]): Rule {
  return all(quote, otherThan(names));
}

/** The rest of such a key, behind what some names begin with: `rests` are theirs. */
function otherThan(rests: readonly string[]): Rule {
  if (rests.length === 0) return all(times(plainCharacter(), 0, Infinity), quote);
  const byFirst = Map.groupBy(
    rests.filter((rest) => rest !== ""),
    (rest) => rest[0],
  );
  const firsts = [...byFirst.keys()];
  // What begins like a name beyond ASCII is not told apart from it.
  const isAscii = firsts.every((first) => first < "\x80");
  const other = isAscii ? plainCharacter(firsts.join("")) : asciiCharacter(firsts.join(""));
  // A name that JSON writes with an escape is no key without one.
  const shared = [...byFirst].filter(([first]) => first >= " " && !'"\\'.includes(first));
  return either(
    ...(rests.includes("") ? [] : [quote]),
    all(other, times(plainCharacter(), 0, Infinity), quote),
    ...shared.flatMap(([first, group]) =>
      first < "\x80" ? [all(oneOf(first), otherThan(group.map((rest) => rest.slice(1))))] : [],
    ),
  );
}

const whole = either(oneOf("0"), all(bytes([0x31, 0x39]), times(digit, 0, Infinity)));
const exponent = all(oneOf("eE"), optional(oneOf("+-")), times(digit, 1, 3));

/** Any integer, without an exponent. */
export const integerRule: Rule = all(optional(oneOf("-")), whole);

/** Any number. */
export const numberRule: Rule = all(
  integerRule,
  optional(all(oneOf("."), times(digit, 1, Infinity))),
  optional(exponent),
);

/**
 * Space between the parts of a value: little of it, so that no text goes on with it for ever. A
 * line's indentation is at most 64 spaces.
 */
export const space: Rule = either(all(), oneOf(" "), all(oneOf("\n"), times(oneOf(" "), 0, 64)));

/** Parts in brackets with commas between them, each with its space; `most` of them at most. */
export function listRule(item: Rule, least: number, most: number): Rule {
  const empty = all(oneOf("["), space, oneOf("]"));
  if (most === 0) return empty;
  const more = all(space, oneOf(","), space, item);
  const some = all(
    oneOf("["),
    space,
    item,
    times(more, Math.max(0, least - 1), most - 1),
    space,
    oneOf("]"),
  );
  return least > 0 ? some : either(empty, some);
}

/** A key with its value. */
export function memberRule(key: Rule, value: Rule): Rule {
  return all(key, space, oneOf(":"), space, value);
}

/** Any object. */
export const anyObject: Rule = named(() => objectOfAny);
/** Any list. */
export const anyList: Rule = named(() => listOfAny);
/** Any JSON value. */
export const anyValue: Rule = either(
  stringRule(),
  numberRule,
  literal("true"),
  literal("false"),
  literal("null"),
  anyObject,
  anyList,
);
const objectOfAny = membersRule(memberRule(stringRule(), anyValue), 0, Infinity);
const listOfAny = listRule(anyValue, 0, Infinity);

/** Members in braces with commas between them. */
export function membersRule(member: Rule, least: number, most: number): Rule {
  const empty = all(oneOf("{"), space, oneOf("}"));
  const more = all(space, oneOf(","), space, member);
  const some = all(
    oneOf("{"),
    space,
    member,
    times(more, Math.max(0, least - 1), most - 1),
    space,
    oneOf("}"),
  );
  return least > 0 ? some : either(empty, some);
}
