/** Every way in which nvcc packs and builds fat binaries, against what cuobjdump reads of them. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { contentsOf } from "../../../src/debloat/fatbin/contents.ts";
import { editEntry } from "../../../src/debloat/fatbin/edit.ts";
import {
  archName,
  containerHeader,
  type Entry,
  entryHeader,
  imageOf,
  readFatbins,
} from "../../../src/debloat/fatbin/fatbin.ts";
import { seeded } from "../../support/random.ts";
import { root } from "../../support/zig.ts";
import { temporaryFolder } from "../support/make-library.ts";
import { dump, nvccHere, run } from "../support/nvcc.ts";

const nvcc = nvccHere();
const minutes = 60_000;
const source = join(root, "test/debloat/fatbin/matrix.cu");
const modes = ["none", "speed", "balance", "size"];
const options = { plain: [], rdc: ["-rdc=true"], debug: ["-G"], lines: ["-lineinfo"] };
const cubins = ["80", "90", "90a", "100f", "120"].map((arch) => [arch, `sm_${arch}`]);
const images = [...cubins, ["90", "compute_90"], ["90", "lto_90"]];

let folder: string;
beforeAll(() => void (folder = temporaryFolder("matrix")));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A fat binary of all images; link-time code and -G exclude each other. */
async function build(mode: string, option: keyof typeof options): Promise<string> {
  const path = join(folder, `${mode}-${option}.fatbin`);
  const wanted = option === "debug" ? images.filter(([, code]) => code !== "lto_90") : images;
  const targets = wanted.flatMap(([arch, code]) => [
    "-gencode",
    `arch=compute_${arch},code=${code}`,
  ]);
  const flags = ["-fatbin", "--threads", "2", `--compress-mode=${mode}`, ...options[option]];
  await run(nvcc!, [...flags, ...targets, "-o", path, source]);
  return path;
}

function bytesOf(section: Uint8Array, { offset, headerBytes, paddedBytes }: Entry): Uint8Array {
  return section.subarray(offset, offset + headerBytes + paddedBytes);
}

describe.skipIf(nvcc === undefined)("fat binaries of nvcc", () => {
  const cases = modes.flatMap((mode) =>
    Object.keys(options).map((option) => [mode, option as keyof typeof options] as const),
  );
  test.each(cases)(
    "%s, %s: written back alike, with the kernels of the symbol tables",
    async (mode, option) => {
      const path = await build(mode, option);
      const section = await Bun.file(path).bytes();
      const { containers, opaque } = readFatbins(section, path);
      expect(opaque).toEqual([]);
      expect(containers).toHaveLength(1);
      const entries = containers[0].entries;
      const written = Buffer.concat([
        containerHeader(containers[0].bytes - containers[0].headerBytes),
        ...entries.map((entry) => bytesOf(section, entry)),
      ]);
      expect(written.equals(section.subarray(0, containers[0].bytes))).toBe(true);
      expect(section.subarray(containers[0].bytes).every((byte) => byte === 0)).toBe(true);
      const wanted = option === "debug" ? images.slice(0, -1) : images;
      expect(entries.map(archName).sort()).toEqual(wanted.map(([, code]) => code).sort());
      for (const entry of entries) {
        expect(entry.unknownFlags).toBe(0);
        if (mode === "none") expect(entry.compression).toBe("none");
        if (mode === "size") expect(entry.compression).toBe("zstd");
        const isPacked = entry.compression !== "none";
        const same = entryHeader(section, entry, entry.packedBytes, entry.rawBytes, isPacked);
        // LZ4 is written as zstd; link-time code is packed in a way of its own.
        if (entry.compression !== "lz4" && entry.kind !== "lto")
          expect(same).toEqual(section.slice(entry.offset, entry.offset + entry.headerBytes));
      }
      const dumped = (await dump(path)).filter(({ kind }) => kind === "elf");
      const read = entries.filter(({ kind }) => kind === "cubin");
      const kernels = read.map((entry) => contentsOf(section, entry, path).kernels);
      expect(kernels.map((list) => list.map(({ name }) => name).sort())).toEqual(
        dumped.map((image) => image.kernels),
      );
      expect(dumped.every((image) => image.kernels.length === 7)).toBe(true);
    },
    2 * minutes,
  );

  test(
    "all four ways of packing hold the same images",
    async () => {
      const unpacked = await Promise.all(
        modes.map(async (mode) => {
          const path = join(folder, `${mode}-lines.fatbin`);
          const section = await Bun.file(path).bytes();
          const { containers } = readFatbins(section, path);
          return containers[0].entries
            .filter(({ kind }) => kind === "cubin")
            .map((entry) => Buffer.from(imageOf(section, entry, path)!));
        }),
      );
      for (const images of unpacked.slice(1))
        images.forEach((image, at) => {
          // What is stored as it is may end in padding.
          const [short, long] = [image, unpacked[0][at]].sort((a, b) => a.length - b.length);
          expect(long.subarray(0, short.length).equals(short)).toBe(true);
          expect(long.length - short.length).toBeLessThan(8);
        });
    },
    minutes,
  );

  test(
    "random sets of kernels are taken out, and cuobjdump finds the others",
    async () => {
      for (const option of ["plain", "lines", "debug"] as const) {
        const path = join(folder, `balance-${option}.fatbin`);
        const section = await Bun.file(path).bytes();
        const { containers } = readFatbins(section, path);
        const random = seeded(option.length);
        const kept: string[][] = [];
        const parts = containers[0].entries.flatMap((entry) => {
          if (entry.kind !== "cubin") return [];
          const names = contentsOf(section, entry, path).kernels.map(({ name }) => name);
          const kernels = names.filter(() => random.chance(0.4));
          const edited = editEntry(section, entry, { kernels }, path);
          const left = names.filter((name) => !edited.dropped.includes(name)).sort();
          expect(left).toEqual(expect.arrayContaining(kernels));
          kept.push(left);
          return [edited.content ?? bytesOf(section, entry)];
        });
        const body = Buffer.concat(parts);
        const file = join(folder, `trimmed-${option}.fatbin`);
        await Bun.write(file, Buffer.concat([containerHeader(body.length), body]));
        const dumped = await dump(file);
        expect(dumped.map(({ kernels }) => kernels)).toEqual(kept);
        expect(kept.flat().length).toBeLessThan(7 * cubins.length);
      }
    },
    minutes,
  );
});
