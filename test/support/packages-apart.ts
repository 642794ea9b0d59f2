import { copyFileSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { hash, once, toolchain } from "../../scripts/toolchain.ts";
import { runBun } from "./run.ts";

/**
 * Installs packages that one test needs and the project does not, as the lock file in a folder
 * says, beside the toolchain under the folder's name. Returns their node_modules.
 */
export async function installApart(manifests: string): Promise<string> {
  const name = basename(manifests);
  const installed = join(toolchain, name);
  const packages = join(installed, "node_modules");
  const files = ["package.json", "bun.lock"];
  const stamp = hash(...files.map((file) => readFileSync(join(manifests, file), "utf8")));
  await once(name, stamp, existsSync(packages), async () => {
    mkdirSync(installed, { recursive: true });
    for (const file of files) copyFileSync(join(manifests, file), join(installed, file));
    const { code, stderr } = await runBun(["install", "--frozen-lockfile"], { cwd: installed });
    if (code !== 0) throw new Error(`the packages of ${name} could not be installed:\n${stderr}`);
  });
  return packages;
}
