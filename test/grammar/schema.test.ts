import { describe, expect, test } from "bun:test";
import { Compile } from "typebox/schema";
import { schemaRule } from "../../src/grammar/json-schema.ts";
import { Matcher, type State } from "../../src/grammar/matcher.ts";
import { TokenTrie } from "../../src/grammar/token-trie.ts";
import { seeded } from "../support/random.ts";

const utf8 = new TextEncoder();

function takes(schema: unknown, text: string): boolean {
  const matcher = new Matcher(schemaRule(schema, "json"));
  return matcher.run(matcher.start, utf8.encode(text))?.mayEnd === true;
}

const person = {
  type: "object",
  properties: { name: { type: "string" }, age: { type: "integer", minimum: 0 } },
  required: ["name"],
};
const list = {
  $ref: "#/$defs/n/o",
  $defs: {
    "n/o": {},
    n: {
      o: {
        type: "object",
        properties: { next: { anyOf: [{ $ref: "#/$defs/n/o" }, { type: "null" }] } },
        required: ["next"],
      },
    },
  },
};

const cases: [schema: unknown, taken: string[], refused: string[]][] = [
  [person, ['{"name":"é€😀"}', '{ "name": "x",\n  "age": 3\n}'], ["{}", '{"name":"x","age":-1}']],
  [person, [], ['{"age":3,"name":"x"}', '{"name":"x","b":1}', ' {"name":"x"}', '{"name":"x",}']],
  [{ type: "object" }, ["{}", '{"a":{"b":[1,null]}}'], ["[]", '{"a"}']],
  [
    { ...person, additionalProperties: { type: "boolean" } },
    ['{"name":"","nam":true,"names":false}'],
    ['{"name":"","name":true}', '{"name":"","x":1}'],
  ],
  [
    { properties: { é: { type: "null" } }, additionalProperties: true },
    ['{"é":null}', '{"a":1}'],
    ['{"é":1}'],
  ],
  [
    { additionalProperties: { type: "null" }, maxProperties: 1 },
    ["{}", '{"a":null}'],
    ['{"a":null,"b":null}'],
  ],
  [list, ['{"next":{"next":null}}'], ["{}", '{"next":1}']],
  [
    { type: "array", items: { type: "integer" }, minItems: 1, maxItems: 2 },
    ["[1]", "[1, 2]"],
    ["[]", "[1,2,3]"],
  ],
  [
    { type: "array", prefixItems: [{ type: "null" }, {}], items: false },
    ["[null,[]]"],
    ["[null]", "[]"],
  ],
  [{ items: false }, ["[]"], ["[1]"]],
  [{ type: "string", minLength: 2, maxLength: 3 }, ['"ab"', '"é\\n€"'], ['"a"', '"abcd"', '"a\n"']],
  [{ type: "string" }, ['"\\u00e9"', '"\\\\"'], ['"\\ud800"', '"\\x"', '"a']],
  [{ type: ["string", "null"] }, ['"a"', "null"], ["1"]],
  [{ enum: ["a", 1, null, { b: [1, 2] }] }, ['"a"', "1", "null", '{"b": [1,2]}'], ['"b"', "[]"]],
  [{ type: "string", enum: ["a", 1] }, ['"a"'], ["1"]],
  [{ const: 3 }, ["3"], ["4"]],
  [{ oneOf: [{ const: 3 }, { type: "boolean" }] }, ["3", "true"], ["4"]],
  [{ allOf: [{ type: "null" }] }, ["null"], ["1"]],
  [{}, ["1.5e-3", "[]", '"a"', "true"], ["", "01", "1.", "nul"]],
  [
    { type: "integer", minimum: 3, maximum: 120 },
    ["3", "9", "10", "99", "120"],
    ["2", "121", "03", "1e1"],
  ],
  [{ type: "integer", exclusiveMinimum: -12, maximum: -3 }, ["-3", "-11"], ["-12", "-2", "3", "0"]],
  [{ type: "integer", minimum: 70 }, ["70", "100", "1000"], ["69", "-70"]],
  [
    { type: "number", exclusiveMinimum: 0, exclusiveMaximum: 2 },
    ["0.01", "1", "1.99"],
    ["0", "0.0", "2", "-1"],
  ],
  [{ type: "number", minimum: -1, maximum: 1 }, ["-1.0", "-0.5", "0", "1"], ["1.1", "-1.1"]],
];

describe("texts of a schema", () => {
  test.each(cases)("%j", (schema, taken, refused) => {
    expect(taken.filter((text) => !takes(schema, text))).toEqual([]);
    expect(refused.filter((text) => takes(schema, text))).toEqual([]);
  });

  test("every text that comes out is JSON that another validator takes", () => {
    const random = seeded(11);
    for (const [schema] of cases) {
      const matcher = new Matcher(schemaRule(schema, "json"));
      const validator = Compile(schema as never);
      for (let round = 0; round < 40; round++) {
        const value: unknown = JSON.parse(walk(matcher, random));
        if (!validator.Check(value)) expect([schema, value]).toEqual([]);
      }
    }
  });
});

