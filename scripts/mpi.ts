/** The mpirun for programs of several ranks: that of the PATH, or pinned ones from PyPI. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fetchWheels, once, says, toolchain, versions } from "./toolchain.ts";

/** Implementations of MPI that tests run under. */
export type MpiName = "Open MPI" | "MPICH";

/** One of them: what stands before a program, and around it. */
export interface Mpi {
  command(ranks: number): string[];
  readonly environment: Readonly<Record<string, string>>;
}

const packages = {
  "Open MPI": { name: "openmpi", library: "libmpi.so.40" },
  MPICH: { name: "mpich", library: "libmpi.so.12" },
} as const;

const found = new Map<MpiName, Promise<Mpi>>();

/** An mpirun of this kind on the PATH, as of Debian's openmpi-bin or mpich, else the pinned one. */
export function findMpi(wanted: MpiName): Promise<Mpi> {
  let mpi = found.get(wanted);
  if (mpi === undefined) found.set(wanted, (mpi = find(wanted)));
  return mpi;
}

async function find(wanted: MpiName): Promise<Mpi> {
  const freely = wanted === "Open MPI" ? ["--oversubscribe", "--allow-run-as-root"] : [];
  const commandOf = (program: string) => (ranks: number) => [
    program,
    ...freely,
    "-n",
    String(ranks),
  ];
  const onPath = Bun.which("mpirun");
  const isOpenMpi = onPath !== null && (await says([onPath, "--version"])).includes("Open MPI");
  // libfabric's transport takes a second to end, and one machine needs none.
  const local: Record<string, string> = wanted === "Open MPI" ? { OMPI_MCA_btl: "^ofi" } : {};
  if (onPath !== null && isOpenMpi === (wanted === "Open MPI"))
    return { command: commandOf(onPath), environment: local };
  const { name, library } = packages[wanted];
  const version = versions[name];
  const folder = join(toolchain, name, `${name}-${version}.data`, "data");
  const program = join(folder, "bin", wanted === "Open MPI" ? "mpirun" : "mpiexec.hydra");
  await once(name, version, existsSync(program), () =>
    fetchWheels(name, `${wanted} ${version} (8 MB, once)`, [name], `the mpirun of ${wanted}`),
  );
  const environment = { ...local, OPAL_PREFIX: folder, FLASHBUN_MPI: join(folder, "lib", library) };
  return { command: commandOf(program), environment };
}
