#!/usr/bin/env bun
/** The command line: models, `replay`, `doctor`, `jit`, `debloat`. Commands load when they run. */
import { Command, CommanderError, Option } from "commander";
import { version } from "../../package.json";
import { FlashbunError, OptionError } from "../errors.ts";
import { addDebloat } from "./debloat/debloat.ts";
import { addJit } from "./jit/jit.ts";
import { addModelCommands } from "./model/model.ts";
import { examples } from "./examples.ts";
import { countOrAll, device, integer, oneOf, positive } from "./parse.ts";
import type { ReplayArguments } from "./replay.ts";

/** Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted. */
let exitCode = 0;

function program(): Command {
  const root = new Command("flashbun")
    .description("LLM serving on Bun: serve a model, replay a trace, check the installation.")
    .version(version, "-V, --version", "print the version")
    .helpOption("-h, --help", "print this help")
    .helpCommand("help [command]", "print the help of a command")
    .exitOverride()
    // `report` says them, with what helps.
    .configureOutput({ outputError: () => {} });
  addModelCommands(root, (code) => void (exitCode = code));
  addReplay(root);
  root
    .command("doctor")
    .description("say what this machine offers, and check that attention is right on it")
    .option("--json <file>", "write the findings as JSON")
    .action(async (options: { json?: string }) => {
      const { doctor } = await import("./doctor/doctor.ts");
      exitCode = await doctor(options);
    });
  addJit(root, (code) => void (exitCode = code));
  addDebloat(root, (code) => void (exitCode = code));
  return root;
}

function addReplay(root: Command): void {
  const command = root
    .command("replay")
    .description("run a trace of LLM requests through paged attention")
    .option(
      "--trace <file>",
      "trace to run, see the README for formats; absent: generated requests",
    )
    .option("--requests <n>", "requests to run, or all of the trace", countOrAll("--requests"), 200)
    .option(
      "--scale-lengths <f>",
      "multiply prompt and output lengths",
      positive("--scale-lengths", 1000),
      1,
    )
    .option(
      "--speed <f>",
      "arrivals this many times as fast (default: inf, all at once; 1 with --rate)",
      positive("--speed"),
    )
    .addOption(
      new Option("--rate <f>", "generated requests per second, as a Poisson process")
        .argParser(positive("--rate"))
        .conflicts("trace"),
    )
    .addOption(
      new Option("--lengths <kind>", "spread of generated lengths: log-normal (default), zipf")
        .argParser(oneOf("--lengths", ["log-normal", "zipf"]))
        .conflicts("trace"),
    )
    .option(
      "--hash-block <n>",
      "tokens that one of the trace's hash_ids stands for (default: 512)",
      integer("--hash-block", 1, 1 << 16),
    )
    .option("--lenient", "skip malformed lines of the trace and count them")
    .option("--shape <name>", "model shape, such as llama-3.1-8b or tiny", "llama-3.1-8b");
  addReplayOptions(command);
  command
    .option("--json <file>", "write the summary as JSON")
    .option("--report <file>", "write a report with charts, one HTML file")
    .option("--trace-events <file>", "write events for Perfetto")
    .option("-q, --quiet", "print nothing but errors")
    .addHelpText(
      "after",
      examples("replay --requests 30", "replay --trace azure.csv --requests all --report run.html"),
    )
    .action(async (options: ReplayArguments) => {
      const { replayCommand } = await import("./replay.ts");
      exitCode = await replayCommand(options);
    });
}

