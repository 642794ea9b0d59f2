import { OptionError } from "../errors.ts";
import { requireInteger, requireList } from "../require.ts";
import { ChatTemplate } from "../text/chat-template.ts";
import type { CutTexts } from "../text/cut-texts.ts";
import { Tokenizer } from "../text/tokenizer.ts";
import { TokenizerThread } from "../text/tokenizer-thread.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
import { CheckpointError } from "../weights/errors.ts";
import type { GenerateOptions } from "./request.ts";
import { mustCall } from "./tools.ts";

/** Characters that are cut into tokens where they are given: that takes 2 to 20 ms. */
const inlineCharacters = 2048;

/** What a model reads: texts, conversations and tokens as token ids. */
export class Prompts {
  readonly tokenizer: Tokenizer;
  /** Undefined for a model without turns, or with a template that cannot be read. */
  readonly template: ChatTemplate | undefined;
  readonly #templateFailure: unknown;
  readonly #thread: TokenizerThread;

  /** Errors: CheckpointError for a tokenizer that cannot be read. */
  constructor({ path, tokenizer, chatTemplate, templateTokens }: Checkpoint) {
    try {
      this.tokenizer = new Tokenizer(tokenizer.json, tokenizer.config);
    } catch (cause) {
      const what = `its tokenizer cannot be read (${cause})`;
      throw new CheckpointError(path, what, "fetch the model again.", { cause });
    }
    const { json, config } = tokenizer;
    this.#thread = new TokenizerThread(this.tokenizer, () => {
      return { json: JSON.stringify(json), config: { ...config } };
    });
    try {
      // Who gives texts or tokens needs none.
      if (chatTemplate !== undefined)
        this.template = new ChatTemplate(chatTemplate, templateTokens);
    } catch (error) {
      this.#templateFailure = error;
    }
  }

  /**
   * The token ids of what the options give, fewer than `contextTokens`: at once, or of a long text
   * later. Errors: OptionError, TemplateError; of a long text the signal's reason too.
   */
  encode(
    options: GenerateOptions,
    contextTokens: number,
    vocabulary: number,
    signal?: AbortSignal,
  ): Int32Array | Promise<Int32Array> {
    const { messages, prompt, tokens } = options;
    const given = [messages, prompt, tokens].filter((value) => value !== undefined);
    if (given.length !== 1) {
      const allowed = "one of messages, prompt and tokens";
      throw new OptionError("options", `${given.length} of them`, allowed, "give exactly one.");
    }
    if (tokens !== undefined) return checkedTokens(tokens, contextTokens, vocabulary);
    const text = this.#textOf(options, contextTokens);
    const whole = ([ids]: CutTexts) => {
      const prompt = this.#begun(ids, options);
      requireInteger("prompt tokens", prompt.length, 1, contextTokens - 1);
      return prompt;
    };
    const cut = this.cut([text], options.prompt !== undefined, signal);
    return cut instanceof Promise ? cut.then(whole) : whole(cut);
  }

  /** Token ids of each text: at once where they are short together, else by a thread. */
  cut(
    texts: readonly string[],
    addSpecial: boolean,
    signal?: AbortSignal,
  ): CutTexts | Promise<CutTexts> {
    const characters = texts.reduce((sum, { length }) => sum + length, 0);
    if (characters > inlineCharacters) return this.#thread.encode(texts, addSpecial, signal);
    return texts.map((text) => this.tokenizer.encode(text, { addSpecial }));
  }

  /** Ends the thread; who waits for it gets the reason. */
  close(reason: unknown): void {
    this.#thread.dispose(reason);
  }

  #textOf(options: GenerateOptions, contextTokens: number): string {
    const { prompt } = options;
    const text = prompt ?? this.#render(options);
    // Before it is cut into tokens, which takes its time.
    const most = contextTokens * this.tokenizer.longestToken;
    if (text.length > most) {
      const allowed = `a text of at most ${most} characters`;
      const fix = `the context has ${contextTokens} tokens.`;
      throw new OptionError("prompt", `${text.length} characters`, allowed, fix);
    }
    return text;
  }

  /** A prompt with what its answer has to begin with. */
  #begun(ids: Int32Array, options: GenerateOptions): Int32Array {
    if (options.messages === undefined || !mustCall(options)) return ids;
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
