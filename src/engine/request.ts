import { OptionError } from "../errors.ts";
import {
  checkOptions,
  flag,
  integer,
  list,
  object,
  type OptionSchemas,
  unchecked,
} from "../options.ts";
import type { GrammarState } from "../grammar/grammar.ts";
import type { JsonSchema } from "../grammar/json-schema.ts";
import type { LogitParts } from "../models/logit-parts.ts";
import type { ChatMessage } from "../text/chat-template.ts";
import { counted, showAsText } from "../shown.ts";
import { StopStrings } from "../text/stop-strings.ts";
import { TextStream } from "../text/text-stream.ts";
import type { ToolCallPiece, ToolCallReader } from "../text/tool-calls.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { adjusts, partsOf, type SamplingOptions, samplingSchemas } from "./sampling.ts";
import { TokenQueue } from "./token-queue.ts";
import type { Tool, ToolChoice } from "./tool-options.ts";

/** What is to be generated: one of messages, prompt and tokens, and how. */
export interface GenerateOptions {
  /** A conversation, put into the model's chat template. */
  messages?: readonly ChatMessage[];
  /** Tools that the chat template shows to the model; calls of them are read from its answer. */
  tools?: readonly Tool[];
  /** Which of them it calls; default "auto". "required" and a name make the answer one call. */
  toolChoice?: ToolChoice;
  /** Most calls of tools, after which the answer ends; default: any number. */
  maxToolCalls?: number;
  /** The answer is JSON: true for any object, or of a JSON Schema. See docs/engine.md. */
  json?: JsonSchema;
  /** Variables of the chat template, such as enable_thinking. */
  templateVariables?: Readonly<Record<string, unknown>>;
  /** A text to go on with. */
  prompt?: string;
  /** Token ids to go on with. */
  tokens?: ArrayLike<number>;
  /** The adapter that it goes through, as the engine has it by name; default: none. */
  adapter?: string;
  sampling?: SamplingOptions;
  /** Most tokens to generate; default: as many as the context holds. */
  maxTokens?: number;
  /** Strings that end the text, which does not hold them. */
  stop?: string | readonly string[];
  /** Token ids that end the text beside the model's own. */
  stopTokens?: readonly number[];
  /** True: the model's own end tokens do not end the text. */
  ignoreEnd?: boolean;
  /** 0 (default) comes first. */
  priority?: number;
  /** Ends the generation; the reader gets the reason. */
  signal?: AbortSignal;
}

/** Each is looked for in every piece of text. */
const stopsMost = 16;
const text = { type: "string", minLength: 1, maxLength: 1024, description: "a text" };

/** What each of them may be; lists of numbers are checked one by one. */
const generateSchemas: OptionSchemas = {
  messages: unchecked("a list of messages"),
  tools: list(unchecked("a tool"), "a list of tools"),
  toolChoice: {
    anyOf: [
      { enum: ["auto", "none", "required"] },
      object({ name: { type: "string", description: "a name" } }, ["name"], "{ name }"),
    ],
    description: "auto, none, required, or { name }",
  },
  maxToolCalls: integer(1),
  json: unchecked("true or a JSON Schema"),
  templateVariables: { type: "object", description: "an object of variables" },
  prompt: { type: "string", description: "a text" },
  tokens: unchecked("a list of token ids"),
  adapter: { type: "string", description: "the name of an adapter" },
  sampling: object(samplingSchemas, [], `an object of ${Object.keys(samplingSchemas).join(", ")}`),
  maxTokens: integer(1),
  stop: {
    anyOf: [text, { ...list(text, "texts"), maxItems: stopsMost }],
    description: `a text or a list of at most ${stopsMost} texts, none empty`,
  },
  stopTokens: list(integer(0), "a list of token ids"),
  ignoreEnd: flag,
  priority: integer(0),
  signal: unchecked("an AbortSignal"),
};

/** Throws an OptionError for the first option that is unknown or not allowed. */
export function checkGenerateOptions(options: GenerateOptions): void {
  checkOptions("options", generateSchemas, [], options);
  const { signal } = options;
  if (signal !== undefined && !(signal instanceof AbortSignal))
    throw new OptionError("signal", signal, "an AbortSignal", "pass controller.signal.");
}

/** Log-probabilities, to base e, of a token and of the likeliest in its place. */
export interface TokenLogProb {
  readonly logProb: number;
  /** Falling. */
  readonly top: readonly { readonly token: number; readonly logProb: number }[];
}

/** One token as it comes. */
export interface GeneratedToken {
  readonly token: number;
  /** What became whole with it; "" within a character, or for a token that is no text. */
  readonly text: string;
  /** More of calls of tools, which `text` does not hold. */
  readonly calls?: readonly ToolCallPiece[];
  /** Where sampling.logprobs asked for it. */
  readonly logProb?: TokenLogProb;
}

/** Why a generation ended: its length, an end or stop token, a stop string, or an abort. */
export type FinishReason = "length" | "stop" | "abort";

/** What a request took. */
export interface GenerationUsage {
  readonly promptTokens: number;
  /** Prompt tokens whose keys and values were cached. */
  readonly cachedTokens: number;
  readonly generatedTokens: number;
}

