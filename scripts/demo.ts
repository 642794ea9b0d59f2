/**
 * `flashbun demo` in a clone that may be fresh: what it needs is built once its arguments are known
 * to be right.
 *
 * Usage: bun run demo [arguments of flashbun demo]
 */
import { join } from "node:path";
import { Command } from "commander";
import { addModelCommands } from "../src/cli/model/model.ts";
import { setup } from "./setup.ts";
import { root, run } from "./toolchain.ts";

const words = ["demo", ...process.argv.slice(2)];

/** Whether the arguments are right and ask for more than help; else the program says what it is. */
async function isRight(): Promise<boolean> {
  const silent = { writeOut: () => {}, outputError: () => {} };
  const program = new Command("flashbun").exitOverride().configureOutput(silent);
  addModelCommands(program, () => {});
  program.commands.find((command) => command.name() === "demo")!.action(() => {});
  try {
    await program.parseAsync(words, { from: "user" });
    return true;
  } catch {
    return false;
  }
}

if (await isRight()) await setup();
process.exitCode = await run([process.execPath, join(root, "src/cli/main.ts"), ...words], true);
