/** Damaged files: each is refused by a typed error or is worked on, within bounds. */
import { expect } from "bun:test";
import { readFunctions } from "../../../src/debloat/elf/functions.ts";
import { readLibrary } from "../../../src/debloat/library.ts";
import { Pool } from "../../../src/debloat/pool/pool.ts";
import type { ProfiledLibrary } from "../../../src/debloat/profile/profile.ts";
import { decide } from "../../../src/debloat/shrink/decide.ts";
import { DebloatError } from "../../../src/errors.ts";
import { type Random, seeded } from "../../support/random.ts";

/** Of this process, which other programs do not lengthen. */
const cpuMillisecondsMax = 1000;
/** Grown while files are fuzzed: other tests of the process have grown before. */
const grownBytesMax = 500e6;
const pool = new Pool(0);

/** Numbers at the edges of what fields hold; of 8 bytes each. */
const edges = [0n, 1n, 7n, 8n, 0x7fn, 0xffffn, 0x10000n, 0x7fffffffn, 0x80000000n, 0xffffffffn];
const wideEdges = [0x100000000n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 64n - 1n, 2n ** 64n - 64n];

/** A damaged copy: numbers, bits, runs and ends, where tables are more often than elsewhere. */
function damage(file: Uint8Array, random: Random, tables: readonly number[]): Uint8Array {
  const copy = Uint8Array.from(file);
  const view = new DataView(copy.buffer);
  const place = () =>
    random.chance(0.7)
      ? Math.min(copy.length - 8, random.pick(tables) + 4 * random.integer(0, 40))
      : random.integer(0, copy.length - 8);
  for (let times = random.integer(1, 4); times > 0; times--) {
    const at = Math.max(0, place());
    const kind = random.integer(0, 6);
    if (kind === 0) copy[at] = copy[at] ^ (1 << random.integer(0, 7));
    else if (kind === 1) view.setUint32(at, Number(random.pick(edges)), true);
    else if (kind === 2) view.setBigUint64(at, random.pick([...edges, ...wideEdges]), true);
    else if (kind === 3) view.setUint32(at, random.integer(0, copy.length + 64), true);
    else if (kind === 4) copy.fill(random.pick([0, 255]), at, at + random.integer(1, 300));
    else if (kind === 5) copy.copyWithin(at, place(), place() + random.integer(1, 200));
    else if (random.chance(0.2)) return copy.subarray(0, random.integer(0, copy.length));
  }
  return copy;
}

/** Tries all damaged files; every outcome but a typed error is said with its seed. */
export async function fuzz(
  cases: number,
  file: Uint8Array,
  tables: readonly number[],
  attempt: (damaged: Uint8Array, random: Random) => unknown,
): Promise<{ refused: number }> {
  const bytesBefore = process.memoryUsage.rss();
  const only = process.env["SEED"];
  let refused = 0;
  for (let seed = 1; seed <= cases; seed++) {
    if (only !== undefined && seed !== Number(only)) continue;
    const random = seeded(seed);
    const damaged = damage(file, random, tables);
    const started = process.cpuUsage();
    try {
      await attempt(damaged, random);
    } catch (error) {
      if (!(error instanceof DebloatError))
        throw new Error(`SEED=${seed}: ${(error as Error).stack}`, { cause: error });
      expect(error.message).toMatch(/^damaged: .*\. Fix: .*\.$/s);
      refused++;
    }
    const { user, system } = process.cpuUsage(started);
    const milliseconds = (user + system) / 1000;
    if (milliseconds > cpuMillisecondsMax) throw new Error(`SEED=${seed} took ${milliseconds} ms`);
  }
  expect(process.memoryUsage.rss() - bytesBefore).toBeLessThan(grownBytesMax);
  return { refused };
}

/** Where ELF tables, relocations and headers of images lie. */
export function tablesOf(file: Uint8Array): number[] {
  const { elf, fatbins } = readLibrary(file, "whole");
  const dynamic = elf.segments.filter(
    ({ type }) => type === 2 || type === 4 || type === 0x6474e550,
  );
  const heads = fatbins.flatMap(({ section, containers }) =>
    containers.flatMap(({ offset, entries }) => [
      section.offset + offset,
      ...entries.flatMap((entry) => {
        const at = section.offset + entry.offset;
        return [at, at + entry.headerBytes, at + entry.headerBytes + entry.paddedBytes - 400];
      }),
    ]),
  );
  const sections = elf.sections
    .filter(({ name }) => /^\.(rela|dyn|eh_frame|nvFatBin)/.test(name))
    .map(({ offset }) => offset);
  const headers = elf.sections.map((_, at) => elf.sectionsOffset + 64 * at);
  return [
    0,
    32,
    64,
    200,
    ...dynamic.map(({ offset }) => offset),
    ...sections,
    ...headers,
    ...heads,
  ];
}

const profiled: ProfiledLibrary = {
  path: "x",
  bytes: 0,
  kernels: ["a"],
  cubins: [],
  globals: [],
  functions: [],
  pages: [[60, 2]],
};

/** Shrinks a damaged library by random options; what comes out has the bytes that it says. */
export async function shrinkDamaged(damaged: Uint8Array, random: Random): Promise<void> {
  const read = readLibrary(damaged, "damaged");
  readFunctions(read.elf);
  const options = {
    targets: random.pick([[], [90], [80, 90]]),
    strip: random.chance(0.5),
    level: random.pick(["arch", "cubin", "kernel"] as const),
    host: "pages" as const,
    dropRel: random.chance(0.5),
    recompress: random.pick([undefined, 1]),
  };
  const { assembly } = await decide(read, options, profiled, pool);
  let bytes = 0;
  for (const { source, bytes: length } of assembly.parts) {
    const run = typeof source === "number" ? damaged.subarray(source, source + length) : source;
    bytes += run.length;
  }
  expect(bytes).toBe(assembly.bytes);
}
