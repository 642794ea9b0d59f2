import { expect, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runBun } from "../support/run.ts";
import { root } from "../support/sources.ts";
import { entry, flashbun } from "./run.ts";

test("doctor finds the library and right attention on this machine", async () => {
  const folder = mkdtempSync(join(tmpdir(), "flashbun-doctor-"));
  try {
    const json = join(folder, "findings.json");
    const { code, out, err } = await flashbun("doctor", "--json", json);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out).toMatch(/ok +baseline +attention against f64: largest error \S+e-/);
    expect(out).toMatch(/ok +reading +[\d.]+ GB\/s/);
    const { findings } = await Bun.file(json).json();
    const states = findings.map(({ state }: { state: string }) => state);
    expect(states.filter((state: string) => state !== "ok" && state !== "none")).toEqual([]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("doctor says by what ranks meet, and who this one is", async () => {
  const folder = mkdtempSync(join(tmpdir(), "flashbun-doctor-"));
  try {
    const nccl = join(folder, "libnccl.so.2");
    await Bun.write(nccl, "no library");
    const { out } = await doctorWith({
      FLASHBUN_MPI: "/absent/libmpi.so",
      FLASHBUN_NCCL: nccl,
      RANK: "1",
      WORLD_SIZE: "2",
    });
    expect(out).toMatch(/none +MPI +not found/);
    expect(out).toMatch(/warn +NCCL +NCCL: .*libnccl\.so\.2: .* Fix: /);
    expect(out).toMatch(/ok +ranks +rank 1 of 2, by torchrun\n/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("doctor says what is missing and exits with 1", async () => {
  const child = Bun.spawn([process.execPath, entry, "doctor"], {
    env: { ...process.env, FLASHBUN_LIB: "/absent/libflashbun.so" },
    stdout: "pipe",
    stderr: "pipe",
  });
  expect(await new Response(child.stdout).text()).toMatch(
    /FAIL +device +no libflashbun\.so .*Fix:/,
  );
  expect(await child.exited).toBe(1);
});

const emulator = join(root, "zig-out", "lib", "libcuda-emulated.so");

test.skipIf(!existsSync(emulator))(
  "doctor looks at each GPU and where its kernels are from",
  async () => {
    const { code, out } = await doctorWith({ FLASHBUN_LIBCUDA: emulator });
    expect(code).toBe(0);
    expect(out).toMatch(/ok +driver +CUDA 13\.0, 1 GPU, emulated/);
    expect(out).not.toMatch(/^warn/m);
    expect(out).toMatch(/ok +cuda:0 +flashbun emulated GPU .* GiB/);
    expect(out).toMatch(/ok +kernels +.*page\/page\.cu (cached|compiled) for emulated, /);
  },
);

test("doctor says what is wrong with a driver, a cache and the search for NVRTC", async () => {
  const folder = mkdtempSync(join(tmpdir(), "flashbun-doctor-"));
  try {
    chmodSync(folder, 0o777);
    const wrong = {
      FLASHBUN_LIBCUDA: "/absent/libcuda.so.1",
      FLASHBUN_NVRTC: "/absent",
      FLASHBUN_CUBLASLT: "/absent",
    };
    const { code, out } = await doctorWith({ ...wrong, FLASHBUN_CACHE: folder });
    expect(code).toBe(1);
    expect(out).toMatch(/FAIL +driver +.*\/absent\/libcuda\.so\.1 was not found/);
    expect(out).toMatch(/none +NVRTC +not found/);
    expect(out).toMatch(/none +cuBLASLt +not found \(1 places?\): matmul's backend/);
    expect(out).toMatch(/FAIL +cache +.*: not used/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("what is absent or cannot be written is not ok, and no failure either", async () => {
  const absent = { FLASHBUN_LIBCUDA: undefined, LD_LIBRARY_PATH: undefined };
  const { code, out } = await doctorWith({ ...absent, FLASHBUN_CACHE: "/proc/nothing" });
  expect(out).toMatch(/warn +cache +\/proc\/nothing cannot be written \(\w+\): 0 images, 0\.0 MB/);
  if (existsSync("/dev/nvidiactl")) return;
  expect(out).toMatch(/none +driver +CUDA driver: libcuda.so.1 was not found/);
  expect(code).toBe(0);
});

async function doctorWith(env: Record<string, string | undefined>) {
  const { code, stdout } = await runBun([entry, "doctor"], { env });
  return { code, out: stdout };
}
