/** Programs of Debian that tests use: those of the PATH, or of packages that are fetched. */
import { existsSync, globSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { run, toolchain } from "./toolchain.ts";

/** Where a package has its program, and what fetching it takes. */
const packages = {
  nginx: { program: "usr/sbin/nginx", megabytes: 2 },
  mold: { program: "usr/bin/mold", megabytes: 2 },
  "chromium-headless-shell": {
    program: "usr/lib/chromium/chromium-headless-shell",
    megabytes: 100,
  },
} as const;
type PackageName = keyof typeof packages;

const folder = join(toolchain, "debian");
/** Processes that fetch at the same time do not meet here. */
const work = join(folder, `work-${process.pid}`);
let listed: Promise<void> | undefined;

/**
 * How a program begins a command line: of the PATH, else of Debian's package, unpacked and not
 * installed, with the libraries that came with it. Errors: Error, where it cannot be fetched.
 */
export async function findDebian(name: PackageName): Promise<readonly string[]> {
  const unpacked = join(folder, name);
  const program = join(unpacked, packages[name].program);
  const onPath = Bun.which(basename(program));
  if (onPath !== null) return [onPath];
  if (!existsSync(program)) await fetchPackage(name, unpacked);
  const libraries = globSync("{,usr/}lib/*-linux-gnu{,/pulseaudio}", { cwd: unpacked });
  const paths = libraries.map((path) => join(unpacked, path));
  return ["env", `LD_LIBRARY_PATH=${paths.join(":")}`, program];
}

/** The same for tests that are skipped without it; undefined, and said why: it is nowhere. */
export async function findDebianIfAny(name: PackageName): Promise<readonly string[] | undefined> {
  try {
    return await findDebian(name);
  } catch (cause) {
    process.stderr.write(`flashbun: tests of ${name} are skipped: ${(cause as Error).message}\n`);
    return undefined;
  }
}

/** The package of this release of Debian and what it lacks here; nobody's lists change. */
async function fetchPackage(name: PackageName, unpacked: string): Promise<void> {
  const fix = `put ${name} on the PATH, as \`apt-get install ${name}\` does.`;
  const [lists, cache, part] = ["lists", "cache", "part"].map((each) => join(work, each));
  for (const place of [join(lists, "partial"), join(cache, "archives", "partial")])
    mkdirSync(place, { recursive: true });
  const places = [`Dir::State::Lists=${lists}`, `Dir::Cache=${cache}`, "Debug::NoLocking=1"];
  // As root apt takes another user's rights, who cannot write here. A list that cannot be fetched
  // would be a warning.
  const manners = ["APT::Sandbox::User=root", "APT::Update::Error-Mode=any"];
  const apt = ["apt-get", ...[...places, ...manners].flatMap((option) => ["-o", option])];
  process.once("exit", () => rmSync(work, { recursive: true, force: true }));
  await (listed ??= demand("fetching Debian's list of packages (14 MB)", [...apt, "update"], fix));
  const download = ["install", "--download-only", "--yes", "--no-install-recommends", name];
  const what = `fetching ${name} (${packages[name].megabytes} MB, once)`;
  await demand(what, [...apt, ...download], fix);
  const unpack = 'for archive in "$0"/*.deb; do dpkg-deb -x "$archive" "$1"; done';
  const archives = join(cache, "archives");
  await demand(`unpacking ${name}`, ["sh", "-ec", unpack, archives, part], fix);
  rmSync(cache, { recursive: true });
  rmSync(unpacked, { recursive: true, force: true });
  renameSync(part, unpacked);
}

async function demand(what: string, command: string[], fix: string): Promise<void> {
  process.stderr.write(`flashbun: ${what}\n`);
  if (Bun.which(command[0]) === null) throw new Error(`${command[0]} is not here. Fix: ${fix}`);
  if ((await run(command)) !== 0) throw new Error(`${what} failed. Fix: ${fix}`);
}
