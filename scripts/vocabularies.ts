/**
 * Fetches vocabularies of models with texts and their token ids (llama.cpp's, from the source
 * package llama-cpp-python, 77 MB, by pip, checked by hash) into .toolchain/vocabularies, once,
 * and runs test/text/vocabularies.test.ts, which compares tokenizers with them.
 *
 * Usage: bun run check:vocabularies
 */
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { argumentsOf } from "./arguments.ts";
import { root } from "./toolchain.ts";

const version = "0.3.36";
const sha256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e";
const target = join(root, ".toolchain", "vocabularies");

async function fetchVocabularies(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "flashbun-vocabularies-"));
  try {
    const name = "llama-cpp-python";
    const pip = ["python3", "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name];
    await run([...pip, "--dest", folder, `${name}==${version}`]);
    const archive = join(folder, `llama_cpp_python-${version}.tar.gz`);
    const hash = new Bun.CryptoHasher("sha256").update(await Bun.file(archive).bytes());
    if (hash.digest("hex") !== sha256) throw new Error(`${archive} is another file`);
    const models = `llama_cpp_python-${version}/vendor/llama.cpp/models`;
    const wanted = ["ggml-vocab-*", "templates/*"].map((name) => `${models}/${name}`);
    await run(["tar", "xzf", archive, "-C", folder, "--wildcards", ...wanted]);
    mkdirSync(join(root, ".toolchain"), { recursive: true });
    renameSync(join(folder, models), target);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function run(command: readonly string[]): Promise<void> {
  const code = await Bun.spawn([...command], { stdout: "ignore", stderr: "inherit" }).exited;
  if (code !== 0) throw new Error(`${command.join(" ")} ended with ${code}`);
}

argumentsOf("bun run check:vocabularies");
if (!existsSync(target)) await fetchVocabularies();
const tests = [process.execPath, "test", "test/text/vocabularies.test.ts"];
process.exit(await Bun.spawn(tests, { cwd: root, stdio: ["ignore", "inherit", "inherit"] }).exited);
