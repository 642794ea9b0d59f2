/** How a family of models writes calls of tools into its answers. */
export interface ToolFormat {
  /** Stands before calls; "": an answer that begins with a brace is one. */
  readonly opening: string;
  /** What an answer that must be a call begins with. */
  readonly start: string;
  /** Stands behind them; "": the answer's end. */
  readonly closing: string;
  /** What the arguments are called. */
  readonly argumentsKey: "arguments" | "parameters";
  /** Tokens of these texts belong to the format, though they are special. */
  readonly markers: readonly string[];
}

/** In `<tool_call>` tags: Hermes, Qwen 2.5 and 3, SmolLM 2 and 3. */
const tagged: ToolFormat = {
  opening: "<tool_call>",
  start: "<tool_call>\n",
  closing: "</tool_call>",
  argumentsKey: "arguments",
  markers: ["<tool_call>", "</tool_call>"],
};

/** A list behind a special token: Mistral's models up to the tokenizer of its version 7. */
const listed: ToolFormat = {
  opening: "[TOOL_CALLS]",
  start: "[TOOL_CALLS] [",
  closing: "",
  argumentsKey: "arguments",
  markers: ["[TOOL_CALLS]"],
};

/** The whole answer: Llama 3.1 and later. */
const bare: ToolFormat = {
  opening: "",
  start: "",
  closing: "",
  argumentsKey: "parameters",
  markers: ["<|python_tag|>"],
};

/** What a chat template shows of a format; undefined: it shows no tools, or in no known format. */
export function toolFormatOf(template: string): ToolFormat | undefined {
  if (!/\btools\b/.test(template)) return undefined;
  // Tags with other things inside are other formats: Qwen 3 Coder's, GLM's, MiniMax's.
  const hasTags = ["<function=", "<arg_key>", "<invoke"].some((tag) => template.includes(tag));
  if (template.includes("<tool_call>")) return hasTags ? undefined : tagged;
  if (template.includes("[TOOL_CALLS]")) return template.includes("[ARGS]") ? undefined : listed;
  const isLlama = template.includes("ipython") && template.includes('"parameters"');
  return isLlama ? bare : undefined;
}