function addReplayOptions(command: Command): void {
  command
    .option("--layers <n>", "layers to run, or all of the shape", countOrAll("--layers"), 2)
    .option(
      "--pages <n>",
      "pages of the KV cache (default: 2048, or what one request needs)",
      integer("--pages", 1),
    )
    .option("--page-size <n>", "tokens per page", integer("--page-size", 1, 4096), 16)
    .option("--token-budget <n>", "most tokens per step", integer("--token-budget", 1), 512)
    .option(
      "--max-batch <n>",
      "most requests at once (default: 64)",
      integer("--max-batch", 1, 65_536),
    )
    .option(
      "--dtype <type>",
      "elements of queries, keys and values: f32, f16, bf16 (default: f32, on a GPU bf16)",
      oneOf("--dtype", ["f32", "f16", "bf16"]),
    )
    .option("--seed <n>", "seed of requests, values and checks", integer("--seed", 0), 1)
    .option("--verify <n>", "outputs to recompute in f64", integer("--verify", 0), 64)
    .option("--device <name>", "cpu, cuda:0, or auto: a GPU where one answers", device, "cpu")
    .option(
      "--graph <when>",
      "replay captured graphs in steps without prompts: on, off, or auto: on a GPU",
      oneOf("--graph", ["auto", "on", "off"]),
      "auto",
    )
    .option(
      "--threads <n>",
      "threads of the CPU device (default: all cores)",
      integer("--threads", 1, 1024),
    );
}

/** What helps against commander's errors, by their codes. */
const fixes: Readonly<Record<string, string>> = {
  "commander.missingArgument": "add it; --help says what it is.",
  "commander.optionMissingArgument": "add its value; --help says what it is.",
  "commander.missingMandatoryOptionValue": "add it; --help says what it is.",
  "commander.conflictingOption": "leave one of the two out.",
  "commander.unknownOption": "leave it out; --help lists the options.",
  "commander.unknownCommand": "--help lists the commands.",
  "commander.excessArguments": "leave them out, or put quotes around words that are one argument.",
};

/** A sentence of commander's, which puts suggestions on a line of their own, and what helps. */
function usageSaid({ code, message }: CommanderError): string {
  const said = message
    .replace(/^error: |\.\s*$/g, "")
    .trim()
    .replace(/\s*\n\s*/g, " ");
  return `${said}. Fix: ${fixOf(code)}`;
}

/** The option may be of a command that is to be run. */
function fixOf(code: string): string {
  const [, , command, sub] = process.argv;
  const isRun = command === "debloat" && ["trace", "run", "auto"].includes(sub);
  if (code === "commander.unknownOption" && isRun && !process.argv.includes("--"))
    return `put -- before the command: flashbun debloat ${sub} OPTIONS -- COMMAND.`;
  return fixes[code] ?? "--help says what there is.";
}

/** Options that the library knows by another name. */
const aliases: Record<string, string> = { kind: "device", "speculate.model": "speculate" };

/**
 * The library's name of an option, such as pageSize, as it is typed here: --page-size. Others that
 * the sentence names are too, where they cannot be words.
 */
function asTyped({ option, message: said }: OptionError, root: Command): string {
  const message = said.replace("(got undefined)", "(got nothing)");
  const options = root.commands
    .flatMap((command) => [command, ...command.commands])
    .flatMap((command) => command.options);
  const found = options.find(
    (candidate) => candidate.attributeName() === (aliases[option] ?? option),
  );
  if (found?.long == null) return message;
  return message
    .replace(new RegExp(`(^|\\bgive )${option}\\b`, "g"), `$1${found.long}`)
    .replace(/"[^"]*"|(?<![\w.])[a-z]+[A-Z]\w*/g, (name) => {
      const other = options.find((candidate) => candidate.attributeName() === name);
      return other?.long ?? name;
    });
}

/** Says what went wrong in one sentence; a stack is only for unexpected errors. */
function report(error: unknown, root: Command): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    // The help of a command that needs another one has been printed.
    if (error.code !== "commander.help") process.stderr.write(`flashbun: ${usageSaid(error)}\n`);
    return 2;
  }
  if (error instanceof OptionError) {
    process.stderr.write(`flashbun: ${asTyped(error, root)}\n`);
    return 2;
  }
  if (error instanceof FlashbunError) {
    process.stderr.write(`flashbun: ${error.message}\n`);
    return 1;
  }
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stderr.write(`flashbun: unexpected failure, please report it: ${stack}\n`);
  return 1;
}

// The reader of a pipe may stop early, as head does.
for (const stream of [process.stdout, process.stderr])
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
    process.exit(exitCode);
  });
const root = program();
try {
  await root.parseAsync(process.argv.slice(2), { from: "user" });
} catch (error) {
  exitCode = report(error, root);
}
process.exitCode = exitCode;
