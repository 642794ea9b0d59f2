/** Which tools an answer calls: any or none, none, at least one, or the one of that name. */
export type ToolChoice = "auto" | "none" | "required" | { readonly name: string };

/** A tool, as OpenAI's API describes a function. */
export interface Tool {
  readonly type: "function";
  readonly function: {
    readonly name: string;
    readonly description?: string;
    /** A JSON Schema of its arguments. */
    readonly parameters?: Readonly<Record<string, unknown>>;
    readonly [field: string]: unknown;
  };
}

/** A tool's name, and its parameters with what they are called in errors. */
export interface NamedTool {
  readonly name: string;
  readonly parameters: unknown;
  readonly at: string;
}
