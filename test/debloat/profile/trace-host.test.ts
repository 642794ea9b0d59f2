import { beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Bytes } from "../../../src/debloat/bytes.ts";
import { readElf, readSymbols, sectionNamed } from "../../../src/debloat/elf/elf.ts";
import { readFunctions } from "../../../src/debloat/elf/functions.ts";
import { countOf } from "../../../src/debloat/elf/ranges.ts";
import { mapFile } from "../../../src/debloat/files.ts";
import { readLibraryId } from "../../../src/debloat/library.ts";
import { companionPath } from "../../../src/debloat/process/companions.ts";
import type { ProfiledLibrary } from "../../../src/debloat/profile/profile.ts";
import { readTrace } from "../../../src/debloat/profile/trace-events.ts";
import { root } from "../../support/zig.ts";
import { makeLibrary, temporaryFolder, zig } from "../support/make-library.ts";
import { compile, compileLibrary, programs } from "../support/native.ts";
import { traceWith, type TracedRun } from "../support/run-trace.ts";

const folder = temporaryFolder("trace-host");
const library = join(folder, "libspare.so");
const split = join(folder, "libsplit.so");
const host = join(folder, "host");
const command = [host, library, split];

/** Addresses of a library's functions by name. */
function addresses(path: string): Map<string, number> {
  const elf = readElf(new Bytes(mapFile(path).data, path));
  const symbols = readSymbols(elf, sectionNamed(elf, ".dynsym")!);
  return new Map(symbols.map(({ name, value }) => [name, value]));
}

function used({ traced }: TracedRun, path: string): ProfiledLibrary {
  return traced.profile.libraries[readLibraryId(path)!];
}

/** Names of the functions that a profile holds. */
function entered(run: TracedRun, path: string): string[] {
  const starts = new Set(used(run, path).functions.map(([vaddr]) => vaddr));
  return [...addresses(path)].filter(([, at]) => starts.has(at)).map(([name]) => name);
}

function holds({ pages }: ProfiledLibrary, address: number): boolean {
  const page = Math.floor(address / 4096);
  return pages.some(([first, count]) => page >= first && page < first + count);
}

const staticProgram = join(folder, "static");

async function makeStatic(): Promise<void> {
  const options = ["-target", "x86_64-linux-none", "-nostdlib", "-static", "-o", staticProgram];
  await zig("cc", ...options, join(programs, "static.s"));
}

const called = [0, 1, ...Array.from({ length: 18 }, (_, n) => 10 + n), 29, 1500];

beforeAll(async () => {
  await makeLibrary(library, { loaded: [], spareFunctions: 4000 });
  await compileLibrary(split, "split.s", "libsplit.so");
  await compile(host, "host.c");
}, 120_000);

describe("functions", () => {
  let run: TracedRun;
  beforeAll(async () => {
    run = await traceWith(command, { host: "functions" });
  });

  test("the command does what it does", () => {
    expect(run.problems).toEqual([]);
    expect(run.traced.err).toBe("");
    expect(run.traced.out).toBe("done\n");
    expect(run.traced.ended.exitCode).toBe(0);
  });

  test("exactly those that some thread, signal handler, fork or other program entered", () => {
    const names = entered(run, library).filter((name) => name.startsWith("spare_"));
    const numbers = names.map((name) => Number(name.slice(6))).sort((a, b) => a - b);
    expect(numbers).toEqual(called);
  });

  test("with parts that are jumped into, constructors and destructors", () => {
    const names = entered(run, split).sort();
    expect(names).toEqual(["built", "destroyed", "split", "split.cold"]);
  });

  test("all that unwind tables know are watched, with their sizes", () => {
    const written = join(folder, "written");
    mkdirSync(written);
    const LD_PRELOAD = companionPath("trace");
    const env = { LD_PRELOAD, FLASHBUN_TRACE: written, FLASHBUN_TRACE_HOST: "functions" };
    expect(Bun.spawnSync(command, { env }).exitCode).toBe(0);
    const { libraries } = readTrace(written);
    for (const path of [library, split]) {
      const functions = readFunctions(readElf(new Bytes(mapFile(path).data, path)));
      expect(functions.length).toBeGreaterThan(4);
      expect(libraries.get(path)!.watched).toEqual(functions);
    }
  });

  test("again gives the same", async () => {
    const again = await traceWith(command, { host: "functions" });
    for (const path of [library, split])
      expect(used(again, path).functions).toEqual(used(run, path).functions);
  });
});

describe("pages", () => {
  let run: TracedRun;
  beforeAll(async () => {
    run = await traceWith(command, { host: "pages" });
  });

  test("the command does what it does, and that one was killed is said", () => {
    expect(run.traced.out).toBe("done\n");
    expect(run.traced.ended.exitCode).toBe(0);
    expect(run.problems).toEqual([expect.stringMatching(/^1 of \d processes were killed/)]);
  });

  test("those of every function that was called, and not the whole library", () => {
    const at = addresses(library);
    const library_ = used(run, library);
    // What a killed process touched last is lost.
    for (const number of called.filter((number) => number !== 21))
      expect([number, holds(library_, at.get(`spare_${number}`)!)]).toEqual([number, true]);
    expect(library_.functions).toEqual([]);
    // The kernel maps up to 64 KiB around a page.
    for (const number of [1000, 2000, 3999])
      expect(holds(library_, at.get(`spare_${number}`)!)).toBe(false);
    expect(countOf(library_.pages)).toBeLessThan(64);
  });
});

