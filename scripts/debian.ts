/** Programs of Debian that tests use: those of the PATH, or of packages that are fetched. */
import { existsSync, globSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { must, once, toolchain } from "./toolchain.ts";

/** Where a package has the program of its name. */
const programs = { nginx: "usr/sbin/nginx", mold: "usr/bin/mold" };

/** A program's path: of the PATH, else of Debian's package, unpacked and not installed. */
export async function findDebian(name: keyof typeof programs): Promise<string> {
  const onPath = Bun.which(name);
  if (onPath !== null) return onPath;
  const folder = join(toolchain, "debian");
  const program = join(folder, programs[name]);
  const names = Object.keys(programs);
  await once("debian", names.join(" "), existsSync(program), () => fetchPackages(folder, names));
  return program;
}

/** Unpacks packages of this release of Debian, whole or not at all; nobody's lists change. */
async function fetchPackages(folder: string, names: readonly string[]): Promise<void> {
  const said = names.join(" and ");
  const part = `${folder}.part`;
  const fix = `put ${said} on the PATH, as \`apt-get install ${names.join(" ")}\` does.`;
  rmSync(part, { recursive: true, force: true });
  for (const place of ["lists/partial", "cache/archives/partial", "unpacked"])
    mkdirSync(join(part, place), { recursive: true });
  const places = [`Dir::State::Lists=${part}/lists`, `Dir::Cache=${part}/cache`];
  // As root apt takes another user's rights, who cannot write here.
  const options = [...places, `APT::Sandbox::User=root`].flatMap((option) => ["-o", option]);
  const apt = ["apt-get", ...options];
  await must("fetching Debian's list of packages (14 MB, once)", [...apt, "update"], fix, part);
  await must(`fetching ${said} (3 MB, once)`, [...apt, "download", ...names], fix, part);
  const unpacked = join(part, "unpacked");
  for (const archive of globSync(join(part, "*.deb")))
    await must(`unpacking ${said}`, ["dpkg-deb", "-x", archive, unpacked], fix);
  rmSync(folder, { recursive: true, force: true });
  renameSync(unpacked, folder);
  rmSync(part, { recursive: true });
}
