import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
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
    expect(findings.every(({ ok }: { ok: boolean }) => ok)).toBe(true);
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
