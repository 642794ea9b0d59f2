import { beforeAll, describe, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { readLibraryId } from "../../../src/debloat/library.ts";
import type { Traced } from "../../../src/debloat/profile/trace.ts";
import { makeCubin } from "../support/make-cubin.ts";
import { makeContainer, makeLibrary, temporaryFolder } from "../support/make-library.ts";
import { compile, compileLibrary } from "../support/native.ts";
import { traceWith } from "../support/run-trace.ts";

const folder = temporaryFolder("trace-device");
const library = join(folder, "libkernels.so");
const image = join(folder, "image.cubin");
const device = join(folder, "device");

const cubin = (seed: number, ...names: string[]) =>
  makeCubin({ arch: 90, seed, kernels: names.map((name) => ({ name, bytes: 256 })) });
const loaded = cubin(1, "looked_up", "never");
const other = cubin(2, "copied_from_library", "neither");

let traced: Traced & { out: string };
let problems: string[];

beforeAll(async () => {
  await makeLibrary(library, {
    loaded: [
      makeContainer([{ image: loaded, arch: 90, packing: "zstd" }]),
      makeContainer([{ image: other, arch: 90 }]),
    ],
  });
  writeFileSync(image, loaded);
  const cuda = await compileLibrary(join(folder, "libcuda.so.1"), "cuda.c", "libcuda.so.1");
  await compileLibrary(join(folder, "libcupti.so.13"), "cupti.c", "libcupti.so.13");
  await compile(device, "device.c", cuda, `-Wl,-rpath,${folder}`);
  ({ traced, problems } = await traceWith([device, library, image], { host: "off" }));
}, 120_000);

describe("device code of a traced command", () => {
  test("the command ends as it would", () => {
    expect(traced.out).toBe("done\n");
    expect(traced.ended.exitCode).toBe(7);
    expect(problems).toEqual([]);
  });

  test("names by the library that their image is in, of threads and other processes too", () => {
    const used = traced.profile.libraries[readLibraryId(library)!];
    expect(used.kernels).toEqual([
      "by_module",
      // From an image outside all libraries, but one of the library's has it.
      "copied_from_library",
      "forked",
      "killed",
      "listed_0",
      "listed_1",
      "looked_up",
      'odd "name"\\ of one',
      "replaced",
      "thread_0",
      "thread_1",
      "thread_2",
      "thread_3",
    ]);
    expect(used.globals).toEqual(["table"]);
  });

  test("images by their bytes", () => {
    const used = traced.profile.libraries[readLibraryId(library)!];
    expect(used.cubins).toContainEqual({ bytes: loaded.length, crc32: crc32(loaded) });
  });

  test("what is in no library is unresolved", () => {
    const seven = new Uint8Array(100).fill(7);
    expect(traced.profile.unresolved).toEqual({
      kernels: ["made_at_run_time"],
      cubins: [{ bytes: 100, crc32: crc32(seven) }],
    });
  });

  test("the run says what ran", () => {
    expect(traced.profile.runs).toMatchObject([
      { command: [device, library, image], host: "off", gpu: "sm_90", cuda: "13.2" },
    ]);
    expect(Date.parse(traced.profile.runs[0].date)).toBeGreaterThan(0);
    // The command, a fork, one that was killed, one that became another program.
    expect(traced.processes).toBe(4);
    expect(traced.tracerSeconds).toBeGreaterThan(0);
    expect(traced.tracerSeconds).toBeLessThan(traced.ended.seconds);
  });

  test("without CUPTI the run goes on and the lack is said", async () => {
    rmSync(join(folder, "libcupti.so.13"));
    const again = await traceWith([device, library, image], {
      host: "off",
      cupti: join(folder, "libcupti.so.13"),
    });
    expect(again.traced.ended.exitCode).toBe(7);
    expect(again.problems).toEqual([expect.stringContaining("libcupti was not found")]);
  });
});
