/** Work in steps that each leave a file: a command that was cut off goes on where it was. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** No more steps are to be done by this command, and some are left. */
export class Unfinished extends Error {}

/** The exit code of a command that left steps to the next. */
export const unfinished = 75;

/** Steps by name, in a folder. */
export class Steps {
  /** @param left how many steps are done at most before the rest is left to another command */
  constructor(
    readonly folder: string,
    private left = Infinity,
  ) {
    mkdirSync(folder, { recursive: true });
  }

  /**
   * What a step gave, from its file where it was done before.
   * @throws Unfinished
   */
  async take<T>(name: string, work: () => Promise<T>): Promise<T> {
    const file = join(this.folder, `${name.replaceAll(" ", "-")}.json`);
    if (existsSync(file)) return JSON.parse(readFileSync(file, "utf8")) as T;
    if (this.left-- <= 0) throw new Unfinished(`${name} is left: run the same command again`);
    const began = performance.now();
    const given = await work();
    writeFileSync(`${file}.part`, `${JSON.stringify(given, undefined, 1)}\n`);
    renameSync(`${file}.part`, file);
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    process.stdout.write(`${name}: ${seconds} s\n`);
    return given;
  }
}
