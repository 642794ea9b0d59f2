/** Blocks of LZ4 against a decoder that copies byte by byte, and names in PTX against a pattern. */
import { expect, test } from "bun:test";
import { unpack } from "../../../src/debloat/fatbin/compression.ts";
import { contentsOf } from "../../../src/debloat/fatbin/contents.ts";
import { ptxKernels } from "../../../src/debloat/fatbin/cubin.ts";
import { readFatbins } from "../../../src/debloat/fatbin/fatbin.ts";
import { forSeeds, type Random } from "../../support/random.ts";
import { makeContainer } from "../support/make-library.ts";

/** The rest of a length that does not fit its half of a token. */
function more(length: number): number[] {
  if (length < 15) return [];
  const rest = length - 15;
  return [...Array.from({ length: Math.floor(rest / 255) }, () => 255), rest % 255];
}

/** A block and what it holds: tokens at random, of lengths around those where copying changes. */
function randomBlock(random: Random): { packed: Uint8Array; raw: Uint8Array } {
  const lengths = [0, 1, 2, 3, 4, 5, 7, 8, 14, 15, 16, 31, 127, 128, 129, 255, 270, 700];
  const packed: number[] = [];
  const raw: number[] = [];
  const literals = (count: number, matched: number) => {
    packed.push((Math.min(15, count) << 4) | Math.min(15, matched), ...more(count));
    const bytes = Array.from({ length: count }, () => random.integer(0, 255));
    packed.push(...bytes);
    raw.push(...bytes);
  };
  for (let left = random.integer(1, 12); left > 0; left--) {
    const matched = random.pick(lengths);
    literals(Math.max(raw.length === 0 ? 1 : 0, random.pick(lengths)), matched);
    const near = random.integer(1, 9);
    const back = Math.min(raw.length, random.chance(0.5) ? near : random.integer(1, 2000));
    packed.push(back & 255, back >> 8, ...more(matched));
    for (let n = 0; n < matched + 4; n++) raw.push(raw[raw.length - back]);
  }
  literals(random.pick(lengths), 0);
  return { packed: Uint8Array.from(packed), raw: Uint8Array.from(raw) };
}

test("blocks of any lengths and distances unpack to what they hold", () => {
  forSeeds(400, (random) => {
    const { packed, raw } = randomBlock(random);
    expect(unpack(packed, "lz4", raw.length)).toEqual(raw);
    // Among other bytes, at any alignment: nothing around it is read.
    const shift = random.integer(1, 7);
    const around = new Uint8Array(packed.length + 2 * shift).fill(255);
    around.set(packed, shift);
    const inside = around.subarray(shift, shift + packed.length);
    expect(unpack(inside, "lz4", raw.length)).toEqual(raw);
  });
});

test("kernels of PTX are named as a pattern names them", () => {
  const texts = [
    "",
    ".entry",
    ".entry ",
    ".visible .entry a(\n.entry\t\n b$_9()",
    ".entryless .entry .entry x .entry y",
    `.entry ${"n".repeat(70_000)}(`,
    ".entry \u00e9a .entry z\u00e9",
  ];
  for (const text of texts) {
    const named = [...text.matchAll(/\.entry\s+([\w$]+)/g)].map(([, name]) => name);
    expect(ptxKernels(Buffer.from(text, "latin1"))).toEqual(named);
  }
});

test("an image that is not packed keeps its bytes: they are the library's", () => {
  const ptx = Buffer.from(".version 8.0\n.target sm_90\n.entry one()\0", "latin1");
  for (const packing of ["none", "lz4", "zstd"] as const) {
    const section = makeContainer([{ image: ptx, arch: 90, kind: 1, packing }]);
    const { entries } = readFatbins(section, "made").containers[0];
    const [first, second] = [1, 2].map(() => contentsOf(section, entries[0], "made"));
    expect(first).toEqual(second);
    expect(first.kernels).toEqual([{ name: "one", bytes: 0 }]);
    expect(section.length).toBeGreaterThan(ptx.length);
  }
});
