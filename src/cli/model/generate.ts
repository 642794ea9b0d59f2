import { OptionError } from "../../errors.ts";
import { counted } from "../../shown.ts";
import { draftFigures, draftsText } from "../bench/drafts.ts";
import { requireWritable, textStream, writeWhole } from "../outputs.ts";
import {
  adapterOf,
  type EngineArguments,
  onSignals,
  openEngine,
  type SamplingArguments,
  samplingOf,
} from "./engine.ts";

/** Options of `flashbun generate`. */
export interface GenerateArguments extends EngineArguments, SamplingArguments {
  raw?: boolean;
  json?: string;
}

/** Answers one prompt on standard output. Returns the exit code. */
export async function generateCommand(
  model: string,
  given: string,
  options: GenerateArguments,
): Promise<number> {
  const outputs = { "--json": options.json };
  requireWritable(outputs);
  const prompt = given === "-" ? await Bun.stdin.text() : given;
  if (prompt === "") {
    const fix = given === "-" ? "give some on the standard input." : "say something.";
    throw new OptionError("prompt", prompt, "a text that is not empty", fix);
  }
  await using engine = await openEngine(model, options);
  const input = options.raw ? { prompt } : { messages: [{ role: "user", content: prompt }] };
  const abort = new AbortController();
  using signals = onSignals(() => abort.abort());
  const started = performance.now();
  const generation = engine.generate({ ...input, ...adapterOf(options), ...samplingOf(options) });
  abort.signal.addEventListener("abort", () => generation.abort());
  const out = textStream(outputs);
  const tokens: number[] = [];
  let text = "";
  let firstMs = 0;
  for await (const piece of generation) {
    if (tokens.length === 0) firstMs = performance.now() - started;
    tokens.push(piece.token);
    text += piece.text;
    out.write(piece.text);
  }
  out.write("\n");
  const { promptTokens, cachedTokens } = generation.usage;
  const seconds = (performance.now() - started - firstMs) / 1000;
  const rate = tokens.length > 1 ? (tokens.length - 1) / seconds : NaN;
  if (!options.quiet)
    process.stderr.write(
      `flashbun: ${counted(promptTokens, "prompt token")}, first token after ` +
        `${firstMs.toFixed(0)} ms, ${counted(tokens.length, "token")}` +
        `${Number.isNaN(rate) ? "" : ` at ${rate.toFixed(1)} tokens/s`}\n`,
    );
  const drafts = draftFigures(engine.stats());
  if (drafts !== undefined && !options.quiet)
    process.stderr.write(`flashbun: ${draftsText(drafts)}\n`);
  const { finishReason } = generation;
  const result = { text, tokens, finishReason, promptTokens, cachedTokens, firstMs, ...drafts };
  if (options.json !== undefined)
    await writeWhole(options.json, `${JSON.stringify(result, null, 2)}\n`);
  return signals.exitCode;
}
