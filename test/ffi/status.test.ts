import { expect, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import { CudaError, DeviceError, FlashbunError, OutOfMemoryError } from "../../src/errors.ts";
import { ProbeParams } from "../../src/ffi/params.gen.ts";
import { Status } from "../../src/ffi/status.ts";
import { runBun } from "../support/run.ts";
import { root, sourcesOf } from "../support/sources.ts";
import { deviceTargets, gpuTarget } from "../support/targets.ts";

/** What the body throws. */
function thrown(body: () => void): FlashbunError {
  try {
    body();
  } catch (error) {
    if (error instanceof FlashbunError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

test.each(await deviceTargets())("memory that ran out is counted: $name", async ({ kind }) => {
  const limit = 1 << 20;
  const options = { memoryLimitBytes: limit };
  await using device = await Device.open(kind === "cpu" ? "cpu" : "cuda:0", options);
  using held = device.alloc(limit / 4, "held");
  const { usedBytes } = device.memoryStats();
  expect(usedBytes).toBeGreaterThanOrEqual(held.byteLength);
  const error = thrown(() => device.alloc(limit, "more")) as OutOfMemoryError;
  expect(error).toBeInstanceOf(OutOfMemoryError);
  expect(error.code).toBe("OUT_OF_MEMORY");
  expect([error.askedBytes, error.freeBytes]).toEqual([limit, limit - usedBytes]);
  // More than 2^32, and as an error of another kind nothing of it.
  const asked = 2 ** 45 + 12_345;
  expect(thrown(() => device.alloc(asked, "most"))).toMatchObject({ askedBytes: asked });
  const other = thrown(() => device.kernel("no_such_kernel")) as DeviceError;
  expect(other).toBeInstanceOf(DeviceError);
  expect(other).not.toBeInstanceOf(CudaError);
  expect(other.status).toBe(Status.notFound);
  expect(other).not.toHaveProperty("askedBytes");
});

test("a kernel that failed on the CPU is no failure of CUDA", async () => {
  await using device = await Device.open("cpu", { threads: 1 });
  const params = new ProbeParams();
  params.fail = 7;
  device.launch(device.stream, device.kernel("probe_spin"), params, 1);
  const error = thrown(() => device.stream.wait()) as DeviceError;
  expect(error.status).toBe(Status.deviceFailed);
  expect(error).not.toBeInstanceOf(CudaError);
});

/** A process of its own: a GPU that failed stays so until its process ends. */
const failing = `
  const { Device } = await import("${root}/src/index.ts");
  const { ProbeParams } = await import("${root}/src/ffi/params.gen.ts");
  const device = await Device.open("cuda:0");
  const params = new ProbeParams();
  params.fail = 1;
  const said = [];
  const note = (body) => {
    try { body(); } catch ({ name, code, status, cudaResult, driverName, message }) {
      const named = message.includes(driverName);
      said.push({ name, code, status, cudaResult, driverName, named });
    }
  };
  note(() => device.stream.wait());
  device.launch(device.stream, device.kernel("probe_spin"), params, 1);
  note(() => device.stream.wait());
  note(() => device.alloc(64, "later"));
  process.stdout.write(JSON.stringify(said));
`;

test.if(gpuTarget() !== undefined)(
  "a failure of CUDA has the driver's number and name",
  async () => {
    const { stdout, stderr } = await runBun(["-e", failing]);
    expect(stderr).toBe("");
    const said = JSON.parse(stdout);
    const driverName = expect.stringMatching(/^CUDA_ERROR_\w+$/);
    const trap = {
      name: "CudaError",
      code: "DEVICE",
      status: Status.cuda,
      driverName,
      named: true,
    };
    expect(said).toEqual([{ ...trap, cudaResult: expect.any(Number) }, said[0]]);
    // A kernel that traps: launch failed, or an assertion or instruction that is none.
    expect([710, 715, 719]).toContain(said[0].cudaResult);
  },
);

test("nothing is read out of a sentence", () => {
  const parses = [
    /\.(exec|test|match|matchAll)\(\s*\w*\.?(message|sentence)\b/,
    /\b(message|sentence)\.(match|matchAll|split|includes|search|startsWith)\(/,
  ];
  const found = sourcesOf("src/**/*.ts").flatMap(({ path, lines }) =>
    lines
      .filter((line) => parses.some((rule) => rule.test(line)))
      .map((line) => `${path}: ${line.trim()}`),
  );
  expect(found).toEqual([]);
});
