/** Containers made by hand, and shared libraries that hold them, linked by the pinned Zig. */
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../../support/zig.ts";

/** An entry of a container. */
export interface MadeEntry {
  image: Uint8Array;
  arch: number;
  kind?: number;
  variant?: "" | "a" | "f";
  packing?: "none" | "lz4" | "zstd";
  headerBytes?: number;
  moreFlags?: number;
}

/** A container of entries. */
export function makeContainer(entries: readonly MadeEntry[]): Uint8Array {
  const body = Buffer.concat(entries.map(makeEntry));
  const header = new DataView(new ArrayBuffer(16));
  header.setUint32(0, 0xba55ed50, true);
  header.setUint16(4, 1, true);
  header.setUint16(6, 16, true);
  header.setUint32(8, body.length, true);
  return Buffer.concat([new Uint8Array(header.buffer), body]);
}

function makeEntry(made: MadeEntry): Uint8Array {
  const { image, arch, kind = 2, variant = "", packing = "none", headerBytes = 64 } = made;
  const stored =
    packing === "zstd"
      ? Bun.zstdCompressSync(image as Uint8Array<ArrayBuffer>, { level: 3 })
      : packing === "lz4"
        ? packLz4(image)
        : image;
  const padded = 8 * Math.ceil(stored.length / 8);
  const entry = new Uint8Array(headerBytes + padded);
  const view = new DataView(entry.buffer);
  const packed = { none: 0, lz4: 0x2000, zstd: 0x8000 }[packing];
  const suffix = { "": 0, a: 0x100000, f: 0x200000 }[variant];
  view.setUint16(0, kind, true);
  view.setUint16(2, 0x101, true);
  view.setUint32(4, headerBytes, true);
  view.setUint32(8, padded, true);
  view.setUint32(16, packing === "none" ? 0 : stored.length, true);
  view.setUint32(28, arch, true);
  view.setUint32(40, 0x11 | packed | suffix | (made.moreFlags ?? 0), true);
  view.setUint32(56, packing === "none" ? 0 : image.length, true);
  entry.set(stored, headerBytes);
  return entry;
}

/** An LZ4 block of literals and of runs of one byte: enough to see that matches are read. */
export function packLz4(raw: Uint8Array): Uint8Array {
  const block: number[] = [];
  const length = (value: number) => {
    for (let rest = value - 15; rest >= 0; rest -= 255) block.push(Math.min(255, rest));
  };
  let literals = 0;
  const emit = (at: number, matched: number) => {
    const count = at - literals;
    block.push((Math.min(15, count) << 4) | Math.min(15, Math.max(0, matched - 4)));
    length(count);
    for (let i = literals; i < at; i++) block.push(raw[i]);
    if (matched === 0) return;
    block.push(1, 0);
    length(matched - 4);
  };
  for (let at = 1; at < raw.length;) {
    let end = at;
    while (end < raw.length - 5 && raw[end] === raw[at - 1]) end++;
    if (end - at < 8) {
      at++;
      continue;
    }
    emit(at, end - at);
    at = end;
    literals = end;
  }
  emit(raw.length, 0);
  return Uint8Array.from(block);
}

/** What a library is made of besides its containers. */
export interface MadeLibrary {
  loaded: readonly Uint8Array[];
  relocatable?: readonly Uint8Array[];
  /** Bytes of host code that no test calls; a function each 512 bytes. */
  spareFunctions?: number;
  /** Container whose address code computes, so that it must stay. */
  pinned?: number;
  /** Containers of `loaded` that no wrapper points at. */
  unreferenced?: number[];
  /** Lines of assembly after everything else in .text. */
  more?: string[];
  /** More arguments of the linker. */
  flags?: string[];
}

/** A folder of this test run. */
export function temporaryFolder(name: string): string {
  return mkdtempSync(join(tmpdir(), `flashbun-${name}-`));
}

/**
 * Links a library: `answer` returns 42 by way of a table, `container(n)` the first word of
 * container n, `relocatable(n)` likewise, and `spare_N` is a function that no test calls.
 */
