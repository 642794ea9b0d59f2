import { basename } from "node:path";

/** One change of a kernel's text that takes something away which the kernel needs. */
export interface Mutant {
  /** What changes, by function and occurrence: lines move too often. */
  readonly name: string;
  readonly text: string;
}

/** What orders one thing after another: calls as statements, whose value is not used. */
const order =
  /(?<=^\s*(?:else |if \(.*\) )?)(?:__sync\w+|\w*(?:wait|fence|commit|arrive|barrier)\w*)(?:<[^;]*>)?\([^;]*\);/;
const opensFunction = /^(?:template <.*> )?FB_DEVICE .*?(\w+)\(|^FB_(?:KERNEL|OPERATOR)\((\w+)/;
const opensFile = /^#line \d+ "(.*)"/;

/** The text without each wait, barrier, fence and commit that a source of `folder` has, in turn. */
export function withoutEachWait(text: string, folder: string): Mutant[] {
  const lines = text.split("\n");
  const mutants: Mutant[] = [];
  const seen = new Map<string, number>();
  let file = "";
  let where = "";
  for (const [at, line] of lines.entries()) {
    file = opensFile.exec(line)?.[1] ?? file;
    const opened = opensFunction.exec(line);
    if (opened !== null) where = opened[1] ?? opened[2];
    const code = line.replace(/\/\/.*$/, "");
    const call = file.startsWith(folder) ? order.exec(code) : null;
    if (call === null) continue;
    const what = `${basename(file)}, ${where}: ${call[0].slice(0, -1)}`;
    const count = (seen.get(what) ?? 0) + 1;
    seen.set(what, count);
    const less = `${code.slice(0, call.index)};${code.slice(call.index + call[0].length)}`;
    mutants.push({ name: `${what} #${count}`, text: lines.with(at, less).join("\n") });
  }
  return mutants;
}

/** The text with one piece of its code replaced, which must be there exactly once. */
export function withOther(text: string, name: string, piece: string, other: string): Mutant {
  const parts = text.split(piece);
  if (parts.length !== 2)
    throw new Error(`"${piece}" stands ${parts.length - 1} times in the kernel: ${name}`);
  return { name, text: parts.join(other) };
}
