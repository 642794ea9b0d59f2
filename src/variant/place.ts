/** A line of a user's file. */
export interface Place {
  readonly file: string;
  readonly line: number;
}

/** The folder of this file, as stacks name it. */
const here = `${import.meta.dir}/`;

/**
 * The line from which the variant language was called: the innermost line of a stack that is not in
 * the language itself. undefined where the stack names none, or none within a call of `outermost`:
 * a function that ends in a call leaves the stack before the call.
 */
export function placeOf({ stack = "" }: Error, outermost?: string): Place | undefined {
  for (const frame of stack.split("\n").slice(1)) {
    if (outermost !== undefined && frame.includes(`at ${outermost} (`)) return undefined;
    const where = frame.endsWith(")") ? frame.slice(frame.lastIndexOf("(") + 1, -1) : frame;
    const found = /^\s*(?:at )?(?:file:\/\/)?(.*):(\d+):\d+$/.exec(where);
    if (found === null) continue;
    const [, file, line] = found;
    if (!file.startsWith(here) && !/^(native|unknown|node:.*|bun:.*)$/.test(file))
      return { file, line: Number(line) };
  }
  return undefined;
}
