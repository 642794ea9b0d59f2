import { resolve } from "node:path";

const starts = 3;

/** Seconds from the start of a process to SmolLM2's first token, the median of three. */
export async function warmStartSeconds(): Promise<number> {
  const main = resolve(import.meta.dir, "../../src/cli/main.ts");
  const command = [
    process.execPath,
    main,
    "generate",
    "smollm2",
    "The sea is",
    "--max-tokens",
    "1",
  ];
  const times: number[] = [];
  for (let i = 0; i < starts; i++) {
    const started = performance.now();
    const child = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "ignore" });
    for await (const _ of child.stdout) break;
    times.push((performance.now() - started) / 1e3);
    if ((await child.exited) !== 0) throw new Error(`${command.slice(1).join(" ")} failed`);
  }
  return times.sort((a, b) => a - b)[Math.floor(starts / 2)];
}
