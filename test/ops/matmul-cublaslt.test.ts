/**
 * Products by cuBLASLt: on the emulated GPU by a stand-in that looks at every call, on a real one
 * by the library of that machine.
 */
import { dlopen } from "bun:ffi";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findCublasLt } from "../../src/device/cublaslt.ts";
import { Device } from "../../src/device/device.ts";
import { openDriver } from "../../src/device/open.ts";
import { DeviceError, OptionError, OutOfMemoryError } from "../../src/errors.ts";
import { matmul } from "../../src/ops/matmul.ts";
import type { MatmulOptions } from "../../src/ops/matmul-options.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { Weight } from "../../src/tensor/weight.ts";
import { expectedProduct, expectProduct } from "../support/matmul.ts";
import { type Random, seeded } from "../support/random.ts";
import { runBun } from "../support/run.ts";
import { root } from "../support/sources.ts";
import { gpuTarget } from "../support/targets.ts";
import { heldWeight, numbersOf, spaced } from "../support/weights.ts";
import { onesOn } from "../support/rows.ts";

const target = gpuTarget();
const isFake = target?.name.includes("emulated") === true;
const isHere = isFake || (target !== undefined && findCublasLt(cudaMajor()).path !== undefined);
const folder = mkdtempSync(join(tmpdir(), "flashbun-cublaslt-"));
const path = join(folder, "libcublasLt.so.13");
const backend = "cublaslt";

function cudaMajor(): number {
  return parseInt(openDriver().version);
}

const openFake = () =>
  dlopen(path, {
    fake_reset: { args: [], returns: "void" },
    fake_fail: { args: ["cstring", "i32", "i32"], returns: "void" },
    fake_live: { args: [], returns: "i32" },
    fake_matmuls: { args: [], returns: "i32" },
    fake_heuristics: { args: [], returns: "i32" },
    fake_complaint: { args: [], returns: "cstring" },
  }).symbols;
let fake: ReturnType<typeof openFake>;

beforeAll(async () => {
  if (!isFake) return;
  const flags = ["cc", "-shared", "-fPIC", "-O2", "-o", path];
  const source = join(import.meta.dir, "cublaslt-fake.c");
  const zig = process.env["FLASHBUN_ZIG"] ?? join(root, ".toolchain", "zig", "ziglang", "zig");
  const child = Bun.spawn([zig, ...flags, source]);
  expect(await child.exited).toBe(0);
  process.env["FLASHBUN_CUBLASLT"] = path;
  fake = openFake();
}, 60_000);

afterAll(() => {
  if (isFake) delete process.env["FLASHBUN_CUBLASLT"];
  rmSync(folder, { recursive: true });
});

/** What the stand-in says of its calls. */
function expectNoComplaint(): void {
  if (isFake) expect(String(fake.fake_complaint())).toBe("");
}

interface Case {
  rows: number;
  inputs: number;
  outputs: number;
  dtype: DType;
  weightDtype?: DType;
  outDtype: DType;
  bias: boolean;
  residual: "none" | "apart" | "out";
  /** Elements between rows that belong to nobody. */
  gap: number;
}

function randomCase(random: Random): Case {
  const dtype = random.pick(["f32", "f16", "bf16", "f8e4m3", "f8e5m2"] as const);
  const isFp8 = dtype.startsWith("f8");
  const step = isFp8 ? 16 : 1;
  return {
    rows: random.pick([1, 2, 7, 33]),
    inputs: step * random.integer(1, 160 / step),
    outputs: step * random.integer(1, 80 / step),
    dtype,
    weightDtype: dtype === "f8e4m3" ? random.pick(["f8e4m3", "f8e5m2"]) : undefined,
    outDtype: random.pick(isFp8 ? ["bf16", "f16", "f32"] : [dtype, "f32"]),
    bias: random.chance(0.5),
    residual: random.pick(["none", "apart", "out"]),
    gap: step * random.integer(0, 3),
  };
}

