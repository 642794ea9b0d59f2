/** What a text may be, byte by byte. Rules are values: the same one may stand in many places. */
export type Rule =
  | { readonly kind: "byte"; readonly allowed: Uint8Array }
  | { readonly kind: "all"; readonly rules: readonly Rule[] }
  | { readonly kind: "either"; readonly rules: readonly Rule[] }
  | { readonly kind: "times"; readonly rule: Rule; readonly least: number; readonly most: number }
  | { readonly kind: "named"; readonly rule: () => Rule };

/** One after the other; none: the empty text. */
export function all(...rules: readonly Rule[]): Rule {
  return rules.length === 1 ? rules[0] : { kind: "all", rules };
}

/** One of them; none: no text at all. */
export function either(...rules: readonly Rule[]): Rule {
  return rules.length === 1 ? rules[0] : { kind: "either", rules };
}

/** A rule so many times, both ends included. */
export function times(rule: Rule, least: number, most: number): Rule {
  return { kind: "times", rule, least, most };
}

/** A rule or nothing. */
export function optional(rule: Rule): Rule {
  return either(rule, all());
}

/** A rule that is looked up when a text gets there, so that rules may hold themselves. */
export function named(rule: () => Rule): Rule {
  return { kind: "named", rule };
}

/** One byte within ranges, both ends included. */
export function bytes(...ranges: readonly (readonly [first: number, last: number])[]): Rule {
  const allowed = new Uint8Array(256);
  for (const [first, last] of ranges) allowed.fill(1, first, last + 1);
  return { kind: "byte", allowed };
}

/** One of these ASCII characters. */
export function oneOf(characters: string): Rule {
  return bytes(
    ...[...characters].map((character) => {
      const code = character.charCodeAt(0);
      return [code, code] as const;
    }),
  );
}

/** Exactly this text. */
export function literal(text: string): Rule {
  return all(...[...utf8.encode(text)].map((byte) => bytes([byte, byte])));
}

const utf8 = new TextEncoder();
