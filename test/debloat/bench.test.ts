/** The benchmark's parts, on a small library: what it measures, and which kernels it keeps. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { transformerKernels } from "../../bench/debloat/kernels.ts";
import type { StepRequest, StepSums } from "../../bench/debloat/step.ts";
import { findCudaLibrary } from "../../scripts/toolchain.ts";
import { runBun } from "../support/run.ts";
import { root } from "../support/zig.ts";
import { temporaryFolder } from "./support/make-library.ts";

const minutes = 60_000;
let folder: string;
let library: string;

beforeAll(async () => {
  folder = temporaryFolder("bench");
  library = await findCudaLibrary();
}, 5 * minutes);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function step(request: StepRequest): Promise<StepSums> {
  const script = join(root, "bench", "debloat", "step.ts");
  const { code, stdout, stderr } = await runBun([script, JSON.stringify(request)]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout) as StepSums;
}

test(
  "a step sums bytes before and after",
  async () => {
    const before = statSync(library).size;
    const nothing = await step({ files: [library] });
    expect(nothing).toEqual({ files: [0, 0], fatbins: [0, 0], hostCode: [0, 0] });
    const output = join(folder, "out");
    const shrink = {
      output,
      arch: ["sm_80"],
      level: "kernel",
      kernels: true,
      strip: true,
    } as const;
    const { files, fatbins, hostCode } = await step({ files: [library], shrink });
    expect(files).toEqual([before, statSync(join(output, "libcufile.so.0")).size]);
    // None of its kernels is a transformer's: an empty container is left.
    expect(fatbins[0]).toBeGreaterThan(40_000);
    expect(fatbins[1]).toBe(16);
    expect(hostCode[1]).toBe(hostCode[0]);
  },
  minutes,
);

const layerNorm =
  "_ZN2at6native53_GLOBAL__N__21739cd4_20_layer_norm_kernel_cu_9c5ada8a28" +
  "vectorized_layer_norm_kernelI";
const product = "_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas";

test.each([
  [`${layerNorm}ffLb0EEEviT0_PKT_S6_S6_PS3_S7_PS4_`, true],
  [`${layerNorm}N3c108BFloat16EfLb0EEEviT0_PKT_S8_S8_PS5_S9_PS6_`, true],
  [`${layerNorm}N3c104HalfEfLb0EEEviT0_PKT_S8_S8_PS5_S9_PS6_`, false],
  [`sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn${product}`, true],
  [`sm90_xmma_gemm_f16f16_f16f32_f32_tn${product}`, false],
  [`sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn${product}`, false],
  ["ncclDevKernel_AllReduce_Sum_bf16_RING_LL", false],
])("the listed kernels: %s: %p", (name, isListed) => {
  expect(transformerKernels.test(name)).toBe(isListed);
});