/** Compares the product with f64, and with that of our own kernels. */
function check(device: Device, c: Case, random: Random): void {
  const { rows, inputs, outputs, dtype, outDtype, gap } = c;
  const isFp8 = dtype.startsWith("f8");
  const weightDtype = c.weightDtype ?? (dtype === "f8e5m2" ? "f8e4m3" : dtype);
  const x = numbersOf(random, rows * inputs, dtype);
  const input = spaced(device, x, rows, gap, dtype);
  using worth = Tensor.from(device, [0.37], [1], "f32");
  const held = (isFp8 ? { dtype: weightDtype, scales: "all" } : { dtype }) as { dtype: "f32" };
  const { weight, values } = heldWeight(device, random, held, [outputs, inputs]);
  const biases = c.bias ? numbersOf(random, outputs, "bf16") : undefined;
  const biasDtype = isFp8 && outDtype === "f32" ? "bf16" : outDtype;
  using bias = biases && Tensor.from(device, biases, [outputs], biasDtype);
  const added = c.residual === "none" ? undefined : numbersOf(random, rows * outputs, "bf16");
  const start = c.residual === "out" ? added! : new Float64Array(rows * outputs).fill(NaN);
  using apart = added && Tensor.from(device, added, [rows, outputs], outDtype);
  const scale = worth.toFloat64Array()[0];
  const worths = isFp8 ? x.map((value) => value * scale) : x;
  const product = { rows, inputs, outputs, x: worths, weight: values };
  for (const by of [backend, "flashbun"] as const) {
    const output = spaced(device, start, rows, gap, outDtype);
    const residual = c.residual === "out" ? output.view : apart;
    const scales = isFp8 ? worth : undefined;
    matmul(input.view, weight, { backend: by, bias, residual, scales, out: output.view });
    const wanted = expectedProduct({
      ...product,
      bias: biases,
      residual: added,
      cut: isFp8 && !(isFake && by === backend),
    });
    expectProduct(output.view.toFloat64Array(), wanted, outDtype, `${by} ${JSON.stringify(c)}`);
    expect(output.memory.toFloat64Array().filter(Number.isNaN).length).toBe(rows * gap);
    output.memory[Symbol.dispose]();
  }
  weight[Symbol.dispose]();
  input.memory[Symbol.dispose]();
}