describe("a program that a signal ends", () => {
  const source = `
    #include <dlfcn.h>
    #include <signal.h>
    #include <stdlib.h>
    int main(int count, char **words) {
      int (*function)(void) = dlsym(dlopen(words[1], RTLD_NOW), "spare_1000");
      function();
      int number = atoi(words[2]);
      struct sigaction old;
      sigaction(number, 0, &old);
      if (old.sa_handler != SIG_DFL) return 1;
      if (signal(number, SIG_IGN) != SIG_DFL || signal(number, SIG_DFL) != SIG_IGN) return 2;
      if (number == SIGABRT) abort();
      if (number == SIGSEGV) *(volatile int *)words[3] = 1;
      raise(number);
      return 3;
    }`;
  beforeAll(async () => {
    const path = join(folder, "ends");
    await Bun.write(`${path}.c`, source);
    await zig("cc", "-target", "x86_64-linux-gnu", "-o", path, `${path}.c`);
  }, 60_000);

  // HUP, INT, ABRT, SEGV, PIPE, TERM.
  test.each([1, 2, 6, 11, 13, 15])("%i keeps its pages, and sees the default", async (number) => {
    const run = await traceWith([join(folder, "ends"), library, `${number}`], { host: "pages" });
    expect(run.problems).toEqual([]);
    expect(run.traced.ended.exitCode).toBe(128 + number);
    expect(holds(used(run, library), addresses(library).get("spare_1000")!)).toBe(true);
  });
});

describe("a program that starts others as Python does", () => {
  // The child shares its parent's memory, and closes all of its files before it becomes another.
  const source = `
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <fcntl.h>
    #include <sys/stat.h>
    #include <sys/wait.h>
    #include <unistd.h>
    int main(int count, char **words) {
      struct stat before[40], after;
      for (int file = 3; file < 40; file++)
        if (fcntl(file, F_GETFD) < 0) dup2(open(words[1], O_RDONLY), file);
      for (int file = 3; file < 40; file++) fstat(file, &before[file]);
      pid_t child = vfork();
      if (child == 0) {
        for (int file = 3; file < 64; file++) close(file);
        execl(words[2], words[2], (char *)0);
        _exit(9);
      }
      int status;
      waitpid(child, &status, 0);
      if (status) return 1;
      int (*function)(void) = dlsym(dlopen(words[1], RTLD_NOW), "spare_1000");
      if (function() != 1000) return 2;
      for (int file = 3; file < 40; file++)
        if (fstat(file, &after) || after.st_ino != before[file].st_ino) return 3;
      return 0;
    }`;
  const path = join(folder, "starts");
  beforeAll(async () => {
    await Bun.write(`${path}.c`, source);
    await zig("cc", "-target", "x86_64-linux-gnu", "-o", path, `${path}.c`);
    await makeStatic();
  }, 60_000);

  test.each(["pages", "functions", "off"] as const)("loses nothing: %s", async (host) => {
    const run = await traceWith([path, library, staticProgram], { host });
    const { ended, processes, lost, out } = run.traced;
    expect([ended.exitCode, processes, lost, out]).toEqual([0, 2, 0, "static\n"]);
    expect(run.problems).toEqual([]);
  });
});

test("the tracer, the pager and the redirector compile for aarch64", async () => {
  const output = join(folder, "libtrace-aarch64.so");
  for (const name of ["trace", "pager", "redirect"]) {
    const file = join(root, "zig", "trace", `${name}.zig`);
    const options = [
      "-dynamic",
      "-fPIC",
      "-target",
      "aarch64-linux-gnu.2.28",
      "-O",
      "ReleaseSmall",
    ];
    await zig("build-lib", ...options, "-lc", `-femit-bin=${output}`, file);
    const elf = readElf(new Bytes(mapFile(output).data, output));
    expect([elf.machine, elf.type]).toEqual([183, 3]);
  }
}, 120_000);

describe("off", () => {
  test("the libraries alone, and no signal is touched", async () => {
    const run = await traceWith(command, { host: "off" });
    expect(run.traced.out).toBe("done\n");
    expect(used(run, library)).toMatchObject({ pages: [], functions: [] });
    expect(run.problems).toEqual([]);
  });
});

describe("commands that cannot be traced", () => {
  test("one that is not there", async () => {
    const run = traceWith([join(folder, "nothing")], {});
    expect(run).rejects.toThrow(/command must be a program that can be started/);
  });

  test("a signal's exit code is that of shells", async () => {
    const run = await traceWith(["/bin/sh", "-c", "kill -9 $$"], { host: "off" });
    expect(run.traced.ended.exitCode).toBe(137);
  });

  test("a static program runs, and that nothing was seen is said", async () => {
    await makeStatic();
    const run = await traceWith([staticProgram], { host: "pages" });
    expect(run.traced.out).toBe("static\n");
    expect(run.problems).toEqual([expect.stringContaining("the tracer did not run")]);
  });
});
