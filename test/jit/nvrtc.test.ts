import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CompileError } from "../../src/errors.ts";
import { libraryPath } from "../../src/ffi/library.ts";
import { compile, compileSync } from "../../src/jit/compile.ts";
import { findNvrtc } from "../../src/jit/nvrtc.ts";
import { oneOperator, operatorKernels } from "../../src/jit/operators.ts";
import { expand } from "../../src/jit/specialization.ts";
import { runBun } from "../support/run.ts";

const { found } = findNvrtc();
const jit = join(import.meta.dir, "..", "..", "src", "jit");
const text = `struct P { float *x; };
extern "C" __global__ void twice(const __grid_constant__ P p) { p.x[threadIdx.x] *= 2.0f; }
`;
const kernel = { source: "page/page.cu", constants: { FB_X: 1 } };
let base: string;

beforeAll(() => {
  base = mkdtempSync(join(tmpdir(), "flashbun-nvrtc-"));
});

afterAll(() => rmSync(base, { recursive: true, force: true }));

/** Runs a program of its own process; FLASHBUN_NVRTC and the cache as given. */
async function runProgram(body: string, env: Record<string, string> = {}) {
  return runBun([programOf(body)], { cwd: base, env: { FLASHBUN_CACHE: cacheFolder(), ...env } });
}

/** A file that holds a program with the modules of src/jit in reach. */
function programOf(body: string): string {
  const head = ["compile", "image", "nvrtc", "target"].map(
    (name) => `import * as ${name} from "${join(jit, `${name}.ts`)}";\n`,
  );
  const path = join(base, `${Bun.hash(body)}.ts`);
  writeFileSync(path, head.join("") + body);
  return path;
}

function cacheFolder(): string {
  return join(base, "cache");
}

/** A folder with files of these names. */
function folderOf(name: string, ...files: string[]): string {
  const path = join(base, name);
  mkdirSync(path);
  for (const file of files) writeFileSync(join(path, file), "");
  return path;
}

