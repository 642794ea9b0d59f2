/** Cut files against a loader of our own: what is mapped, from where, and what sections hold. */
import { expect, test } from "bun:test";
import { Bytes } from "../../../src/debloat/bytes.ts";
import { cutFile } from "../../../src/debloat/elf/elf-cut.ts";
import { type Elf, readElf, sectionBytes } from "../../../src/debloat/elf/elf.ts";
import { joinRanges, type Ranges, subtractRanges } from "../../../src/debloat/elf/ranges.ts";
import { forSeeds, type Random } from "../../support/random.ts";

const pageBytes = 4096;

interface Made {
  bytes: Uint8Array;
  elf: Elf;
}

/** A part of a made file: a loaded segment with one section, or a section that is not loaded. */
interface Part {
  isLoaded: boolean;
  offset: number;
  bytes: number;
  address: number;
  zeroBytes: number;
}

/**
 * Segments and other sections in any order, as tools that edit libraries leave them; segments need
 * no more than to agree with the file's pages.
 */
function makeElf(random: Random): Made {
  const parts: Part[] = [];
  const count = random.integer(2, 7);
  let offset = 64 + 56 * count;
  let address = offset;
  for (let n = 0; n < count; n++) {
    const isLoaded = n === 0 || random.chance(0.6);
    const bytes = random.integer(1, 12) * 4096 + random.integer(-900, 900);
    if (isLoaded && n > 0) {
      address += pageBytes * random.integer(1, 3);
      address += ((offset % pageBytes) - (address % pageBytes) + pageBytes) % pageBytes;
    }
    const zeroBytes = isLoaded && random.chance(0.4) ? random.integer(1, 9000) : 0;
    parts.push({ isLoaded, offset, bytes, address: isLoaded ? address : 0, zeroBytes });
    if (isLoaded) address += bytes + zeroBytes;
    offset += bytes + (random.chance(0.5) ? 0 : random.integer(0, 300));
  }
  const names = Buffer.from("\0part\0");
  const namesAt = offset;
  const headersAt = 8 * Math.ceil((namesAt + names.length) / 8);
  const file = new Uint8Array(headersAt + 64 * (count + 2));
  for (let at = 0; at < namesAt; at++) file[at] = random.integer(1, 255);
  file.set(names, namesAt);
  const view = new DataView(file.buffer);
  const loads = parts.filter(({ isLoaded }) => isLoaded);
  file.fill(0, 0, 64 + 56 * loads.length);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  const words: [at: number, value: number][] = [
    [16, 3],
    [18, 62],
    [54, 56],
    [58, 64],
  ];
  for (const [at, value] of words) view.setUint16(at, value, true);
  view.setUint32(32, 64, true);
  view.setUint32(40, headersAt, true);
  view.setUint16(56, loads.length, true);
  view.setUint16(60, count + 2, true);
  view.setUint16(62, count + 1, true);
  loads.forEach((part, n) => {
    const at = 64 + 56 * n;
    // The first maps the headers, too.
    const before = n === 0 ? part.offset : 0;
    view.setUint32(at, 1, true);
    view.setUint32(at + 4, 4, true);
    view.setUint32(at + 8, part.offset - before, true);
    view.setUint32(at + 16, part.address - before, true);
    view.setUint32(at + 32, part.bytes + before, true);
    view.setUint32(at + 40, part.bytes + before + part.zeroBytes, true);
    const shift = part.address - part.offset;
    const aligns = [4096, 0x10000, 0x200000].filter((align) => shift % align === 0);
    view.setUint32(at + 48, random.pick(aligns), true);
  });
  const section = (index: number, values: [number, number][]) => {
    for (const [at, value] of values) view.setUint32(headersAt + 64 * index + at, value, true);
  };
  parts.forEach(({ isLoaded, offset, bytes, address }, n) =>
    section(n + 1, [
      [0, 1],
      [4, 1],
      [8, isLoaded ? 2 : 0],
      [16, address],
      [24, offset],
      [32, bytes],
    ]),
  );
  section(count + 1, [
    [4, 3],
    [24, namesAt],
    [32, names.length],
  ]);
  return { bytes: file, elf: readElf(new Bytes(file, "made")) };
}

/** The byte at every address that a loader maps, page by page as mmap does. */
function load(elf: Elf): Map<number, number> {
  const memory = new Map<number, number>();
  let end = 0;
  for (const { type, offset, address, fileBytes, memoryBytes, align } of elf.segments) {
    if (type !== 1) continue;
    expect(address).toBeGreaterThanOrEqual(end);
    expect(Math.abs(address - offset) % align).toBe(0);
    end = address + memoryBytes;
    for (let at = 0; at < memoryBytes; at++)
      memory.set(address + at, at < fileBytes ? elf.bytes.u8(offset + at) : 0);
  }
  return memory;
}