describe.skipIf(!isHere)("matmul by cuBLASLt", () => {
  test("agrees with f64 and with our own, of any shape, type and distance", async () => {
    await using device = await target!.open(1);
    for (let seed = 1; seed <= 40; seed++) {
      const random = seeded(seed);
      check(device, randomCase(random), random);
      expectNoComplaint();
    }
  });

  test("a stream's order holds, in graphs on other streams too", async () => {
    await using device = await target!.open(1);
    using x = Tensor.from(device, [1, 2, 3, 4], [1, 4], "bf16");
    using weight = Weight.dense(Tensor.from(device, [1, 10, 100, 1000], [1, 4], "bf16"));
    using out = Tensor.zeros(device, [1, 1], "bf16");
    using stream = device.createStream();
    using graph = device.capture(device.stream, () => matmul(x, weight, { backend, out }));
    expect([...out.toFloat64Array()]).toEqual([0]);
    using other = Tensor.from(device, [1, 1, 1, 2], [1, 4], "bf16");
    x.copyFrom(other);
    // Behind a long product, so that what may run first does: both have one workspace.
    using long = Tensor.zeros(device, [64, 256], "bf16");
    using wide = Weight.dense(Tensor.zeros(device, [256, 256], "bf16"));
    using _ = matmul(long, wide, { backend });
    matmul(x, weight, { backend, out, residual: out });
    graph.replay(stream);
    matmul(x, weight, { backend, out, residual: out });
    await device.stream.done();
    expect([...out.toFloat64Array()]).toEqual([4224]);
    expectNoComplaint();
    weight[Symbol.dispose]();
    expect(() => graph.replay(stream)).toThrow("was disposed");
  });

  test("graphs keep their order when the stream is gone that they were captured on", async () => {
    await using device = await target!.open(1);
    const { x, weight } = small(device);
    using out = Tensor.zeros(device, [x.shape[0], weight.outputs], x.dtype);
    using wide = Weight.dense(Tensor.zeros(device, [256, 256], "bf16"));
    using long = Tensor.zeros(device, [64, 256], "bf16");
    // The zeros are written by the device's own stream, which another stream does not wait for.
    await device.stream.done();
    const captured = device.createStream();
    matmul(x, weight, { backend, out, stream: captured });
    await captured.done();
    const once = out.toFloat64Array();
    using sets = device.capture(captured, () => {
      matmul(long, wide, { backend, stream: captured });
      matmul(x, weight, { backend, out, stream: captured });
    });
    const again = { backend, out, residual: out, stream: captured } as const;
    using adds = device.capture(captured, () => matmul(x, weight, again));
    captured[Symbol.dispose]();
    const [one, other] = [device.createStream(), device.createStream()];
    for (let round = 0; round < 20; round++) {
      sets.replay(one);
      adds.replay(other);
      await Promise.all([one.done(), other.done()]);
      expect(out.toFloat64Array()).toEqual(once.map((value) => 2 * value));
    }
    expectNoComplaint();
  });

  test("observers see it, and its workspace is the stream's, taken once", async () => {
    await using device = await target!.open(1);
    const { x, weight } = small(device);
    const names: string[] = [];
    using _ = device.observe({ launched: ({ name }) => names.push(name) });
    matmul(x, weight, { backend });
    matmul(x, weight, { backend });
    expect(names).toEqual(["cublasLtMatmul", "cublasLtMatmul"]);
    const { owners } = device.memoryStats();
    const [{ blocks, bytes }] = owners.filter(({ label }) => label.startsWith("cuBLASLt"));
    expect([blocks, bytes]).toEqual([1, device.properties.computeMajor >= 9 ? 2 ** 25 : 2 ** 22]);
    device.freezeMemory();
    using out = x.slice(1, 0, 2);
    expect(() => matmul(x, weight, { backend, out })).toThrow(OptionError);
    device.freezeMemory(false);
  });

  test("each other option works beside it, or is refused by name", async () => {
    await using device = await target!.open(1);
    const { x, weight } = small(device);
    const ones = onesOn(device);
    const codes = ones([3, 16], "f8e4m3");
    const coded = (count: number) => Weight.fp8(ones([16, 16], "f8e4m3"), ones([count], "f32"));
    const one = ones([1], "f32");
    const starts = Tensor.from(device, [0, 3], [2], "i32");
    const stack = Weight.dense(ones([1, 4, 8], "bf16"));
    type Row = [options: MatmulOptions, works: boolean, x?: Tensor, weight?: Weight];
    const grid: Record<Exclude<keyof MatmulOptions, "backend">, Row[]> = {
      groups: [[{ groups: { starts } }, false, x, stack]],
      bias: [
        [{ bias: ones([4], "bf16") }, true],
        [{ bias: ones([4], "f32") }, false],
        [{ bias: ones([4], "f32"), out: ones([3, 4], "f32") }, true],
        [{ bias: ones([4], "bf16"), out: ones([3, 4], "f32") }, false],
        [{ bias: ones([16], "bf16"), out: ones([3, 16], "f32"), scales: one }, true, codes],
        [{ bias: ones([16], "f32"), out: ones([3, 16], "f32"), scales: one }, false, codes],
      ],
      activation: [
        [{ activation: "none" }, true],
        [{ activation: "silu" }, false],
        [{ activation: "gelu" }, false],
        [{ activation: "gelu-tanh" }, false],
      ],
      gated: [
        [{ gated: false }, true],
        [{ gated: true }, false],
      ],
      scales: [
        [{ scales: one }, true, codes],
        [{ scales: ones([3], "f32") }, false, codes],
        [{ scales: ones([3, 1], "f32") }, false, codes],
      ],
      residual: [
        [{ residual: ones([3, 4], "bf16") }, true],
        [{ residual: ones([3, 4], "f32") }, false],
        [{ residual: ones([3, 4], "f32"), out: ones([3, 4], "f32") }, true],
        [{ residual: overlapping(device, [3, 4]) }, false],
      ],
      invariant: [
        [{ invariant: false }, true],
        [{ invariant: true }, false],
      ],
      roundRows: [[{ roundRows: true }, true]],
      settled: [[{ settled: true }, true]],
      out: [
        [{ out: ones([3, 4], "bf16") }, true],
        [{ out: ones([3, 4], "f32") }, true],
        [{ out: ones([3, 4], "f16") }, false],
      ],
      stream: [[{ stream: device.createStream() }, true]],
    };
    for (const [option, rows] of Object.entries(grid)) {
      for (const [options, works, input = x, by = input === codes ? coded(1) : weight] of rows) {
        const refused = errorOf(() => matmul(input, by, { ...options, backend }));
        expect({ option, refused: optionOf(refused) }).toEqual({
          option,
          refused: works ? undefined : option,
        });
      }
    }
    const scales = one;
    const operands: [string, Tensor, Weight, MatmulOptions?][] = [
      ["weight", x, Weight.dense(ones([4, 8], "f32"))],
      ["weight", ones([3, 16], "bf16"), Weight.grouped(ones([4, 16], "i8"), ones([4, 1], "f16"))],
      ["weight", x, Weight.fp8(ones([4, 8], "f8e4m3"), one)],
      ["weight", codes, coded(16), { scales }],
      ["weight", codes, Weight.dense(ones([16, 16], "bf16")), { scales }],
      ["x", overlapping(device, [3, 8]), weight],
      ["backend", ones([3, 16], "f8e5m2"), Weight.fp8(ones([16, 16], "f8e5m2"), one), { scales }],
      ["backend", ones([3, 8], "f8e4m3"), Weight.fp8(ones([4, 8], "f8e4m3"), one), { scales }],
    ];
    for (const [option, input, by, options] of operands)
      expect(optionOf(errorOf(() => matmul(input, by, { ...options, backend })))).toBe(option);
    const odd = { backend: "cublas" } as unknown as MatmulOptions;
    expect(() => matmul(x, weight, odd)).toThrow(
      'backend must be flashbun or cublaslt (got "cublas"). Fix: ',
    );
    await device.stream.done();
    expectNoComplaint();
  });
});

