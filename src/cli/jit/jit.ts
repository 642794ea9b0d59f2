import type { Command } from "commander";
import { examples } from "../examples.ts";

/** Adds `flashbun jit`; `done` takes the exit code. */
export function addJit(root: Command, done: (exitCode: number) => void): void {
  const jit = root
    .command("jit")
    .description("compile kernels ahead of their first use; look at the cache of kernels")
    .helpCommand("help [command]", "print the help of a command");
  jit
    .command("warm")
    .argument("<files...>", "modules whose default export is options of an attention, or a list")
    .description("compile the kernels that the files' attentions need, and keep them")
    .option("--arch <name>", "compile for sm_90a, say, instead of the GPU at hand")
    .addHelpText("after", examples("jit warm attention.ts", "jit warm attention.ts --arch sm_90a"))
    .action(async (files: string[], options: { arch?: string }) => {
      const { jitWarm } = await import("./warm.ts");
      done(await jitWarm(files, options));
    });
  jit
    .command("list")
    .description("list the kernels in the cache")
    .action(async () => {
      const { jitList } = await import("./list.ts");
      done(jitList());
    });
  jit
    .command("clear")
    .description("remove all kernels from the cache")
    .action(async () => {
      const { jitClear } = await import("./clear.ts");
      done(jitClear());
    });
}
