/** Programs of Debian that tests use: those of the PATH, or of packages that are fetched. */
import { existsSync, globSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { must, once, toolchain } from "./toolchain.ts";

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

/** A program, and what it is started with. */
export interface DebianProgram {
  readonly program: string;
  /** Finds the libraries that were fetched with it. */
  readonly environment: Readonly<Record<string, string>>;
}

const folder = join(toolchain, "debian");

/** A program of the PATH, else of Debian's package, unpacked and not installed. */
export async function findDebian(name: PackageName): Promise<DebianProgram> {
  const unpacked = join(folder, name);
  const program = join(unpacked, packages[name].program);
  const onPath = Bun.which(basename(program));
  if (onPath !== null) return { program: onPath, environment: {} };
  await once(`debian-${name}`, name, existsSync(program), () => fetchPackage(name, unpacked));
  const libraries = globSync("usr/lib/*-linux-gnu{,/pulseaudio}", { cwd: unpacked });
  const paths = libraries.map((path) => join(unpacked, path));
  return { program, environment: { LD_LIBRARY_PATH: paths.join(":") } };
}

/** The package of this release of Debian and what it lacks here; nobody's lists change. */
async function fetchPackage(name: PackageName, unpacked: string): Promise<void> {
  const fix = `put ${name} on the PATH, as \`apt-get install ${name}\` does.`;
  const [lists, cache, part] = ["lists", `${name}.cache`, `${name}.part`].map((each) =>
    join(folder, each),
  );
  rmSync(cache, { recursive: true, force: true });
  for (const place of [join(lists, "partial"), join(cache, "archives", "partial")])
    mkdirSync(place, { recursive: true });
  const places = [`Dir::State::Lists=${lists}`, `Dir::Cache=${cache}`, "Debug::NoLocking=1"];
  // As root apt takes another user's rights, who cannot write here.
  const options = [...places, `APT::Sandbox::User=root`].flatMap((option) => ["-o", option]);
  const apt = ["apt-get", ...options];
  const hour = new Date().toISOString().slice(0, 13);
  await once("debian-lists", hour, true, () =>
    must("fetching Debian's list of packages (14 MB)", [...apt, "update"], fix),
  );
  const download = ["install", "--download-only", "--yes", "--no-install-recommends", name];
  const what = `${name} (${packages[name].megabytes} MB, once)`;
  await must(`fetching ${what}`, [...apt, ...download], fix);
  rmSync(part, { recursive: true, force: true });
  const unpack = 'for archive in "$0"/*.deb; do dpkg-deb -x "$archive" "$1"; done';
  const archives = join(cache, "archives");
  await must(`unpacking ${name}`, ["sh", "-ec", unpack, archives, part], fix);
  rmSync(cache, { recursive: true });
  rmSync(unpacked, { recursive: true, force: true });
  renameSync(part, unpacked);
}
