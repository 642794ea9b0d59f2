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
