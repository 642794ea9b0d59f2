import { globSync, readdirSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

/** An NVRTC on this machine. */
export interface Nvrtc {
  readonly library: string;
  readonly builtins: string;
  /** Such as "13.0". */
  readonly version: string;
}

/** What a search found: an NVRTC, or the places that were looked at. */
export interface NvrtcSearch {
  readonly found: Nvrtc | undefined;
  readonly tried: readonly string[];
}

/** The version that images are compiled with ahead of time. */
export const pinnedVersion = "13.0";

const majors = ["13", "12"];
const pythonPackages = "lib/python3*/{site,dist}-packages/nvidia/{cu13,cuda_nvrtc}/lib";
const searched = new Map<string, NvrtcSearch>();

/**
 * FLASHBUN_NVRTC alone where it is set; else the pinned version wherever it lies, then the first of
 * the newest major. The answer is remembered.
 */
export function findNvrtc(): NvrtcSearch {
  const named = process.env["FLASHBUN_NVRTC"] ?? "";
  let search = searched.get(named);
  if (search === undefined) searched.set(named, (search = searchIn(named)));
  return search;
}

function searchIn(named: string): NvrtcSearch {
  if (named !== "") return { found: nvrtcAt(named), tried: [`FLASHBUN_NVRTC=${named}`] };
  const patterns = places();
  const all = [...new Set(patterns.flatMap((pattern) => globSync(pattern).sort().reverse()))]
    .map(nvrtcAt)
    .filter((nvrtc) => nvrtc !== undefined);
  const newest = majors.flatMap((major) =>
    all.filter(({ version }) => version.startsWith(`${major}.`)),
  );
  const found = all.find(({ version }) => version === pinnedVersion) ?? newest[0];
  return { found, tried: patterns };
}

/** Folders, as patterns, in the order in which an NVRTC there is preferred. */
function places(): string[] {
  const { VIRTUAL_ENV, CONDA_PREFIX, LD_LIBRARY_PATH, CUDA_HOME } = process.env;
  const home = homedir();
  const prefixes = [VIRTUAL_ENV, CONDA_PREFIX, join(home, ".local"), "/usr/local", "/usr"];
  prefixes.push("/opt/conda", "/opt/*", "/opt/*/.venv");
  return [
    join(import.meta.dir, "..", "..", ".toolchain/cuda/nvidia/cu13/lib"),
    ...(CUDA_HOME ? [join(CUDA_HOME, "lib64")] : []),
    ...(LD_LIBRARY_PATH ?? "").split(":").filter((folder) => folder.startsWith("/")),
    "/usr/local/cuda*/lib64",
    ...prefixes.flatMap((prefix) => (prefix ? [join(prefix, pythonPackages)] : [])),
    // Debian's Python packages lie beside the versions.
    "/usr/lib/python3/dist-packages/nvidia/{cu13,cuda_nvrtc}/lib",
    ...(CONDA_PREFIX ? [join(CONDA_PREFIX, "lib")] : []),
    "/usr/lib/{x86_64,aarch64}-linux-gnu",
    "/usr/lib64",
  ];
}

/**
 * An NVRTC by its path or folder; its builtins, whose name holds the version, must lie beside it.
 */
function nvrtcAt(path: string): Nvrtc | undefined {
  try {
    const isFolder = statSync(path).isDirectory();
    const folder = isFolder ? path : dirname(path);
    const names = readdirSync(folder);
    const own = majors.map((major) => `libnvrtc.so.${major}`).find((name) => names.includes(name));
    const library = isFolder ? own && join(folder, own) : path;
    const major = library && /\.so\.(\d+)/.exec(library)?.[1];
    const builtins = names
      .filter((name) => name.startsWith(`libnvrtc-builtins.so.${major ?? ""}`))
      .sort()[0];
    const version = builtins && /\.so\.(\d+\.\d+)/.exec(builtins)?.[1];
    if (!library || !version) return undefined;
    return { library, builtins: join(folder, builtins), version };
  } catch {
    return undefined;
  }
}
