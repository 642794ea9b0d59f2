import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { CompileError } from "../errors.ts";
import type { CompilerAnswer } from "../ffi/nvrtc.ts";
import { languageFlags } from "./specialization.ts";

/** Headers of the emulated GPU: a checkout has them, the package does not. */
const root = join(import.meta.dir, "..", "..");
const headers = join(root, "zig", "emulator");

// What kernels call lies in the emulator: a C++ library would be another minute to build and load.
const flags = [
  "-O2",
  "-shared",
  "-fPIC",
  "-DFB_EMULATED",
  "-nostdlib++",
  "-nostdinc++",
  "-fno-exceptions",
  "-fno-rtti",
  "-fno-math-errno",
  // What nobody wrote is NaN, as it may be in a register.
  "-ftrivial-auto-var-init=pattern",
  ...(process.arch === "x64" ? ["-march=x86_64_v3"] : []),
];
// Most of a test's time goes to the compiler: nothing for debuggers, and loops as they are written,
// of which threads that take turns run few passes at a time.
const quickFlags = ["-g0", "-fno-vectorize", "-fno-slp-vectorize", "-fno-unroll-loops"];
// Instruments alone: what it calls lies in the race detector, once per process.
const raceFlags = ["-gline-tables-only", "-Xclang", "-fsanitize=thread"];

let identity: string | undefined;

/** Whether loops stay as they are written, or become what may show a missing wait sooner. */
type Effort = "quick" | "thorough";

/** The compiler's flags, which FLASHBUN_EMULATOR has a part in. */
function flagsNow(effort: Effort): string[] {
  const options = process.env["FLASHBUN_EMULATOR"]?.split(",") ?? [];
  const compute = options.find((option) => option.startsWith("compute="))?.slice(8);
  const isWatched = options.includes("races");
  return [
    ...flags,
    ...(compute === undefined ? [] : [`-DFB_ARCH=${compute}0`]),
    ...(isWatched ? raceFlags : effort === "quick" ? quickFlags : []),
  ];
}

/** Names the compiler of emulated images: the flags and the headers that end up in each of them. */
export function emulatedCompiler(): string {
  if (identity !== undefined) return identity;
  const digest = createHash("sha256").update(flagsNow("quick").join(" "));
  for (const name of existsSync(headers) ? readdirSync(headers).sort() : [])
    if (name.endsWith(".h")) digest.update(readFileSync(join(headers, name)));
  return (identity = `host-${digest.digest("hex")}`);
}

/** Compiles a kernel's text into a shared object for the emulated GPU, in a process of its own. */
export async function compileEmulated(
  text: string,
  effort: Effort = "quick",
): Promise<CompilerAnswer> {
  using job = new Job(text, effort);
  const child = Bun.spawn(job.command, { stdout: "ignore", stderr: "pipe" });
  const log = await new Response(child.stderr).text();
  return job.answer(await child.exited, log);
}

/** As compileEmulated, while this thread waits. */
export function compileEmulatedSync(text: string): CompilerAnswer {
  return compileAllEmulatedSync([text])[0];
}

/** The same of several texts, as many at a time as there are processors. */
export function compileAllEmulatedSync(texts: readonly string[]): CompilerAnswer[] {
  if (texts.length === 0) return [];
  using jobs = new DisposableStack();
  const all = texts.map((text) => jobs.use(new Job(text, "quick")));
  const count = Math.min(all.length, availableParallelism());
  const lanes = Array.from({ length: count }, (_, lane) =>
    all.filter((_, i) => i % count === lane).map(({ script }) => script),
  );
  const script = lanes.map((lane) => `(${lane.join("; ")}) &`).join(" ");
  Bun.spawnSync(["/bin/sh", "-c", `${script} wait`], { stdio: ["ignore", "ignore", "inherit"] });
  return all.map((job) => job.written());
}

/** A folder with a text, and the command that makes an image of it. */
class Job implements Disposable {
  readonly command: string[];
  readonly #folder: string;
  readonly #image: string;

  constructor(text: string, effort: Effort) {
    const zig = findZig();
    if (!existsSync(headers) || zig === undefined) {
      throw new CompileError(
        "kernels for the emulated GPU are compiled by `zig c++` in a checkout of flashbun. " +
          "Fix: run `bun run setup` there, or set FLASHBUN_ZIG to Zig 0.17.1.",
        "",
      );
    }
    this.#folder = mkdtempSync(join(tmpdir(), "flashbun-emulated-"));
    this.#image = join(this.#folder, "kernel.so");
    const source = join(this.#folder, "kernel.cu");
    writeFileSync(source, text);
    const place = ["-I", headers, "-x", "c++", source, "-o", this.#image];
    this.command = [zig, "c++", ...languageFlags, ...flagsNow(effort), ...place];
  }

  /** A shell's line that runs it and writes how it ended. */
  get script(): string {
    const quoted = this.command.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
    return `${quoted} 2>'${this.#folder}/log'; echo $? >'${this.#folder}/code'`;
  }

  /** What that came to. */
  written(): CompilerAnswer {
    if (!existsSync(join(this.#folder, "code"))) return this.answer(1, "the shell ended before it");
    const [code, log] = ["code", "log"].map((name) =>
      readFileSync(join(this.#folder, name), "utf8"),
    );
    return this.answer(Number(code), log);
  }

  answer(code: number, log: string): CompilerAnswer {
    if (code === 0) return { image: new Uint8Array(readFileSync(this.#image)) };
    return { failure: `zig c++ exited with ${code}`, log };
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function findZig(): string | undefined {
  const { FLASHBUN_ZIG } = process.env;
  if (FLASHBUN_ZIG) return FLASHBUN_ZIG;
  const fetched = join(root, ".toolchain", "zig", "ziglang", "zig");
  return existsSync(fetched) ? fetched : (Bun.which("zig") ?? undefined);
}
