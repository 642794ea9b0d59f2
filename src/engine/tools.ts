import { OptionError } from "../errors.ts";
import type { Grammar } from "../grammar/grammar.ts";
import type { ToolFormat } from "../text/tool-format.ts";
import { ToolCallReader } from "../text/tool-calls.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Grammars } from "./grammars.ts";
import type { GenerateOptions } from "./request.ts";
import type { NamedTool, Tool } from "./tool-options.ts";

/** What a request's tools mean to its answer. */
export interface ToolUse {
  readonly reader: ToolCallReader;
  /** Special tokens that the reader wants to see. */
  readonly shown: ReadonlyMap<number, string>;
  /** What the answer must be, if it must be a call. */
  readonly grammar: Grammar | undefined;
}

/** Whether an answer must be a call. */
export function mustCall({ toolChoice }: GenerateOptions): boolean {
  return toolChoice === "required" || typeof toolChoice === "object";
}

/**
 * How the answer to a request is read; undefined for one without tools. Errors: OptionError for
 * tools that a model's template does not show, or that are described oddly.
 */
export function toolUse(
  options: GenerateOptions,
  format: ToolFormat | undefined,
  tokenizer: Tokenizer,
  grammars: Grammars,
): ToolUse | undefined {
  const { tools = [], toolChoice = "auto", maxToolCalls = Infinity } = options;
  if (toolChoice === "none" || tools.length === 0) {
    if (mustCall(options)) throw new OptionError("tools", tools, "one or more", "describe one.");
    return undefined;
  }
  if (format === undefined) {
    const allowed = "absent for a model whose chat template shows none in a known format";
    throw new OptionError("tools", tools, allowed, "describe them in a message.");
  }
  const named = tools.map(checkedTool);
  const isForced = mustCall(options);
  const wanted =
    typeof toolChoice === "object" ? named.filter(({ name }) => name === toolChoice.name) : named;
  if (wanted.length === 0) {
    const names = named.map(({ name }) => name).join(", ");
    throw new OptionError("toolChoice", toolChoice, `a tool of ${names}`, "name one of them.");
  }
  const markers = format.markers.flatMap((text) => {
    const id = tokenizer.idOf(text);
    return id === undefined ? [] : [[id, text] as const];
  });
  return {
    reader: new ToolCallReader(format, isForced, isForced ? 1 : maxToolCalls),
    shown: new Map(markers),
    grammar: isForced ? grammars.ofCalls(wanted, format.argumentsKey) : undefined,
  };
}

function checkedTool(tool: unknown, i: number): NamedTool {
  const { type, function: described } = (tool ?? {}) as Partial<Tool>;
  const name = described?.name;
  if (type !== "function" || typeof name !== "string" || name === "") {
    const allowed = '{ type: "function", function: { name, parameters } }';
    throw new OptionError(`tools[${i}]`, tool, allowed, "describe a function.");
  }
  const { parameters = { type: "object" } } = described!;
  return { name, parameters, at: `tools[${i}].function.parameters` };
}
