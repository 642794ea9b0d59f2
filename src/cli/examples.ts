/** Text behind a command's help: lines that run as they stand. */
export function examples(...lines: string[]): string {
  const heading = lines.length === 1 ? "Example" : "Examples";
  return `\n${heading}:\n${lines.map((line) => `  bunx flashbun ${line}`).join("\n")}`;
}