/** A row that stands for all. */
function overlapping(device: Device, shape: readonly number[]): Tensor {
  const row = Tensor.zeros(device, [shape[1]], "bf16");
  return Tensor.fromPointer(device, row.address, shape, "bf16", { strides: [0, 1], keep: row });
}

/** A product of ones. */
function small(device: Device) {
  const x = Tensor.from(device, new Array(24).fill(1), [3, 8], "bf16");
  const weight = Weight.dense(Tensor.from(device, new Array(32).fill(1), [4, 8], "bf16"));
  return { x, weight };
}

function errorOf(body: () => unknown): unknown {
  try {
    body();
  } catch (error) {
    return error;
  }
  return undefined;
}

function optionOf(error: unknown): string | undefined {
  return error === undefined ? undefined : (error as OptionError).option;
}

describe.skipIf(!isFake)("calls of cuBLASLt", () => {
  test("a shape is asked about once, and all goes when the device does", async () => {
    expect(fake.fake_live()).toBe(0);
    fake.fake_reset();
    {
      await using device = await target!.open(1);
      const { x, weight } = small(device);
      const residual = Tensor.zeros(device, [3, 4], "bf16");
      for (let i = 0; i < 3; i++) {
        matmul(x, weight, { backend });
        matmul(x, weight, { backend, residual });
        matmul(x.slice(0, 0, 2), weight, { backend });
        // Aligned to 16 bytes only.
        matmul(x.slice(0, 1, 3), weight, { backend });
      }
      expect([fake.fake_heuristics(), fake.fake_matmuls()]).toEqual([4, 12]);
      // A handle, and a description with four layouts of each.
      expect(fake.fake_live()).toBe(21);
    }
    expect(fake.fake_live()).toBe(0);
    expectNoComplaint();
  });

  test("what fails is a typed error with its name, and leaves nothing behind", async () => {
    const failing: [name: string, calls: number][] = [
      ["cublasLtCreate", 1],
      ["cublasLtMatmulDescCreate", 1],
      ["cublasLtMatmulDescSetAttribute", 9],
      ["cublasLtMatrixLayoutCreate", 4],
      ["cublasLtMatmulPreferenceCreate", 1],
      ["cublasLtMatmulPreferenceSetAttribute", 6],
      ["cublasLtMatmulAlgoGetHeuristic", 1],
      ["state", 1],
      ["cublasLtMatmul", 1],
    ];
    const names = {
      1: "NOT_INITIALIZED",
      3: "ALLOC_FAILED",
      13: "EXECUTION_FAILED",
      15: "NOT_SUPPORTED",
    } as const;
    const statuses = [1, 3, 13, 15] as const;
    let turn = 0;
    for (const [name, calls] of failing) {
      // Each of one call, those of several in turn.
      for (let i = 0; i < Math.max(calls, statuses.length); i++) {
        const [call, status] = [i % calls, statuses[turn++ % statuses.length]];
        await using device = await target!.open(1);
        const x = Tensor.from(device, new Array(48).fill(1), [3, 16], "f8e4m3");
        const one = Tensor.from(device, [1], [1], "f32");
        const values = Tensor.from(device, new Array(256).fill(1), [16, 16], "f8e4m3");
        const weight = Weight.fp8(values, one);
        const bias = Tensor.zeros(device, [16], "bf16");
        const multiply = () => matmul(x, weight, { backend, bias, scales: one });
        fake.fake_reset();
        fake.fake_fail(Buffer.from(`${name}\0`), call, status);
        const error = errorOf(multiply) as Error;
        const called = name === "state" ? "cublasLtMatmulAlgoGetHeuristic" : name;
        const kind = { 3: OutOfMemoryError, 15: OptionError }[status as 3] ?? DeviceError;
        expect([name, call, status, error?.constructor]).toEqual([name, call, status, kind]);
        expect(error.message).toContain(`${called}: CUBLAS_STATUS_${names[status]} (${status})`);
        // The handle, and where a plan was made its description and layouts.
        const isRun = name === "cublasLtMatmul" || (name.includes("DescSet") && call >= 6);
        const live = name === "cublasLtCreate" ? 0 : isRun ? 6 : 1;
        expect([name, call, fake.fake_live()]).toEqual([name, call, live]);
        expect(device.memoryStats().owners.some(({ label }) => label === "matmul")).toBe(false);
        // It works again.
        using out = multiply();
        expect(out.toFloat64Array()[0]).toBe(16);
      }
    }
    expect(fake.fake_live()).toBe(0);
    expectNoComplaint();
  });
});

