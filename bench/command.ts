import { Command } from "commander";
import { setup } from "../scripts/setup.ts";

/**
 * A program of bench. What it does not know is said in one line with what it knows, and ends it
 * with 2, before anything is built or measured.
 */
export function benchCommand(name: string): Command {
  const command = new Command(name);
  const outputError = (said: string, write: (text: string) => void) => {
    const sentence = said.replace(/^error: |\.?\s*$/g, "").replace(/\s*\n\s*/g, " ");
    const known = [...command.options.map(({ long }) => long), "--help"].join(", ");
    write(`${name}: ${sentence}. Fix: there are ${known}.\n`);
  };
  return command
    .configureOutput({ outputError })
    .exitOverride(({ exitCode }) => process.exit(exitCode === 0 ? 0 : 2));
}

/** What `bun run NAME` builds in a clone that may be fresh; once its arguments are known. */
export async function setUp(): Promise<void> {
  if (process.env["npm_lifecycle_event"] !== undefined) await setup();
}
