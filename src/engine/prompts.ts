import { OptionError } from "../errors.ts";
import { requireInteger, requireList } from "../require.ts";
import { ChatTemplate } from "../text/chat-template.ts";
import { Tokenizer } from "../text/tokenizer.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
import { CheckpointError } from "../weights/errors.ts";
import type { GenerateOptions } from "./request.ts";
import { mustCall } from "./tools.ts";

/** What a model reads: texts, conversations and tokens as token ids. */
export class Prompts {
  readonly tokenizer: Tokenizer;
  /** Undefined for a model without turns, or with a template that cannot be read. */
  readonly template: ChatTemplate | undefined;
  readonly #templateFailure: unknown;

  /** Errors: CheckpointError for a tokenizer that cannot be read. */
  constructor({ path, tokenizer, chatTemplate, templateTokens }: Checkpoint) {
    try {
      this.tokenizer = new Tokenizer(tokenizer.json, tokenizer.config);
    } catch (cause) {
      const what = `its tokenizer cannot be read (${cause})`;
      throw new CheckpointError(path, what, "fetch the model again.", { cause });
    }
    try {
      // Who gives texts or tokens needs none.
      if (chatTemplate !== undefined)
        this.template = new ChatTemplate(chatTemplate, templateTokens);
    } catch (error) {
      this.#templateFailure = error;
    }
  }

  /**
   * The token ids of what the options give, fewer than `contextTokens`. Errors: OptionError,
   * TemplateError.
   */
  encode(options: GenerateOptions, contextTokens: number, vocabulary: number): Int32Array {
    const { messages, prompt, tokens } = options;
    const given = [messages, prompt, tokens].filter((value) => value !== undefined);
    if (given.length !== 1) {
      const allowed = "one of messages, prompt and tokens";
      throw new OptionError("options", `${given.length} of them`, allowed, "give exactly one.");
    }
    const ids =
      tokens === undefined
        ? this.#encodeText(options, contextTokens)
        : checkedTokens(tokens, contextTokens, vocabulary);
    requireInteger("prompt tokens", ids.length, 1, contextTokens - 1);
    return ids;
  }

  #encodeText(options: GenerateOptions, contextTokens: number): Int32Array {
    const { prompt, messages } = options;
    const text = prompt ?? this.#render(options);
    // Before it is cut into tokens, which would hold others up for as long as it takes.
    const most = contextTokens * this.tokenizer.longestToken;
    if (text.length > most) {
      const allowed = `a text of at most ${most} characters`;
      const fix = `the context has ${contextTokens} tokens.`;
      throw new OptionError("prompt", `${text.length} characters`, allowed, fix);
    }
    const ids = this.tokenizer.encode(text, { addSpecial: prompt !== undefined });
    if (messages === undefined || !mustCall(options)) return ids;
    // What must be a call begins as one.
    const start = this.tokenizer.encode(this.template?.toolFormat?.start ?? "");
    return Int32Array.of(...ids, ...start);
  }

  #render({ messages, tools, toolChoice, templateVariables }: GenerateOptions): string {
    if (this.#templateFailure !== undefined) throw this.#templateFailure;
    if (this.template === undefined) {
      const allowed = "absent for a model without a chat template";
      throw new OptionError("messages", messages, allowed, "give prompt.");
    }
    return this.template.render({
      messages: messages!,
      ...(tools && toolChoice !== "none" && { tools }),
      ...(templateVariables && { variables: templateVariables }),
    });
  }
}

function checkedTokens(tokens: ArrayLike<number>, most: number, vocabulary: number): Int32Array {
  const count = requireList("tokens", tokens);
  requireInteger("prompt tokens", count, 1, most - 1);
  for (let i = 0; i < count; i++) requireInteger(`tokens[${i}]`, tokens[i], 0, vocabulary - 1);
  return Int32Array.from(tokens);
}
