/** The nginx that tests put before replicas: that of the PATH, or Debian's package. */
import { existsSync, globSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { must, once, toolchain } from "./toolchain.ts";

/** nginx's program: of the PATH, else Debian's package, unpacked and not installed. */
export async function findNginx(): Promise<string> {
  const onPath = Bun.which("nginx");
  if (onPath !== null) return onPath;
  const folder = join(toolchain, "nginx");
  const program = join(folder, "usr", "sbin", "nginx");
  await once("nginx", "Debian's", existsSync(program), () => fetchPackage(folder));
  return program;
}

/** Unpacks the package of this release of Debian, whole or not at all; nobody's lists change. */
async function fetchPackage(folder: string): Promise<void> {
  const part = `${folder}.part`;
  const fix = "put nginx on the PATH, as `apt-get install nginx` does.";
  rmSync(part, { recursive: true, force: true });
  for (const name of ["lists/partial", "cache/archives/partial", "unpacked"])
    mkdirSync(join(part, name), { recursive: true });
  const places = [`Dir::State::Lists=${part}/lists`, `Dir::Cache=${part}/cache`];
  // As root apt takes another user's rights, who cannot write here.
  const options = [...places, `APT::Sandbox::User=root`].flatMap((option) => ["-o", option]);
  const apt = ["apt-get", ...options];
  await must("fetching Debian's list of packages (10 MB, once)", [...apt, "update"], fix, part);
  await must("fetching nginx (1 MB, once)", [...apt, "download", "nginx"], fix, part);
  const [archive] = globSync(join(part, "nginx_*.deb"));
  const unpacked = join(part, "unpacked");
  await must("unpacking nginx", ["dpkg-deb", "-x", archive, unpacked], fix);
  rmSync(folder, { recursive: true, force: true });
  renameSync(unpacked, folder);
  rmSync(part, { recursive: true });
}
