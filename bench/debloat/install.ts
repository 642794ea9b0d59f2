/** PyTorch and the CUDA libraries that it loads, from PyPI into a folder that git ignores. */
import { existsSync, globSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { must, root } from "../../scripts/toolchain.ts";

/** The release whose libraries are measured; it pins the versions of NVIDIA's. */
export const torchVersion = "2.11.0";

/** Everything that the benchmark fetches and writes. */
export const benchFolder = join(root, ".bench", "debloat");

/** Libraries with device code that `import torch` and a training step on a GPU load. */
const cudaLibraries = [
  "libtorch_cuda.so",
  "libcublas.so.*",
  "libcublasLt.so.*",
  "libcufft.so.*",
  "libcufile.so.*",
  "libcurand.so.*",
  "libcusolver.so.*",
  "libcusparse.so.*",
  "libcudnn_engines_precompiled.so.*",
  "libcudnn_engines_runtime_compiled.so.*",
  "libcudnn_ops.so.*",
  "libcusparseLt.so.*",
  "libnccl.so.*",
  "libnvshmem_host.so.*",
];

/** Installed libraries. */
export interface Installed {
  /** Folder for PYTHONPATH. */
  readonly site: string;
  /** The fourteen libraries with device code. */
  readonly cuda: readonly string[];
  /** What a CPU runs of PyTorch: host code alone. */
  readonly cpu: string;
}

/**
 * Installs unless it is done already. Downloads go on where they were cut off.
 * @param given a folder of packages that has torch already
 */
export async function installed(given?: string): Promise<Installed> {
  const site = given ?? join(benchFolder, "site");
  if (!existsSync(join(site, "torch"))) await install(site);
  const find = (pattern: string): string => {
    const [found, ...more] = globSync(`{torch/lib,nvidia/*/lib}/${pattern}`, { cwd: site });
    if (found === undefined || more.length > 0)
      throw new Error(`${site} has ${more.length + (found ? 1 : 0)} files ${pattern}, not one`);
    return join(site, found);
  };
  return { site, cuda: cudaLibraries.map(find), cpu: find("libtorch_cpu.so") };
}

async function install(site: string): Promise<void> {
  const wheels = join(benchFolder, "wheels");
  const part = `${site}.part`;
  mkdirSync(wheels, { recursive: true });
  rmSync(part, { recursive: true, force: true });
  const python = Bun.which("python3") ?? "python3";
  const pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"];
  const wanted = `torch==${torchVersion}`;
  await must(
    `fetching PyTorch ${torchVersion} (2.7 GB, once)`,
    [...pip, "download", "--only-binary=:all:", "--dest", wheels, wanted],
    "run it again: what has arrived is kept.",
  );
  await must(
    "unpacking it (5 GB)",
    [...pip, "install", "--no-index", "--find-links", wheels, "--target", part, wanted],
    "free some disk space.",
  );
  renameSync(part, site);
  rmSync(wheels, { recursive: true });
}

/** Names of libraries as people know them. */
export function namesOf(libraries: readonly string[]): string {
  return libraries.map((path) => basename(path)).join(", ");
}
