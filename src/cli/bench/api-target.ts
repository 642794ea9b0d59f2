import { OptionError } from "../../errors.ts";
import type { BenchRequest } from "./load.ts";
import type { Asked, Asking, Target } from "./target.ts";
import { wordsOf } from "./words.ts";

/** Which server, and how it is asked. */
export interface ApiOptions {
  /** With `/v1`, as clients have it. */
  readonly url: string;
  readonly key: string | undefined;
  /** Absent: the first that the server names. */
  readonly model: string | undefined;
  /** Asks `/chat/completions`, by one message; otherwise `/completions`. */
  readonly chat: boolean;
  /** Sends no fields but OpenAI's own: answers may end early. */
  readonly plain: boolean;
}

/** What a server says of itself in `/models`. */
interface Listed {
  readonly id: string;
  readonly max_model_len?: number;
}

/** A piece of a streamed answer, as far as its times and counts. */
interface Chunk {
  readonly choices?: readonly {
    readonly index: number;
    readonly text?: string;
    readonly delta?: { readonly content?: string | null };
  }[];
  readonly usage?: {
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
    readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null;
  } | null;
  readonly error?: { readonly message?: string };
}

/** A server that speaks OpenAI's API, on this machine or another. */
export class ApiTarget implements Target {
  private constructor(
    private readonly options: ApiOptions,
    /** What it is asked for. */
    readonly model: string,
    /** Tokens that a request may have; Infinity where the server does not say. */
    readonly contextTokens: number,
  ) {}

  /** Asks the server for its models. Errors: OptionError where it does not answer. */
  static async open(options: ApiOptions): Promise<ApiTarget> {
    const { url, model } = options;
    let listed: readonly Listed[];
    try {
      const response = await fetch(`${url}/models`, { headers: headersOf(options) });
      if (!response.ok) throw new Error(await failureOf(response));
      listed = ((await response.json()) as { data: readonly Listed[] }).data;
    } catch (error) {
      const allowed = `a server that answers ${url}/models (${(error as Error).message})`;
      throw new OptionError("--url", url, allowed, "give its address as clients do, with /v1.");
    }
    const found = model === undefined ? listed[0] : listed.find(({ id }) => id === model);
    const names = listed.map(({ id }) => id).join(", ");
    if (found === undefined)
      throw new OptionError("model", model, `one of ${names || "none"}`, "name one of them.");
    return new ApiTarget(options, found.id, found.max_model_len ?? Infinity);
  }

  async ask(request: BenchRequest, { samples, temperature, signal, now }: Asking): Promise<Asked> {
    const { url, chat, plain } = this.options;
    const text = wordsOf(request.prompt);
    const most = chat && plain ? "max_completion_tokens" : "max_tokens";
    const body = {
      model: this.model,
      ...(chat ? { messages: [{ role: "user", content: text }] } : { prompt: text }),
      [most]: request.outputTokens,
      temperature,
      stream: true,
      stream_options: { include_usage: true },
      ...(samples > 1 && { n: samples }),
      ...(!plain && { ignore_eos: true }),
    };
    const askedMs = now();
    const answersMs: number[][] = Array.from({ length: samples }, () => []);
    let usage: Chunk["usage"];
    let failure: string | undefined;
    try {
      const response = await fetch(`${url}/${chat ? "chat/" : ""}completions`, {
        method: "POST",
        headers: headersOf(this.options),
        body: JSON.stringify(body),
        signal,
      });
      if (!response.ok) throw new Error(await failureOf(response));
      for await (const chunk of chunksOf(response)) {
        if (chunk.error !== undefined) throw new Error(chunk.error.message ?? "an error");
        const time = now();
        for (const { index, text: piece, delta } of chunk.choices ?? [])
          if (piece || delta?.content) answersMs[index].push(time);
        usage = chunk.usage ?? usage;
      }
    } catch (error) {
      failure = signal.aborted ? "interrupted" : (error as Error).message;
    }
    const pieces = answersMs.reduce((sum, { length }) => sum + length, 0);
    return {
      askedMs,
      answersMs,
      promptTokens: usage?.prompt_tokens ?? 0,
      cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? 0,
      outputTokens: usage?.completion_tokens ?? pieces,
      ...(failure !== undefined && { failure }),
    };
  }
}

function headersOf({ key }: ApiOptions): Record<string, string> {
  const type = { "content-type": "application/json" };
  return key === undefined ? type : { ...type, authorization: `Bearer ${key}` };
}

/** The status of a refusal, with the server's sentence where it has one. */
async function failureOf(response: Response): Promise<string> {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text) as Chunk;
    return `${response.status}: ${error?.message ?? text.slice(0, 200)}`;
  } catch {
    return `${response.status}: ${text.slice(0, 200)}`;
  }
}

/** The events of a response. Errors: an Error for one that ends before its last. */
async function* chunksOf(response: Response): AsyncGenerator<Chunk, void> {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const bytes of response.body ?? []) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split(/\r?\n/);
    rest = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice("data:".length).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data) as Chunk;
    }
  }
  throw new Error("the stream was cut");
}
