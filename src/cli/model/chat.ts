import { createInterface } from "node:readline/promises";
import type { ChatMessage } from "../../engine/index.ts";
import {
  adapterOf,
  type EngineArguments,
  openEngine,
  type SamplingArguments,
  samplingOf,
} from "./engine.ts";

/** Options of `flashbun chat`. */
export interface ChatArguments extends EngineArguments, SamplingArguments {
  system?: string;
}

/**
 * Talks until an empty line or the end of input; Ctrl-C cuts an answer short, and ends the talk
 * where none runs. Returns the exit code.
 */
export async function chatCommand(model: string, options: ChatArguments): Promise<number> {
  await using engine = await openEngine(model, options);
  const messages: ChatMessage[] = [];
  const said = { ...adapterOf(options), ...samplingOf(options) };
  if (options.system !== undefined) messages.push({ role: "system", content: options.system });
  const input = createInterface({ input: process.stdin, output: process.stderr });
  let cut: (() => void) | undefined;
  // Piped lines end while an answer to one of them still runs.
  let isOpen = true;
  input.on("close", () => (isOpen = false));
  input.on("SIGINT", () => (cut === undefined ? input.close() : cut()));
  try {
    input.setPrompt("> ");
    input.prompt();
    for await (const line of input) {
      if (line.trim() === "") break;
      messages.push({ role: "user", content: line });
      const generation = engine.generate({ messages, ...said });
      cut = () => generation.abort();
      let answer = "";
      for await (const { text } of generation) {
        process.stdout.write(text);
        answer += text;
      }
      cut = undefined;
      process.stdout.write("\n");
      messages.push({ role: "assistant", content: answer });
      if (isOpen) input.prompt();
    }
  } finally {
    input.close();
  }
  return 0;
}
