/**
 * The script's arguments, if it `takes` them; default none. Else it ends before it changes
 * anything: with its usage, and 2 unless only that was asked for.
 */
export function argumentsOf(
  usage: string,
  takes = (given: readonly string[]) => given.length === 0,
): string[] {
  const given = process.argv.slice(2);
  if (takes(given)) return given;
  const asksHelp = given.length === 1 && ["--help", "-h"].includes(given[0]);
  if (!asksHelp) process.stderr.write(`flashbun: wrong arguments: ${given.join(" ") || "none"}\n`);
  (asksHelp ? process.stdout : process.stderr).write(`usage: ${usage}\n`);
  process.exit(asksHelp ? 0 : 2);
}

/**
 * The script's arguments, which go on to `bun test`. An option that this does not know, and would
 * pass over in silence, ends the script before it changes anything, as `--help` does.
 */
export function testArguments(command: string): string[] {
  const given = process.argv.slice(2);
  const help = Bun.spawnSync([process.execPath, "test", "--help"]).stdout.toString();
  const known = [...help.matchAll(/^ *((?:-\w, +)?--[\w-]+)(=<val>)?  /gm)].map(
    ([, names, value]) => ({ names: names.split(/, +/), takes: value !== undefined }),
  );
  const names = known.flatMap((option) => option.names);
  if (given.some((argument) => ["--help", "-h"].includes(argument))) {
    const usage = `usage: bun run ${command} [files, folders and options of bun test]`;
    process.stdout.write(`${usage}\noptions: ${names.join(", ")}\n`);
    process.exit(0);
  }
  const takers = known.filter(({ takes }) => takes).flatMap((option) => option.names);
  const unknown = given.find((argument, i) => {
    const name = argument.startsWith("--") ? argument.split("=")[0] : argument.slice(0, 2);
    const isValue = i > 0 && takers.includes(given[i - 1]);
    return argument.startsWith("-") && !isValue && !names.includes(name);
  });
  if (unknown === undefined) return given;
  const fix = `there are ${names.join(", ")}`;
  process.stderr.write(`flashbun: unknown option ${unknown}. Fix: ${fix}.\n`);
  process.exit(2);
}