export async function makeLibrary(path: string, made: MadeLibrary): Promise<void> {
  const source = writeLibrarySource(path, made);
  const command = ["cc", "-target", "x86_64-linux-gnu", "-shared", "-o", path, source];
  await zig(...command, "-Wl,--build-id=sha1", "-Wl,-z,now", ...(made.flags ?? []));
}

/** Writes the assembly of such a library beside it; returns its path. */
export function writeLibrarySource(path: string, made: MadeLibrary): string {
  const { loaded, relocatable = [], spareFunctions = 0, pinned } = made;
  const { unreferenced = [], more = [] } = made;
  const folder = join(path, "..");
  mkdirSync(folder, { recursive: true });
  const blob = (name: string, containers: readonly Uint8Array[]) => {
    writeFileSync(join(folder, name), Buffer.concat(containers));
    return join(folder, name);
  };
  const offsets = (containers: readonly Uint8Array[]) => {
    let sum = 0;
    return containers.map(({ length }) => (sum += length) - length);
  };
  const wrappers = (symbol: string, containers: readonly Uint8Array[]) =>
    offsets(containers).map((at) => `.long 0x466243b1, 1\n.quad ${symbol} + ${at}, 0`);
  const lines = [
    `.section .nv_fatbin, "a"`,
    ".p2align 3",
    `fatbins: .incbin "${blob("loaded.bin", loaded)}"`,
    `.section __nv_relfatbin, "a"`,
    ".p2align 3",
    `relfatbins: .incbin "${blob("relocatable.bin", relocatable)}"`,
    `.section .nvFatBinSegment, "aw"`,
    ".p2align 3",
    "wrappers:",
    ...wrappers("fatbins", loaded).filter((_, n) => !unreferenced.includes(n)),
    "relwrappers:",
    ...wrappers("relfatbins", relocatable),
    ".data",
    "pointer: .quad number",
    ".text",
    ...first("container", "wrappers"),
    ...first("relocatable", "relwrappers"),
    ...procedure("number", ["mov $42, %eax"]),
    ".globl answer",
    ...procedure("answer", ["mov pointer(%rip), %rax", "jmp *%rax"]),
    ...(pinned === undefined
      ? []
      : procedure("pin", [`lea fatbins + ${offsets(loaded)[pinned]}(%rip), %rax`])),
    ...Array.from({ length: spareFunctions }, (_, n) => [
      `.globl spare_${n}`,
      ...procedure(`spare_${n}`, [`mov $${n}, %eax`, ".fill 500, 1, 0x90"]),
    ]).flat(),
    ...more,
    `.section .note.GNU-stack, "", @progbits`,
  ];
  const source = `${path}.s`;
  writeFileSync(source, `${lines.join("\n")}\n`);
  return source;
}

/** A function of the word that the n-th wrapper's container begins with. */
function first(name: string, wrappers: string): string[] {
  const body = [
    "imul $24, %rdi, %rdi",
    `lea ${wrappers}(%rip), %rax`,
    "mov 8(%rax,%rdi), %rax",
    "mov (%rax), %eax",
  ];
  return [`.globl ${name}`, ...procedure(name, body)];
}

/** A function with unwind information. */
export function procedure(name: string, body: readonly string[]): string[] {
  const last = body.at(-1)!.startsWith("jmp") ? [] : ["ret"];
  return [
    `.type ${name}, @function`,
    `${name}:`,
    ".cfi_startproc",
    ...body,
    ...last,
    ".cfi_endproc",
    `.size ${name}, . - ${name}`,
  ];
}

/** Runs the pinned Zig; throws what it says when it fails. */
export async function zig(...args: string[]): Promise<void> {
  const program = process.env["FLASHBUN_ZIG"] ?? join(root, ".toolchain/zig/ziglang/zig");
  const child = Bun.spawn([program, ...args], { stdout: "pipe", stderr: "pipe" });
  const said = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(said);
}
