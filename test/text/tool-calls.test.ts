import { describe, expect, test } from "bun:test";
import { ToolCallReader } from "../../src/text/tool-calls.ts";
import { type ToolFormat, toolFormatOf } from "../../src/text/tool-format.ts";
import { seeded } from "../support/random.ts";

const formats = {
  tagged: toolFormatOf("{{ tools }}<tool_call>")!,
  listed: toolFormatOf("{{ tools }}[TOOL_CALLS]")!,
  bare: toolFormatOf('{{ tools }}ipython "parameters"')!,
};

/** What an answer comes to, cut into pieces at random. */
function read(format: ToolFormat, answer: string, seed: number, isOpen = false, most = Infinity) {
  const random = seeded(seed);
  const reader = new ToolCallReader(format, isOpen, most);
  const calls: { name: string; arguments: string }[] = [];
  let text = "";
  const note = (piece: ReturnType<ToolCallReader["push"]>) => {
    text += piece.text;
    for (const { index, name, arguments: more } of piece.calls) {
      if (name !== undefined) expect(index).toBe(calls.push({ name, arguments: "" }) - 1);
      calls[index].arguments += more;
    }
  };
  for (let at = 0; at < answer.length && !reader.isDone;) {
    const end = at + random.integer(1, 5);
    note(reader.push(answer.slice(at, end)));
    at = end;
  }
  note(reader.end());
  return [text, ...calls.map((call) => `${call.name} ${call.arguments}`)];
}

const cases: [what: string, format: ToolFormat, answer: string, read: string[]][] = [
  ["no call", formats.tagged, "a < b, <tool> and {", ["a < b, <tool> and {"]],
  [
    "text and two calls",
    formats.tagged,
    'Let me see.<tool_call>\n{"name": "f", "arguments": {"a": "}\\"<", "b": [1, {}]}}' +
      "\n</tool_call>\n" +
      '<tool_call>{"name":"g","arguments":{}}</tool_call>',
    ["Let me see.", 'f {"a": "}\\"<", "b": [1, {}]}', "g {}"],
  ],
  [
    "a list in tags",
    formats.tagged,
    '<tool_call>[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"x": 1}}]</tool_call>',
    ["", "f {}", 'g {"x": 1}'],
  ],
  [
    "parts in another order, and none",
    formats.tagged,
    '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>' +
      '<tool_call>{"name": "g"}</tool_call>',
    ["", 'f {"a":1}', "g {}"],
  ],
  ["what is no call", formats.tagged, "<tool_call>{oh}</tool_call> dear", ["{oh} dear"]],
  ["words in tags", formats.tagged, "<tool_call>oh</tool_call>", ["oh</tool_call>"]],
  ["one that breaks off", formats.tagged, '<tool_call>{"name": "f"', ['{"name": "f"']],
  [
    "arguments that break off",
    formats.tagged,
    '<tool_call>{"name": "f", "arguments": {"a": "b',
    ["", 'f {"a": "b'],
  ],
  [
    "a list behind a token",
    formats.listed,
    '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
    ["", 'f {"a": 1}', "g {}"],
  ],
  ["a whole answer", formats.bare, ' {"name": "f", "parameters": {"a": 1}}', ["", 'f {"a": 1}']],
  [
    "more of them",
    formats.bare,
    '<|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}',
    ["", 'f {"a": 1}', "g {}"],
  ],
  ["text with braces", formats.bare, 'So: {"name": "f"}', ['So: {"name": "f"}']],
  ["JSON that is no call", formats.bare, '{"a": 1}', ['{"a": 1}']],
];

describe("calls of tools are read from answers, whatever their pieces", () => {
  test.each(cases)("%s", (_, format, answer, expected) => {
    for (let seed = 0; seed < 30; seed++) expect(read(format, answer, seed)).toEqual(expected);
  });

  test("an answer that begins within a call, and no more calls than are wanted", () => {
    const answer = '{"name": "f", "arguments": {"a": 1}}</tool_call><tool_call>{"name": "g"}';
    for (let seed = 0; seed < 30; seed++)
      expect(read(formats.tagged, answer, seed, true, 1)).toEqual(["", 'f {"a": 1}']);
  });
});

test("formats are those that templates show", () => {
  expect(formats.tagged.closing).toBe("</tool_call>");
  expect(formats.bare.argumentsKey).toBe("parameters");
  const none = [
    "<tool_call>",
    "{{ tools }}",
    "{{ tools }}<tool_call><function=",
    "tools[TOOL_CALLS][ARGS]",
  ];
  for (const template of none) expect(toolFormatOf(template)).toBeUndefined();
});
