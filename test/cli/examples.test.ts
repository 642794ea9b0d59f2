import { expect, test } from "bun:test";
import { Command } from "commander";
import { addDebloat } from "../../src/cli/debloat/debloat.ts";
import { addJit } from "../../src/cli/jit/jit.ts";
import { addModelCommands } from "../../src/cli/model/model.ts";

const root = new Command("flashbun").exitOverride();
for (const add of [addModelCommands, addJit, addDebloat]) add(root, () => {});

/** Commands that have none below them. */
function last(command: Command): Command[] {
  return command.commands.length === 0 ? [command] : command.commands.flatMap(last);
}

const withArguments = last(root).filter(({ registeredArguments: { length } }) => length > 0);
const named = withArguments.map((command) => [command.name(), command] as const);

test.each(named)("%s --help ends with lines that its parser takes", async (name, command) => {
  let help = "";
  let ran = 0;
  command.configureOutput({ writeOut: (text) => void (help += text) }).outputHelp();
  command.action(() => void ran++);
  const lines = [...help.matchAll(/^ {2}bunx flashbun (.+)$/gm)].map(([, line]) => line);
  expect(lines.length).toBeGreaterThan(0);
  for (const line of lines) {
    const words = [...line.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)];
    await root.parseAsync(
      words.map(([, a, b, c]) => a ?? b ?? c),
      { from: "user" },
    );
    expect(line).toContain(name);
  }
  expect(ran).toBe(lines.length);
});
