/**
 * Builds the platform package, packs it and flashbun into .release/, checks both, and publishes
 * them, the platform package first. With --dry-run nothing is published.
 *
 * Usage: bun run release [--dry-run]
 */
import { mkdirSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { native } from "../../src/ffi/library.ts";
import { argumentsOf } from "../arguments.ts";
import { setup } from "../setup.ts";
import { findZig, must, read, root } from "../toolchain.ts";
import {
  contentFaults,
  glibcFaults,
  libraryPackage,
  openTarball,
  sourcePackage,
  type Tarball,
} from "./contents.ts";
import { fillPlatform, libraries, manifestOf, platforms, versionFaults } from "./packages.ts";
import { publish } from "./publish.ts";

const folder = join(root, ".release");
const main = manifestOf();

/** Ends the process when there is anything to say. */
function stopOn(sentences: readonly string[]): void {
  for (const sentence of sentences) process.stderr.write(`flashbun: ${sentence}\n`);
  if (sentences.length > 0) process.exit(1);
}

function changelogFaults(): string[] {
  const heading = `## [${main.version}] - `;
  const dated = read("CHANGELOG.md")
    .split(heading)[1]
    ?.match(/^\d{4}-\d\d-\d\d\n/);
  return dated ? [] : [`CHANGELOG.md has no "${heading}" with a date. Fix: say what is new in it.`];
}

/** Builds with the options of a release, whatever the local build has. */
async function buildLibraries(): Promise<void> {
  const prefix = join(folder, "build");
  const command = [await findZig(), "build", "--prefix", prefix];
  await must("building the libraries", command, "read the compiler's message above.");
  const paths = libraries.map((name) => join(prefix, "lib", name));
  stopOn(paths.flatMap(glibcFaults));
  // Opening compares its ABI version with that of the sources.
  process.env["FLASHBUN_LIB"] = paths[0];
  native();
  for (const platform of platforms) fillPlatform(platform, join(prefix, "lib"));
}

async function pack(packageFolder: string): Promise<Tarball> {
  const { name, version } = manifestOf(packageFolder);
  const command = [process.execPath, "pm", "pack", "--destination", folder];
  await must(`packing ${name}`, command, "read the message above.", join(root, packageFolder));
  const path = join(folder, `${name.replace("@", "").replace("/", "-")}-${version}.tgz`);
  const tarball = await openTarball(path);
  stopOn(contentFaults(tarball, packageFolder === "." ? sourcePackage : libraryPackage));
  const publint = join(root, "node_modules", "publint", "src", "cli.js");
  const lint = [process.execPath, publint, "run", path, "--strict"];
  await must(`checking ${basename(path)}`, lint, "read publint's message above.");
  return tarball;
}

function describe({ path, files }: Tarball): string {
  const unpacked = [...files.values()].reduce((sum, size) => sum + size, 0);
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(2);
  const packed = megabytes(Bun.file(path).size);
  return `${basename(path)}: ${packed} MB, ${files.size} files of ${megabytes(unpacked)} MB\n`;
}

const [dryRun] = argumentsOf(
  "bun run release [--dry-run]",
  (given) => given.length === 0 || given.join() === "--dry-run",
);
await setup();
const changed = Bun.spawnSync(["git", "status", "--porcelain"], { cwd: root }).stdout.toString();
if (!dryRun && changed !== "") stopOn(["files differ from the last commit. Fix: commit first."]);
stopOn([...platforms.flatMap((platform) => versionFaults(main, platform)), ...changelogFaults()]);
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder);
await buildLibraries();
const folders = [...platforms, "."];
const tarballs: Tarball[] = [];
for (const each of folders) tarballs.push(await pack(each));
for (const tarball of tarballs) process.stdout.write(describe(tarball));
if (!dryRun) publish(tarballs.map(({ path }, i) => ({ path, manifest: manifestOf(folders[i]) })));