/** What an answer is looked through for, and what it may be. */
export interface AnswerParts {
  readonly stops: readonly string[];
  readonly grammar: GrammarState | undefined;
  readonly tools:
    { readonly reader: ToolCallReader; readonly shown: ReadonlyMap<number, string> } | undefined;
}

/** A request that runs: reads as its tokens. Leaving the loop early aborts it. */
export class Generation implements AsyncIterable<GeneratedToken> {
  /** Null until it has ended. */
  finishReason: FinishReason | null = null;
  /** The stop string that ended it. */
  stopString: string | undefined;
  cachedTokens = 0;
  /** @internal Tokens generated so far. */
  readonly taken: number[] = [];
  readonly #queue = new TokenQueue<GeneratedToken>();
  #prompt: Int32Array = new Int32Array(0);
  readonly #text: TextStream;
  readonly #stops: StopStrings;
  readonly #calls: ToolCallReader | undefined;
  /** @internal What may come next; its tokens are known before the next one is chosen. */
  readonly grammar: GrammarState | undefined;
  /** @internal What of the logits that ranks share it needs. */
  readonly parts: LogitParts;
  /** @internal Whether its tokens are chosen from the logits as they are. */
  readonly isPlain: boolean;
  #isRead = false;
  /** @internal Called when it ends. */
  onEnd: (() => void) | undefined;

  /** @internal */
  constructor(
    readonly id: number,
    tokenizer: Tokenizer,
    readonly sampling: Required<SamplingOptions>,
    /** The name of its adapter. */
    readonly adapter: string | undefined,
    answer: AnswerParts,
    /** Takes it out of the engine; without effect once it has ended. */
    private readonly leave: (failure?: unknown) => void,
  ) {
    this.#text = new TextStream(tokenizer, answer.tools?.shown);
    this.#stops = new StopStrings(answer.stops);
    this.#calls = answer.tools?.reader;
    this.grammar = answer.grammar;
    const hasGrammar = answer.grammar !== undefined;
    this.parts = partsOf(sampling, hasGrammar);
    this.isPlain = !hasGrammar && !adjusts(sampling);
  }

  /** Its token ids; none while a long text is cut into them. */
  get prompt(): Int32Array {
    return this.#prompt;
  }

  /** @internal */
  set prompt(ids: Int32Array) {
    this.#prompt = ids;
  }

  /** What it took so far. */
  get usage(): GenerationUsage {
    const { prompt, cachedTokens, taken } = this;
    return { promptTokens: prompt.length, cachedTokens, generatedTokens: taken.length };
  }

  /** All of its text, once it has ended. Errors: what ended it early. */
  async text(): Promise<string> {
    let text = "";
    for await (const piece of this) text += piece.text;
    return text;
  }

  /** Ends it early; its pages come back within a step. Without effect once it has ended. */
  abort(): void {
    this.leave();
  }

  /** @internal What console.log and JSON show. */
  toString(): string {
    const { promptTokens, generatedTokens } = this.usage;
    const counts = `${counted(promptTokens, "prompt token")}, ${generatedTokens} generated`;
    return `Generation ${this.id}: ${counts}, ${this.finishReason ?? "running"}`;
  }

  /** @internal Takes the next token; `ending` says that it is the last. Returns whether it is. */
  take(token: number, ending: FinishReason | null, logProb?: TokenLogProb): boolean {
    this.taken.push(token);
    this.grammar?.push(token);
    const stops = this.#stops;
    let text = stops.push(this.#text.push(token));
    const isWhole = ending === null && this.grammar?.isWhole === true;
    if ((ending !== null || isWhole) && stops.found === undefined)
      text += stops.push(this.#text.end()) + stops.end();
    const isOver = ending !== null || isWhole || stops.found !== undefined;
    this.#queue.push(this.#pieceOf(token, text, isOver, logProb));
    if (stops.found !== undefined) this.stopString = stops.found;
    if (!isOver && this.#calls?.isDone !== true) return false;
    this.end(stops.found === undefined ? (ending ?? "stop") : "stop");
    return true;
  }

  /** A token with more of the answer, in which calls of tools are apart. */
  #pieceOf(
    token: number,
    piece: string,
    isOver: boolean,
    logProb: TokenLogProb | undefined,
  ): GeneratedToken {
    const probability = logProb && { logProb };
    if (this.#calls === undefined) return { token, text: piece, ...probability };
    const now = this.#calls.push(piece);
    const rest = isOver ? this.#calls.end() : { text: "", calls: [] };
    const calls = [...now.calls, ...rest.calls];
    const called = calls.length > 0 && { calls };
    return { token, text: now.text + rest.text, ...called, ...probability };
  }

  /** @internal No token follows. */
  end(reason: FinishReason, failure?: unknown): void {
    if (this.finishReason !== null) return;
    this.finishReason = reason;
    this.#queue.end(failure);
    this.onEnd?.();
  }

  /** Its tokens, for one reader; whoever stops reading ends it. */
  [Symbol.asyncIterator](): AsyncIterableIterator<GeneratedToken> {
    if (this.#isRead) {
      const fix = "keep what the first loop read.";
      throw new OptionError("generation", this, "one that nobody has read", fix);
    }
    this.#isRead = true;
    const iterator: AsyncIterableIterator<GeneratedToken> = {
      next: () => this.#queue.next(),
      return: async () => {
        this.leave();
        return { done: true, value: undefined };
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }
}

showAsText(Generation.prototype);
