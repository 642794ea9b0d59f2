#!/usr/bin/env bun
/** The command line: `flashbun replay`, `flashbun doctor`. Commands load when they run. */
import { Command, CommanderError } from "commander";
import { version } from "../../package.json";
import { FlashbunError, OptionError } from "../errors.ts";
import { countOrAll, integer, oneOf, positive } from "./parse.ts";
import type { ReplayArguments } from "./replay.ts";

/** Exit codes: 0 done, 1 failed, 2 called wrongly, 130 interrupted. */
let exitCode = 0;

function program(): Command {
  const root = new Command("flashbun")
    .description("Attention for LLM serving on Bun: replay a trace, check the installation.")
    .version(version, "-V, --version", "print the version")
    .helpOption("-h, --help", "print this help")
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(`flashbun: ${oneLine(text)}\n`) });
  addReplay(root);
  root
    .command("doctor")
    .description("say what this machine offers, and check that attention is right on it")
    .option("--json <file>", "write the findings as JSON")
    .action(async (options: { json?: string }) => {
      const { doctor } = await import("./doctor.ts");
      exitCode = await doctor(options);
    });
  return root;
}

function addReplay(root: Command): void {
  const command = root
    .command("replay")
    .description("run a trace of LLM requests through paged attention")
    .option("--trace <file>", "Azure 2023 CSV or Mooncake JSONL; absent: generated requests")
    .option("--requests <n>", "requests to run, or all of the trace", countOrAll("--requests"), 200)
    .option(
      "--scale-lengths <f>",
      "multiply prompt and output lengths",
      positive("--scale-lengths", 1000),
      1,
    )
    .option("--speed <f>", "arrivals this many times as fast; inf: at once", positive("--speed"))
    .option("--rate <f>", "generated requests a second (Poisson); inf: at once", positive("--rate"))
    .option(
      "--lengths <kind>",
      "spread of generated lengths: log-normal, zipf",
      oneOf("--lengths", ["log-normal", "zipf"]),
    )
    .option("--lenient", "skip malformed lines of the trace and count them", false)
    .option("--shape <name>", "model shape, such as llama-3.1-8b or tiny", "llama-3.1-8b");
  addEngineOptions(command);
  command
    .option("--json <file>", "write the summary as JSON")
    .option("--report <file>", "write a report with charts, one HTML file")
    .option("--trace-events <file>", "write events for Perfetto")
    .option("-q, --quiet", "print nothing but errors", false)
    .action(async (options: ReplayArguments) => {
      const { replayCommand } = await import("./replay.ts");
      exitCode = await replayCommand(options);
    });
}

function addEngineOptions(command: Command): void {
  command
    .option("--layers <n>", "layers to run, or all of the shape", countOrAll("--layers"), 2)
    .option("--pages <n>", "pages of the KV cache", integer("--pages", 1))
    .option("--page-size <n>", "tokens a page", integer("--page-size", 1, 4096), 16)
    .option("--token-budget <n>", "most tokens a step", integer("--token-budget", 1), 512)
    .option("--max-batch <n>", "most requests at once", integer("--max-batch", 1, 65_536), 64)
    .option(
      "--dtype <type>",
      "element type of queries, keys and values: f32, f16, bf16",
      oneOf("--dtype", ["f32", "f16", "bf16"]),
      "f32",
    )
    .option("--seed <n>", "seed of requests, values and checks", integer("--seed", 0), 1)
    .option("--verify <n>", "outputs to recompute in f64", integer("--verify", 0), 64)
    .option("--threads <n>", "threads of the device", integer("--threads", 1, 1024));
}

/** Commander puts suggestions on a line of their own. */
function oneLine(text: string): string {
  return text
    .replace(/^error: /, "")
    .trim()
    .replace(/\s*\n\s*/g, " ");
}

/** Says what went wrong in one sentence; a stack is only for errors that nobody foresaw. */
function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if (error instanceof FlashbunError) {
    process.stderr.write(`flashbun: ${error.message}\n`);
    return error instanceof OptionError ? 2 : 1;
  }
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stderr.write(`flashbun: unexpected failure, please report it: ${stack}\n`);
  return 1;
}

try {
  await program().parseAsync(process.argv.slice(2), { from: "user" });
} catch (error) {
  exitCode = report(error);
}
process.exitCode = exitCode;
