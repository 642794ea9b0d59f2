import type { GenerateOptions } from "../engine/request.ts";
import type { Tool } from "../engine/tool-options.ts";
import {
  flag,
  list,
  object,
  type OptionSchema,
  type OptionSchemas,
  unchecked,
} from "../options.ts";
import { orNull } from "./fields.ts";
import { HttpError } from "./http-errors.ts";

/** Fields of a chat that say what its answer may be. */
export interface AnswerFields {
  tools?: readonly Tool[] | null;
  tool_choice?: "auto" | "none" | "required" | { function: { name: string } } | null;
  parallel_tool_calls?: boolean | null;
  response_format?: ResponseFormat | null;
}

type ResponseFormat =
  | { type: "text" | "json_object" }
  | { type: "json_schema"; json_schema: { schema?: Record<string, unknown> } };

const text: OptionSchema = { type: "string", description: "a text" };
const name = { ...text, minLength: 1, description: "a name" };
const only = (value: string) => ({ const: value, description: JSON.stringify(value) });
const schema = { type: "object", description: "a JSON Schema" };
const described = {
  name,
  description: orNull(text),
  strict: orNull(flag),
};

const tool = object(
  {
    type: only("function"),
    function: object(
      { ...described, parameters: orNull(schema) },
      ["name"],
      "{ name, description, parameters, strict }",
    ),
  },
  ["type", "function"],
  '{ type: "function", function }',
);

/** What each of them may be. */
export const answerSchemas: OptionSchemas = {
  tools: orNull(list(tool, "a list of functions: { type, function: { name, parameters } }")),
  tool_choice: {
    anyOf: [
      { enum: ["auto", "none", "required", null] },
      object(
        { type: only("function"), function: object({ name }, ["name"], "{ name }") },
        ["type", "function"],
        "a function",
      ),
    ],
    description: 'auto, none, required, or { type: "function", function: { name } }',
  },
  parallel_tool_calls: orNull(flag),
  response_format: {
    anyOf: [
      object({ type: { enum: ["text", "json_object"], description: "a type" } }, ["type"], ""),
      object(
        {
          type: only("json_schema"),
          json_schema: object({ ...described, schema: unchecked("a JSON Schema") }, ["name"], ""),
        },
        ["type", "json_schema"],
        "",
      ),
      { type: "null" },
    ],
    description: "{ type } of text, json_object, or json_schema with { name, schema }",
  },
};

/** What they mean to the engine. Errors: HttpError. */
export function answerOptionsOf(fields: AnswerFields): GenerateOptions {
  const { tools, tool_choice: choice, parallel_tool_calls: parallel } = fields;
  const { response_format: format } = fields;
  const toolChoice = typeof choice === "object" ? choice && { name: choice.function.name } : choice;
  requireNoStrict(tools ?? [], toolChoice ?? "auto");
  return {
    ...(tools && tools.length > 0 && { tools: tools.map(withoutNulls) }),
    ...(toolChoice && { toolChoice }),
    ...(parallel === false && { maxToolCalls: 1 }),
    ...(format?.type === "json_object" && { json: true }),
    ...(format?.type === "json_schema" && { json: format.json_schema.schema ?? {} }),
  };
}

/** A call that the model may make or not is not held to its schema. */
function requireNoStrict(tools: readonly Tool[], choice: unknown): void {
  if (choice !== "auto") return;
  const strict = tools.findIndex(({ function: { strict: is } }) => is === true);
  if (strict < 0) return;
  const param = `tools[${strict}].function.strict`;
  const fix = 'leave strict out, or set tool_choice to "required".';
  const message = `${param} holds for a call that must be made alone. Fix: ${fix}`;
  throw new HttpError(400, "invalid_request_error", message, param);
}

function withoutNulls(tool: Tool): Tool {
  const entries = Object.entries(tool.function).filter(([, value]) => value !== null);
  return { ...tool, function: Object.fromEntries(entries) as unknown as Tool["function"] };
}
