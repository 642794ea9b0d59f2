/** The pinned nvcc and its companion cuobjdump, which reads fat binaries independently of us. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { root } from "../../support/zig.ts";

/** nvcc of the toolchain folder or of the PATH, with cuobjdump beside it; else undefined. */
export function nvccHere(): string | undefined {
  const fetched = join(root, ".toolchain/cuda/nvidia/cu13/bin/nvcc");
  const found = existsSync(fetched) ? fetched : Bun.which("nvcc");
  return found !== null && existsSync(join(dirname(found), "cuobjdump")) ? found : undefined;
}

/** Runs a program that has to succeed; returns what it printed. */
export async function run(program: string, args: string[], cwd?: string): Promise<string> {
  const child = Bun.spawn([program, ...args], { cwd, stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  if ((await child.exited) !== 0) throw new Error(`${program} ${args.join(" ")}:\n${out}${err}`);
  return out;
}

/** What cuobjdump says of an image. */
export interface DumpedImage {
  /** sm_100 for sm_100f: it leaves suffixes out. */
  arch: string;
  kind: string;
  kernels: string[];
  functions: string[];
}

/** The images of a fat binary or library in their order, as cuobjdump lists them. */
export async function dump(file: string): Promise<DumpedImage[]> {
  const tool = join(dirname(nvccHere()!), "cuobjdump");
  const said = await run(tool, ["-all", "-symbols", file]);
  return said
    .split(/^Fatbin (?=\w+ code:$)/m)
    .slice(1)
    .map((text) => {
      const rows = [...text.matchAll(/^FUNC +(\w+) +\w+ +(\S+) +(\S+)$/gm)];
      const named = (isKernel: boolean) =>
        rows.filter((row) => (row[2] === "ENTRY") === isKernel).map((row) => row[3]);
      return {
        kind: /^(\w+) code/.exec(text)![1],
        arch: /^arch = (\S+)/m.exec(text)![1],
        kernels: named(true).sort(),
        functions: named(false).sort(),
      };
    });
}