describe.skipIf(!isFake)("the search for cuBLASLt", () => {
  /** What a program that asks for a product by it says. */
  async function says(env: Record<string, string | undefined>): Promise<string> {
    const program = join(folder, "product.ts");
    writeFileSync(
      program,
      `import { Device, matmul, Tensor, Weight } from "${join(root, "src/index.ts")}";
      await using device = await Device.open(process.env.DEVICE);
      using x = Tensor.from(device, [2], [1, 1], "f32");
      using weight = Weight.dense(Tensor.from(device, [3], [1, 1], "f32"));
      try {
        using out = matmul(x, weight, { backend: "cublaslt" });
        console.log(out.toFloat64Array()[0]);
      } catch (error) { console.log(error.code, error.message); }`,
    );
    const given = { FLASHBUN_CUBLASLT: undefined, DEVICE: "cuda:0", ...env };
    const { stdout, stderr } = await runBun([program], { env: given });
    expect(stderr).toBe("");
    return stdout.trim();
  }

  test("takes the file that the variable names, or one of the usual places", async () => {
    expect(await says({ FLASHBUN_CUBLASLT: path })).toBe("6");
    const module = join(root, "src/device/cublaslt.ts");
    const print = `import { findCublasLt } from "${module}"; console.log(findCublasLt(13).path);`;
    const env = { FLASHBUN_CUBLASLT: undefined, LD_LIBRARY_PATH: folder };
    expect((await runBun(["-e", print], { env })).stdout.trim()).toBe(path);
  });

  test("an emulated GPU takes none that it was not told of", async () => {
    expect(await says({ LD_LIBRARY_PATH: folder })).toMatch(
      /^OPTION backend must be "flashbun" on .*cuda:0.*, which is emulated \(got "cublaslt"\)\. Fix: /,
    );
  });

  test("says why there is none, and what to do", async () => {
    const refusal = (why: string) =>
      new RegExp(
        `^OPTION backend must be "flashbun", as ${why} \\(got "cublaslt"\\)\\. ` +
          "Fix: pip install nvidia-cublas, set FLASHBUN_CUBLASLT to its path, or leave it out\\.$",
      );
    const absent = "/absent/libcublasLt.so.13";
    expect(await says({ FLASHBUN_CUBLASLT: absent })).toMatch(
      refusal(`no cuBLASLt was found at FLASHBUN_CUBLASLT=${absent}`),
    );
    const wrong = join(root, "zig-out/lib/libflashbun-trace.so");
    expect(await says({ FLASHBUN_CUBLASLT: wrong })).toMatch(
      refusal("cuBLASLt: .* is no cuBLASLt: it lacks cublasLtGetVersion"),
    );
    expect(await says({ FLASHBUN_CUBLASLT: path, FAKE_CUBLASLT_VERSION: "111103" })).toMatch(
      refusal("cuBLASLt: .* is older than 12\\.0, its version is 111103"),
    );
    expect(await says({ FLASHBUN_CUBLASLT: path, DEVICE: "cpu" })).toBe(
      'OPTION backend must be "flashbun" on cpu device (got "cublaslt"). Fix: leave backend out.',
    );
  });
});
