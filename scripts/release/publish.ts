/** Publishes packed packages by npm, to the registry that npm is set to. */
import type { Manifest } from "./packages.ts";

/** A tarball and the manifest in it. */
export interface Packed {
  readonly path: string;
  readonly manifest: Manifest;
}

/**
 * Publishes in this order. What the registry holds already is passed over, so that a release that
 * broke off can be run again.
 * @param environment says which registry, and who asks
 * @throws Error when npm refuses
 */
export function publish(
  packages: readonly Packed[],
  environment: Readonly<Record<string, string | undefined>> = process.env,
): void {
  const npm = (...words: string[]) =>
    Bun.spawnSync(["npm", ...words], { env: environment, stdio: ["inherit", "pipe", "pipe"] });
  for (const { path, manifest } of packages) {
    const { name, version } = manifest;
    const known = npm("view", `${name}@${version}`, "version");
    if (known.stdout.toString().trim() === version) continue;
    const { exitCode, stderr } = npm("publish", path, "--access", "public");
    if (exitCode !== 0)
      throw new Error(`npm did not publish ${name} ${version}:\n${stderr.toString()}`);
  }
}
