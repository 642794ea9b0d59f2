import { type Command } from "commander";
import { examples } from "../examples.ts";
import { integer, list, oneOf, pattern } from "../parse.ts";
import type { AutoArguments } from "./auto.ts";
import type { InspectArguments } from "./inspect.ts";
import type { RunArguments } from "./run.ts";
import type { ShrinkArguments } from "./shrink.ts";
import type { TraceArguments } from "./trace.ts";
import type { TreeArguments } from "./tree.ts";
import type { VerifyArguments } from "./verify.ts";

/**
 * Adds `flashbun debloat` and its subcommands, which load when they run.
 * @param end takes the exit code of the subcommand that ran
 */
export function addDebloat(root: Command, end: (exitCode: number) => void): void {
  const debloat = root
    .command("debloat")
    .description("find and remove what a CUDA library ships and never runs")
    .helpCommand("help [command]", "print the help of a command");
  addInspect(debloat, end);
  addShrink(debloat, end);
  addVerify(debloat, end);
  addRestore(debloat, end);
  addTrace(debloat, end);
  addProfile(debloat, end);
  addRun(debloat, end);
  addAuto(debloat, end);
  addTree(debloat, end);
}

function addInspect(debloat: Command, end: (exitCode: number) => void): void {
  debloat
    .command("inspect")
    .description("say what libraries consist of, and what each way of shrinking would save")
    .argument("<lib...>", "shared libraries")
    .option("--json <file>", "write all figures as JSON, one object per library")
    .option("--html <file>", "write a treemap, one HTML file")
    .option("--kernels", "name every kernel in the JSON, not only the largest of each image")
    .option("-q, --quiet", "print nothing but errors")
    .addHelpText("after", examples("debloat inspect libtorch_cuda.so --html torch.html"))
    .action(async (files: string[], options: InspectArguments) => {
      const { inspectCommand } = await import("./inspect.ts");
      end(await inspectCommand(files, options));
    });
}

function addShrink(debloat: Command, end: (exitCode: number) => void): void {
  debloat
    .command("shrink")
    .description("write smaller libraries; without -o, print what would go and why")
    .argument("<lib...>", "shared libraries; they are only read")
    .option("-o, --output <folder>", "folder for the shrunk libraries (absent: a dry run)")
    .option(
      "--arch <list>",
      "GPUs to keep code for, such as sm_90 (default: those of the profile, else all)",
      list,
    )
    .option("--profile <file>", "what runs used, as `flashbun debloat trace` wrote it")
    .option(
      "--level <level>",
      "arch: by GPU alone; cubin: unused images; kernel: unused kernels too " +
        "(default: kernel with --profile or --keep, else arch)",
      oneOf("--level", ["arch", "cubin", "kernel"]),
    )
    .option(
      "--host <what>",
      "off, or pages: host code that no run touched; needs --profile and --sidecar",
      oneOf("--host", ["off", "pages"]),
      "off",
    )
    .option("--strip", "remove symbol tables and debug information")
    .option("--drop-rel", "remove device code that is there linked as well (-rdc)")
    .option(
      "--recompress <n>",
      "pack every image anew, zstd 1 to 22",
      integer("--recompress", 1, 22),
    )
    .option("--keep <regex>", "kernels that stay, by mangled name", pattern("--keep"))
    .option(
      "--sidecar <path>",
      "folder for what is removed, for restore and the pager (one library: or a .side file)",
    )
    .option("--json <file>", "write every decision with its reason as JSON")
    .option("-q, --quiet", "print nothing but errors")
    .addHelpText(
      "after",
      examples(
        "debloat shrink libtorch_cuda.so --arch sm_90 --strip",
        "debloat shrink lib*.so -o small --profile used.json --sidecar cold",
      ),
    )
    .action(async (files: string[], options: ShrinkArguments) => {
      const { shrinkCommand } = await import("./shrink.ts");
      end(await shrinkCommand(files, options));
    });
}

function addVerify(debloat: Command, end: (exitCode: number) => void): void {
  debloat
    .command("verify")
    .description("check shrunk libraries against their originals")
    .argument("<lib...>", "originals, then the shrunk library, or the folder of all of them")
    .option("--sidecar <path>", "the .side file, or the folder of them: checks that all comes back")
    .option(
      "--run <command>",
      "run a shell command with both and compare what it prints, device code loaded late and early",
    )
    .option("--json <file>", "write every check as JSON")
    .option("-q, --quiet", "print nothing but errors")
    .addHelpText("after", examples("debloat verify lib*.so small --run 'python test.py'"))
    .action(async (files: string[], options: VerifyArguments) => {
      const { verifyCommand } = await import("./verify.ts");
      end(await verifyCommand(files, options));
    });
}

function addRestore(debloat: Command, end: (exitCode: number) => void): void {
  debloat
    .command("restore")
    .description("bring an original back, bit for bit")
    .argument("<lib>", "a shrunk library, or a folder that tree made")
    .requiredOption("--sidecar <path>", "its .side file, or the folder that holds it")
    .requiredOption("-o, --output <file>", "where the original goes")
    .addHelpText(
      "after",
      examples("debloat restore small/libcufft.so.12 --sidecar cold -o libcufft.so.12"),
    )
    .action(async (file: string, options: { sidecar: string; output: string }) => {
      const { restoreCommand } = await import("./restore.ts");
      end(await restoreCommand(file, options));
    });
}