/** Runs of whole pages of loaded sections, a few. */
function randomHoles({ elf }: Made, random: Random): { holes: Ranges; holed: Set<number> } {
  const holes: [number, number][] = [];
  const holed = new Set<number>();
  for (const { index, flags, offset, bytes } of elf.sections) {
    if ((flags & 2) === 0) continue;
    const first = Math.ceil(offset / pageBytes);
    const last = Math.floor((offset + bytes) / pageBytes);
    for (let page = first; page < last; page++) {
      if (!random.chance(0.4)) continue;
      holes.push([page * pageBytes, pageBytes]);
      holed.add(index);
    }
  }
  return { holes: joinRanges(holes), holed };
}

/** The new file, as a writer would put it together. */
function apply({ bytes, elf }: Made, cut: Parameters<typeof cutFile>[1]): Elf {
  const { removed, replacements, appended } = cutFile(elf, cut);
  const file = Uint8Array.from(bytes);
  for (const { at, source } of replacements) file.set(source as Uint8Array, at);
  const kept = subtractRanges([[0, file.length]], removed);
  const parts = kept.map(([start, length]) => file.subarray(start, start + length));
  return readElf(new Bytes(Buffer.concat([...parts, appended]), "cut"));
}

test("every byte that is left is mapped where it was, and sections hold what they held", () => {
  forSeeds(80, (random) => {
    const made = makeElf(random);
    const before = load(made.elf);
    const { holes, holed } = randomHoles(made, random);
    const stripped = made.elf.sections.filter(
      ({ name, flags }) => name === "part" && (flags & 2) === 0 && random.chance(0.7),
    );
    const after = apply(made, {
      holes,
      free: [],
      zeros: [],
      holed,
      stripped,
      sizes: new Map(),
      pageBytes,
    });
    const memory = load(after);
    for (const { type, offset, address, fileBytes } of made.elf.segments) {
      if (type !== 1) continue;
      for (const [start, bytes] of subtractRanges(
        holes,
        subtractRanges(holes, [[offset, fileBytes]]),
      ))
        for (let at = start; at < start + bytes; at++) before.delete(address + at - offset);
    }
    // Where the tables were, the new ones may say something else.
    const tables = 64 + 56 * made.elf.segments.length;
    const end = Math.max(...before.keys());
    for (const [address, byte] of before)
      if (address >= tables && memory.get(address) !== byte)
        throw new Error(`byte at ${address} is ${memory.get(address)}, not ${byte}`);
    for (const address of memory.keys())
      if (address <= end && !before.has(address)) throw new Error(`${address} is mapped`);
    made.elf.sections.forEach((section, index) => {
      const kept = after.sections[index];
      if (stripped.includes(section)) return expect(kept.type).toBe(0);
      const held = sectionBytes(made.elf, section);
      const hole = holes.find(
        ([at]) => at >= section.offset && at < section.offset + section.bytes,
      );
      const left = hole === undefined ? section.bytes : hole[0] - section.offset;
      expect(Buffer.from(sectionBytes(after, kept)).equals(held.subarray(0, left))).toBe(true);
    });
    const cutBytes = holes.reduce((sum, [, bytes]) => sum + bytes, 0);
    const strippedBytes = stripped.reduce((sum, { bytes }) => sum + bytes, 0);
    const most = made.bytes.length - cutBytes - strippedBytes + pageBytes * (stripped.length + 2);
    expect(after.bytes.length).toBeLessThan(most);
  });
});

test("a hole where something else lies is refused", () => {
  forSeeds(40, (random) => {
    const made = makeElf(random);
    const { holes } = randomHoles(made, random);
    if (holes.length === 0) return;
    const cut = {
      holes,
      free: [],
      zeros: [],
      holed: new Set<number>(),
      stripped: [],
      sizes: new Map(),
      pageBytes,
    };
    expect(() => cutFile(made.elf, cut)).toThrow("section part overlaps another that is to shrink");
    const outside: Ranges = [[pageBytes * Math.ceil(made.bytes.length / pageBytes), pageBytes]];
    expect(() => cutFile(made.elf, { ...cut, holes: outside })).toThrow("lies in no segment");
    const [[start]] = holes as [[number, number]];
    const crooked: Ranges = [[start + 8, pageBytes - 8]];
    expect(() => cutFile(made.elf, { ...cut, holes: crooked })).toThrow("of whole pages");
  });
});