describe("the search for NVRTC", () => {
  const search = `process.stdout.write(JSON.stringify(nvrtc.findNvrtc().found ?? null));`;

  test("takes the folder or the file that FLASHBUN_NVRTC names, with its version", async () => {
    const names = ["libnvrtc.so.13", "libnvrtc-builtins.so.13.2", "libnvrtc-builtins.alt.so.13.2"];
    const folder = folderOf("named", ...names);
    const expected = {
      library: join(folder, "libnvrtc.so.13"),
      builtins: join(folder, "libnvrtc-builtins.so.13.2"),
      version: "13.2",
    };
    for (const FLASHBUN_NVRTC of [folder, expected.library]) {
      const { stdout } = await runProgram(search, { FLASHBUN_NVRTC });
      expect(JSON.parse(stdout)).toEqual(expected);
    }
  });

  test("wants the builtins of the same major version beside the library", async () => {
    for (const [i, builtins] of ["libnvrtc-builtins.so.12.8", "libnvrtc-builtins.so"].entries()) {
      const FLASHBUN_NVRTC = folderOf(`lone${i}`, "libnvrtc.so.13", builtins);
      expect((await runProgram(search, { FLASHBUN_NVRTC })).stdout).toBe("null");
    }
  });

  test("takes the full version out of the name of a toolkit's file", async () => {
    const FLASHBUN_NVRTC = folderOf("kit", "libnvrtc.so.12", "libnvrtc-builtins.so.12.9.86");
    const { stdout } = await runProgram(search, { FLASHBUN_NVRTC });
    expect(JSON.parse(stdout).version).toBe("12.9");
  });

  test("that finds nothing says where it looked and what to do", async () => {
    const body = `
      try {
        const request = { source: "page/page.cu", constants: {} };
        await image.imageOf(request, target.targetOf(10, 0));
      } catch (error) {
        process.stdout.write(error.name + " " + error.message);
      }`;
    const { stdout } = await runProgram(body, { FLASHBUN_NVRTC: "/nowhere" });
    expect(stdout).toStartWith("CompileError page/page.cu for sm_100a");
    expect(stdout).toContain("Looked in: FLASHBUN_NVRTC=/nowhere");
    expect(stdout).toContain("pip install nvidia-cuda-nvrtc==13.0.88");
  });

  test("that finds what cannot be opened fails with the loader's words", async () => {
    const FLASHBUN_NVRTC = folderOf("fake", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0");
    const body = `
      await compile.compile({ source: "a.cu", constants: {} }, "", "sm_90a").catch((error) =>
        process.stdout.write(error.name + " " + error.message));`;
    const { stdout, code } = await runProgram(body, { FLASHBUN_NVRTC });
    expect(stdout).toMatch(/^CompileError a.cu for sm_90a did not compile: .*libnvrtc-builtins/);
    expect(code).toBe(0);
  });
});

describe.skipIf(found === undefined)("NVRTC", () => {
  test.each(["sm_80", "sm_86", "sm_90a", "sm_100a"])("compiles for %s", async (architecture) => {
    const image = await compile(kernel, text, architecture);
    expect([...image.subarray(0, 4)]).toEqual([0x7f, 0x45, 0x4c, 0x46]);
    expect(Buffer.from(image).includes("twice")).toBe(true);
  });

  test("compiles on the thread that waits, to the same image", async () => {
    const image = compileSync(kernel, text, "sm_90a");
    expect(image).toEqual(await compile(kernel, text, "sm_90a"));
    expect(() => compileSync(kernel, `${text}\nint x = nothing;`, "sm_90a")).toThrow(
      'identifier "nothing" is undefined',
    );
  });

  test("compiles one kernel of a source that holds several", async () => {
    const operators = [...operatorKernels().values()];
    const wanted = operators.find(({ name }) => name === "argmax_long")!;
    const alone = oneOperator(wanted);
    const image = Buffer.from(await compile(alone, expand(alone), "sm_90a"));
    const names = operators.filter(({ source }) => source === wanted.source);
    expect(names.length).toBeGreaterThan(1);
    const held = names.filter(({ entry }) => image.includes(`.text.${entry}\0`));
    expect(held.map(({ name }) => name)).toEqual(["argmax_long"]);
  });

  test("compiles many at once, each its own, and the event loop goes on", async () => {
    let turns = 0;
    const ticker = setInterval(() => turns++, 1);
    const names = Array.from({ length: 24 }, (_, i) => `kernel_${i}`);
    const images = await Promise.all(
      names.map((name) => compile(kernel, text.replace("twice", name), "sm_90a")),
    );
    clearInterval(ticker);
    const hold = (image: Uint8Array, name: string) => Buffer.from(image).includes(`${name}\0`);
    expect(images.map((image, i) => hold(image, names[i]))).toEqual(names.map(() => true));
    expect(turns).toBeGreaterThan(5);
  });

  test("fails with the file, the line, the constants and the log", async () => {
    const wrong = `${text}#line 7 "page/page.cu"\nextern "C" __global__ void f() { nothing(); }\n`;
    const error = await compile(kernel, wrong, "sm_90a").catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(CompileError);
    const { message, log } = error as CompileError;
    expect(message).toStartWith("page/page.cu (FB_X=1) for sm_90a did not compile: NVRTC_ERROR");
    expect(message).toContain('page/page.cu(7): error: identifier "nothing" is undefined');
    expect(log).toContain("1 error detected");
    const many = Array.from({ length: 40 }, (_, i) => `int a${i} = b${i};`).join("\n");
    const long = await compile(kernel, many, "sm_90a").catch((reason: CompileError) => reason);
    expect((long as CompileError).message.split("\n").length).toBe(22);
  });

  test("fails where it does not know the architecture", async () => {
    await expect(compile(kernel, text, "sm_999a")).rejects.toThrow("NVRTC_ERROR_INVALID_OPTION");
  });

  test("a process that compiled ends by itself", async () => {
    const body = `
      const request = { source: "a.cu", constants: {} };
      const bytes = await compile.compile(request, ${JSON.stringify(text)}, "sm_90a");
      process.stdout.write(String(bytes.length > 1000));`;
    expect(await runProgram(body)).toEqual({ code: 0, stdout: "true", stderr: "" });
  });
});

describe.skipIf(found === undefined)("an image", () => {
  const request = `const request = { source: "probe/probe.cu", constants: { FB_TEST: 1 } };
    const hopper = target.targetOf(9, 0);`;
  const origin = `${request}
    const before = image.imageNow(request, hopper)?.origin;
    const [first, second] = await Promise.all([
      image.imageOf(request, hopper),
      image.imageOf(request, hopper),
    ]);
    if (first !== second || image.imageNow(request, hopper) !== first) throw new Error("not one");
    process.stdout.write(before + " " + first.origin);`;

  test("is compiled once, by eight processes that start at once too, then cached", async () => {
    const started = await Promise.all(Array.from({ length: 8 }, () => runProgram(origin)));
    for (const { code, stdout, stderr } of started) {
      expect(stdout).toMatch(/^(undefined compiled|cached cached)$/);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    }
    expect(readdirSync(cacheFolder())).toEqual([expect.stringMatching(/^[0-9a-f]{64}\.image$/)]);
    expect((await runProgram(origin)).stdout).toBe("cached cached");
  });

  test("that is damaged on disk is reported and compiled again", async () => {
    const [name] = readdirSync(cacheFolder());
    writeFileSync(join(cacheFolder(), name), "no image");
    const { stdout, stderr } = await runProgram(origin);
    expect(stdout).toBe("undefined compiled");
    expect(stderr.match(/damaged or foreign file/g)).toHaveLength(1);
    expect((await runProgram(origin)).stdout).toBe("cached cached");
  });

  test("is found for the pinned compiler where there is no compiler", async () => {
    const { stdout } = await runProgram(origin, { FLASHBUN_NVRTC: "/nowhere" });
    expect(stdout).toBe("cached cached");
  });

  test("is compiled in one executable as well", async () => {
    const executable = join(base, "program");
    const build = ["build", "--compile", programOf(origin), "--outfile", executable];
    expect((await runBun(build)).code).toBe(0);
    const env = {
      ...process.env,
      FLASHBUN_CACHE: join(base, "other"),
      FLASHBUN_LIB: libraryPath(),
    };
    const FLASHBUN_NVRTC = found!.library;
    const child = Bun.spawn([executable], { cwd: "/", env: { ...env, FLASHBUN_NVRTC } });
    expect(await new Response(child.stdout).text()).toBe("undefined compiled");
  });
});

test.skipIf(found === undefined)(
  "a terminal hears of what takes longer than a second",
  async () => {
    const slow = programOf(`
    const lines = Array.from({ length: 9000 }, (_, i) => "x = x * x + y[" + i * 7 % 64 + "];");
    const text = 'extern "C" __global__ void f(float *y) { float x = y[threadIdx.x];' +
      lines.join("\\n") + " y[0] = x; }";
    await compile.compile({ source: "a.cu", constants: {} }, text, "sm_90a");`);
    let seen = "";
    const terminal = { data: (_: unknown, bytes: Uint8Array) => void (seen += Buffer.from(bytes)) };
    await Bun.spawn([process.execPath, slow], { terminal }).exited;
    const said = "flashbun: compiling 1 kernel for sm_90a, kept for later runs";
    expect(seen).toBe(`\r\x1b[K${said}\r\n`);
    expect((await runBun([slow])).stderr).toBe("");
  },
  300_000,
);