function addTrace(debloat: Command, end: (exitCode: number) => void): void {
  debloat
    .command("trace")
    .description("run a command, its children too, and write what it uses of its libraries")
    .argument("<command...>", "the command and its arguments, after --")
    .requiredOption("-o, --output <file>", "the profile, JSON")
    .option(
      "--host <what>",
      "what of the host code to watch: pages, functions (exact, slower to start) or off",
      oneOf("--host", ["pages", "functions", "off"]),
      "pages",
    )
    .option("--append", "add to the profile that is there")
    .option("--cupti <file>", "libcupti.so (default: the one beside the command's CUDA libraries)")
    .option("-q, --quiet", "print nothing but errors, and what the command prints")
    .addHelpText("after", examples("debloat trace -o used.json -- python serve.py"))
    .action(async (command: string[], options: TraceArguments) => {
      const { debloatTrace } = await import("./trace.ts");
      end(await debloatTrace(command, options));
    });
}

function addProfile(debloat: Command, end: (exitCode: number) => void): void {
  const profile = debloat
    .command("profile")
    .description("join, compare and print profiles that trace wrote")
    .helpCommand("help [command]", "print the help of a command");
  profile
    .command("merge")
    .description("write one profile that holds what all of them hold")
    .argument("<profile...>", "profiles")
    .requiredOption("-o, --output <file>", "the merged profile")
    .addHelpText("after", examples("debloat profile merge train.json serve.json -o used.json"))
    .action(async (files: string[], options: { output: string }) => {
      const { profileMerge } = await import("./profile.ts");
      end(await profileMerge(files, options));
    });
  profile
    .command("diff")
    .description("print what each of two profiles has and the other lacks; exit code 1 if anything")
    .argument("<a>", "a profile")
    .argument("<b>", "another")
    .option("--names", "name the kernels")
    .addHelpText("after", examples("debloat profile diff train.json serve.json --names"))
    .action(async (a: string, b: string, options: { names?: boolean }) => {
      const { profileDiff } = await import("./profile.ts");
      end(profileDiff(a, b, options));
    });
  profile
    .command("show")
    .description("print a profile's runs, and figures of each library")
    .argument("<profile>", "a profile")
    .option("--json", "print JSON")
    .option("--names", "name the kernels")
    .addHelpText("after", examples("debloat profile show used.json"))
    .action(async (file: string, options: { json?: boolean; names?: boolean }) => {
      const { profileShow } = await import("./profile.ts");
      end(profileShow(file, options));
    });
}

function addRun(debloat: Command, end: (exitCode: number) => void): void {
  const run = debloat
    .command("run")
    .description("run a command with shrunk libraries from a cache; what is installed stays")
    .argument("<command...>", "the command and its arguments, after --")
    .requiredOption("--profile <file>", "what runs used, as `flashbun debloat trace` wrote it");
  addChoices(run)
    .option("--cache <folder>", "folder of shrunk libraries (default: in the user's cache)")
    .option("-q, --quiet", "print nothing but errors, and what the command prints")
    .addHelpText("after", examples("debloat run --profile used.json -- python serve.py"))
    .action(async (command: string[], options: RunArguments) => {
      const { debloatRun } = await import("./run.ts");
      end(await debloatRun(command, options));
    });
}

function addAuto(debloat: Command, end: (exitCode: number) => void): void {
  const auto = debloat
    .command("auto")
    .description("run a command: traced the first time, with shrunk libraries from then on")
    .argument("<command...>", "the command and its arguments, after --");
  addChoices(auto)
    .option("--cache <folder>", "folder of profiles and libraries (default: in the user's cache)")
    .option("-q, --quiet", "print nothing but errors, and what the command prints")
    .addHelpText("after", examples("debloat auto -- python serve.py"))
    .action(async (command: string[], options: AutoArguments) => {
      const { debloatAuto } = await import("./auto.ts");
      end(await debloatAuto(command, options));
    });
}

function addTree(debloat: Command, end: (exitCode: number) => void): void {
  const tree = debloat
    .command("tree")
    .description("make a slim copy of a whole environment, for an image or another place")
    .argument("<folder>", "an environment, such as a virtual one of Python; it is only read")
    .requiredOption("-o, --output <folder>", "the copy; it must not be there yet")
    .option("--profile <file>", "what runs used, as `flashbun debloat trace` wrote it");
  addChoices(tree)
    .option("--sidecar <folder>", "new folder for what is removed, for restore and the pager")
    .option("--json <file>", "write the figures of every library as JSON")
    .option("--html <file>", "write a treemap of what is left, one HTML file")
    .option("-q, --quiet", "print nothing but errors")
    .addHelpText("after", examples("debloat tree venv -o slim --profile used.json --strip"))
    .action(async (folder: string, options: TreeArguments) => {
      const { treeCommand } = await import("./tree.ts");
      end(await treeCommand(folder, options));
    });
}

/** What commands that shrink by a profile have in common. */
function addChoices(command: Command): Command {
  return command
    .option("--arch <list>", "GPUs to keep code for (default: those of the profile)", list)
    .option(
      "--level <level>",
      "arch, cubin or kernel, as shrink has them (default: kernel)",
      oneOf("--level", ["arch", "cubin", "kernel"]),
    )
    .option(
      "--host <what>",
      "off, or pages: host code that no run touched, which comes back when it is needed",
      oneOf("--host", ["off", "pages"]),
      "off",
    )
    .option("--strip", "remove symbol tables and debug information")
    .option("--drop-rel", "remove device code that is there linked as well (-rdc)")
    .option("--keep <regex>", "kernels that stay, by mangled name", pattern("--keep"));
}