/** A random text: characters that lead nowhere near an end become rarer. */
function walk(matcher: Matcher, random: ReturnType<typeof seeded>): string {
  const bytes: number[] = [];
  let state: State = matcher.start;
  while (!(state.mayEnd && (random.chance(0.3) || state.frames.length === 0))) {
    const nexts = Array.from({ length: 256 }, (_, byte) => byte).filter(
      (byte) => matcher.step(state, byte) !== null,
    );
    const closing = nexts.filter((byte) => '"}]'.includes(String.fromCharCode(byte)));
    const isLate = bytes.length > 30 && closing.length > 0;
    const byte = random.pick(
      isLate || (closing.length > 0 && random.chance(0.2)) ? closing : nexts,
    );
    bytes.push(byte);
    state = matcher.step(state, byte)!;
  }
  return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes));
}

test("what is not known or cannot be is refused, by its name", () => {
  let deep: unknown = {};
  for (let i = 0; i < 70; i++) deep = { items: deep };
  const wrong: [schema: unknown, said: RegExp][] = [
    [{ type: "number", multipleOf: 3 }, /json\.multipleOf must be absent: known are/],
    [{ properties: { a: { type: "string", pattern: "a" } } }, /json\.properties\.a\.pattern must/],
    [{ type: "string", minimum: 3 }, /json\.minimum must be absent for its type/],
    [{ type: "bogus" }, /json\.type must be of object, array/],
    [{ type: [] }, /json\.type must be of/],
    [{ $ref: "#/$defs/x" }, /json\.\$ref must be a pointer/],
    [{ $ref: "http://x/y" }, /json\.\$ref must be a pointer/],
    [{ $ref: "#/toString" }, /json\.\$ref must be a pointer/],
    [{ minLength: 3, maxLength: 2 }, /json\.minLength must be at most maxLength, 2/],
    [{ type: "integer", minimum: 3, exclusiveMaximum: 3 }, /json must be with a number between/],
    [{ minimum: 0.5 }, /json\.minimum must be a whole number/],
    [{ anyOf: [] }, /json\.anyOf must be schemas/],
    [{ anyOf: [{}], type: "string" }, /json\.type must be absent beside anyOf/],
    [{ allOf: [{}, {}] }, /json\.allOf must be one schema/],
    [{ enum: [] }, /json\.enum must be 1 to/],
    [{ type: "string", const: 1 }, /json\.enum must be 1 to/],
    [{ properties: { a: false } }, /json\.properties\.a must be a JSON Schema/],
    [{ properties: [] }, /json\.properties must be an object/],
    [{ properties: {}, required: ["b"] }, /json\.required must be among the properties/],
    [{ required: "b" }, /json\.required must be a list/],
    [{ items: [{}] }, /json\.items must be a JSON Schema/],
    [{ prefixItems: [{}] }, /json\.prefixItems must be with items: false/],
    [deep, /64 deep/],
    [false, /json must be a JSON Schema/],
    ["x", /json must be a JSON Schema/],
    [null, /json must be a JSON Schema/],
  ];
  for (const [schema, said] of wrong)
    expect(() => schemaRule(schema, "json"), JSON.stringify(schema)).toThrow(said);
});

test("tokens that may come next are those whose bytes may, one by one", () => {
  const random = seeded(3);
  const pieces = ["{", "}", '"', "na", "name", '":', ' "', "age", "12", "-", "\n", "é", "}\n", ""];
  const tokens = [
    ...pieces.map((text) => utf8.encode(text)),
    ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
    undefined,
    utf8.encode("name"),
  ];
  const trie = new TokenTrie(tokens);
  const matcher = new Matcher(schemaRule({ ...person, additionalProperties: true }, "json"));
  let isSome = 0;
  for (let round = 0; round < 50; round++) {
    let state: State = matcher.start;
    for (let step = 0; step < 30; step++) {
      const bits = trie.allowed(matcher, state);
      const allowed = tokens.flatMap((_, id) => ((bits[id >> 5] >>> (id & 31)) & 1 ? [id] : []));
      const naive = tokens.flatMap((bytes, id) =>
        bytes && bytes.length > 0 && matcher.run(state, bytes) !== null ? [id] : [],
      );
      expect(allowed).toEqual(naive);
      if (naive.length === 0) break;
      isSome++;
      state = matcher.run(state, tokens[random.pick(naive)]!)!;
    }
  }
  expect(isSome).toBeGreaterThan(200);
});
