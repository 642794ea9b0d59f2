import { Template } from "@huggingface/jinja";
import { FlashbunError, OptionError } from "../errors.ts";
import { requireOptions } from "../require.ts";
import { showAsText } from "../shown.ts";
import { type ToolFormat, toolFormatOf } from "./tool-format.ts";

/** A turn of a conversation. Fields beside these reach the template too. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: unknown;
  readonly [field: string]: unknown;
}

/** What a template may use beside the messages. */
export interface TemplateInputs {
  readonly messages: readonly ChatMessage[];
  /** Whether the text ends where the model's own turn begins; default true. */
  readonly addGenerationPrompt?: boolean;
  /** Tools that the model may call, as in OpenAI's API. */
  readonly tools?: readonly unknown[];
  /** Variables that a template knows besides, such as `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** A model's chat template, which refused these messages or cannot be read. */
export class TemplateError extends FlashbunError {
  constructor(message: string, options?: ErrorOptions) {
    super("TEMPLATE", message, options);
  }
}

/** A model's chat template (Jinja), compiled once. */
export class ChatTemplate {
  readonly #template: Template;
  readonly #tokens: Readonly<Record<string, string>>;
  /** @internal How answers call tools; undefined: it shows no tools, or in no known format. */
  readonly toolFormat: ToolFormat | undefined;

  /**
   * @param tokens what templates write as `bos_token`, `eos_token` and so on
   * Errors: TemplateError.
   */
  constructor(source: string, tokens: Readonly<Record<string, string>>) {
    this.#tokens = tokens;
    this.toolFormat = toolFormatOf(source);
    try {
      this.#template = new Template(source);
    } catch (error) {
      throw new TemplateError(
        `the chat template cannot be read: ${messageOf(error)}. Fix: give prompt or tokens.`,
        { cause: error },
      );
    }
  }

  /** @internal What console.log and JSON show. */
  toString(): string {
    return `ChatTemplate with ${Object.keys(this.#tokens).join(", ") || "no tokens"}`;
  }

  /** The prompt's text. Errors: OptionError; TemplateError where the template refuses. */
  render(inputs: TemplateInputs): string {
    requireOptions("inputs", inputs, ["messages", "addGenerationPrompt", "tools", "variables"]);
    const { messages, addGenerationPrompt = true, tools, variables } = inputs;
    if (!Array.isArray(messages) || messages.length === 0)
      throw new OptionError(
        "messages",
        messages,
        "one or more messages",
        "give { role, content }.",
      );
    messages.forEach((message, i) => {
      if (typeof message?.role !== "string")
        throw new OptionError(
          `messages[${i}].role`,
          message?.role,
          "a string",
          "name the speaker.",
        );
    });
    try {
      return this.#template.render({
        ...this.#tokens,
        ...variables,
        messages: this.toolFormat === undefined ? messages : messages.map(withArguments),
        tools: tools ?? null,
        add_generation_prompt: addGenerationPrompt,
      });
    } catch (error) {
      throw new TemplateError(
        `the chat template refuses these messages: ${messageOf(error)}. ` +
          "Fix: give roles, contents and tools as the model's page shows.",
        { cause: error },
      );
    }
  }
}

/** A message whose calls have their arguments as values: OpenAI's clients send their JSON. */
function withArguments(message: ChatMessage): ChatMessage {
  const calls = message["tool_calls"];
  if (!Array.isArray(calls)) return message;
  const valued = (call: { function?: { arguments?: unknown } } | null) => {
    const { arguments: given } = call?.function ?? {};
    if (typeof given !== "string") return call;
    return { ...call, function: { ...call!.function, arguments: parsed(given) } };
  };
  return { ...message, tool_calls: calls.map(valued) };
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json) as unknown;
  } catch {
    return json;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

showAsText(ChatTemplate.prototype);
