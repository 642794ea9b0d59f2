/** docs/debloat.md against what the commands say of themselves. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { runBun } from "../support/run.ts";
import { root } from "../support/zig.ts";

const page = readFileSync(join(root, "docs", "debloat.md"), "utf8");
const main = join(root, "src", "cli", "main.ts");

/** The options of a help text that are in a column of their own. */
async function optionsOf(command: string): Promise<string[]> {
  const { stdout } = await runBun([main, "debloat", command, "--help"]);
  const found = [...stdout.matchAll(/^ {2}(?:-\w, )?(--[\w-]+)/gm)].map(([, option]) => option);
  return found.filter((option) => option !== "--help");
}

/** The options in the first column of the tables of a section. */
function listedUnder(heading: string): string[] {
  const section = page.split(`\n### ${heading}\n`)[1].split(/\n##/)[0];
  const cells = section.split("\n").flatMap((line) => /^\| (`-.*?) \|/.exec(line)?.[1] ?? []);
  return cells.flatMap((cell) => [...cell.matchAll(/--[\w-]+/g)].map(([option]) => option));
}

test.each(["inspect", "trace", "shrink", "verify", "restore", "run", "auto", "tree"])(
  "%s: the page lists its options",
  async (command) => {
    const options = await optionsOf(command);
    expect(options.length).toBeGreaterThan(1);
    if (command !== "restore") return void expect(listedUnder(command)).toEqual(options);
    // Both are in the sentence itself.
    const section = page.split("\n### restore\n")[1].split("\n##")[0];
    expect(options.filter((option) => !/^--(sidecar|output)$/.test(option))).toEqual([]);
    expect(section).toContain("--sidecar <path> -o <file>");
  },
);

test("every command has a section", async () => {
  const { stdout } = await runBun([main, "debloat", "--help"]);
  const commands = stdout
    .split("Commands:\n")[1]
    .match(/^  \w+/gm)!
    .map((name) => name.trim());
  const headings = [...page.matchAll(/^### (\w+)$/gm)].map(([, name]) => name);
  expect(headings.sort()).toEqual(commands.filter((name) => name !== "help").sort());
});
