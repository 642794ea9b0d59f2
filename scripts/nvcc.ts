/** Compiles specialisations with nvcc, each once by its content hash, and reads what ptxas says. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pinnedCompiler } from "../src/jit/image.ts";
import { expand, identify, imageHash, languageFlags } from "../src/jit/specialization.ts";
import { readClampFaults } from "../src/jit/machine-code.ts";
import type { MatrixEntry } from "./matrix.ts";
import { toolchain } from "./toolchain.ts";

/** What one kernel of an image takes, as ptxas says. */
export interface KernelResources {
  readonly kernel: string;
  readonly registers: number;
  readonly barriers: number;
  readonly stackBytes: number;
  readonly spillBytes: number;
  readonly staticSharedBytes: number;
}

/** A compiled entry of the matrix. */
export interface Compiled {
  readonly entry: MatrixEntry;
  readonly architecture: string;
  readonly hash: string;
  readonly bytes: Uint8Array;
  readonly kernels: readonly KernelResources[];
  /** Sentences about what must not be shipped. */
  readonly faults: readonly string[];
}

/** Compiled files lie here by hash. */
export const imagesFolder = join(toolchain, "images");

/** Compiles an entry, or takes what was compiled before. Throws what nvcc says. */
export async function compileWithNvcc(
  nvcc: string,
  entry: MatrixEntry,
  architecture: string,
): Promise<Compiled> {
  const hash = imageHash(identify(entry), architecture, pinnedCompiler);
  const path = join(imagesFolder, hash);
  if (!existsSync(`${path}.cubin`)) await runNvcc(nvcc, expand(entry), architecture, path);
  const log = readFileSync(`${path}.log`, "utf8");
  const bytes = new Uint8Array(readFileSync(`${path}.cubin`));
  return {
    entry,
    architecture,
    hash,
    bytes,
    kernels: readResources(log),
    faults: [...readFaults(log), ...readClampFaults(bytes)],
  };
}

async function runNvcc(nvcc: string, text: string, architecture: string, path: string) {
  mkdirSync(imagesFolder, { recursive: true });
  writeFileSync(`${path}.cu`, text);
  const flags = ["-cubin", `-arch=${architecture}`, ...languageFlags, "-Xptxas", "-v"];
  const unfinished = `${path}.${process.pid}.part`;
  const child = Bun.spawn([nvcc, ...flags, "-o", unfinished, `${path}.cu`], { stderr: "pipe" });
  const log = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(log);
  writeFileSync(`${path}.log`, log);
  renameSync(unfinished, `${path}.cubin`);
}

/** Reads ptxas' lines about registers, stack and spills of each kernel. */
export function readResources(log: string): KernelResources[] {
  return log
    .split(/Compiling entry function /)
    .slice(1)
    .map((part) => {
      const number = (pattern: RegExp) => Number(pattern.exec(part)?.[1] ?? 0);
      return {
        kernel: /^'(\w+)'/.exec(part)![1],
        registers: number(/Used (\d+) registers/),
        barriers: number(/used (\d+) barriers/),
        stackBytes: number(/(\d+) bytes stack frame/),
        spillBytes: number(/(\d+) bytes spill stores/) + number(/(\d+) bytes spill loads/),
        staticSharedBytes: number(/(\d+) bytes smem/),
      };
    })
    .sort((a, b) => (a.kernel < b.kernel ? -1 : 1));
}

/** What a shipped kernel must not do: spill, keep a stack, or run what should overlap in turn. */
export function readFaults(log: string): string[] {
  const spills = readResources(log).flatMap(({ kernel, stackBytes, spillBytes }) => [
    ...(spillBytes > 0 ? [`${kernel} spills ${spillBytes} bytes`] : []),
    ...(stackBytes > 0 ? [`${kernel} keeps a stack of ${stackBytes} bytes`] : []),
  ]);
  const said = log.split("\n").filter((line) => /^ptxas warning|\(C75\d\d\)/.test(line));
  return [...spills, ...said];
}
