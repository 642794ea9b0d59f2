import { join } from "node:path";
import { attend, type AttendOptions } from "../../src/attention/attend.ts";
import { Attention } from "../../src/attention/attention.ts";
import type { KernelFamily } from "../../src/attention/families/family.ts";
import type { AttentionOptions } from "../../src/attention/options.ts";
import { Device } from "../../src/device/device.ts";
import { DeviceError } from "../../src/errors.ts";
import { Status } from "../../src/ffi/status.ts";
import type { AttentionState } from "../../src/ops/states.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";

/**
 * An attention object without a wait: kernels that were not compiled yet are compiled by a child
 * process first, which leaves them in the cache that both share.
 */
export function createNow(
  device: Device,
  options: AttentionOptions,
  among?: readonly KernelFamily[],
): Attention {
  try {
    return Attention.createSync(device, options, among);
  } catch (error) {
    if (!(error instanceof DeviceError) || error.status !== Status.notFound) throw error;
  }
  if (among !== undefined) throw new Error("families of a test's own are compiled before");
  compileApart(options);
  return Attention.createSync(device, options);
}

/** As attend, whose kernels may not have been compiled yet. */
export function attendNow(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttendOptions = {},
): AttentionState {
  try {
    return attend(q, k, v, options);
  } catch (error) {
    if (!(error instanceof DeviceError) || error.status !== Status.notFound) throw error;
  }
  const tensors = ["alibiSlopes", "sinkLogits", "maskBits", "kScale", "vScale", "stream"];
  const plain = Object.entries(options).filter(([name]) => !tensors.includes(name));
  compileApart({
    ...(Object.fromEntries(plain) as AttendOptions),
    queryHeads: q.shape[1],
    kvHeads: k.shape[1],
    headDim: q.shape[2],
    valueDim: v.shape[2],
    dtype: q.dtype,
    kvDtype: k.dtype,
  });
  return attend(q, k, v, options);
}

function compileApart(options: AttentionOptions): void {
  const command = [process.execPath, join(import.meta.dir, "warm.ts"), JSON.stringify([options])];
  const { exitCode, stderr } = Bun.spawnSync(command, { env: process.env });
  if (exitCode !== 0) throw new Error(`warming failed: ${stderr.toString()}`);
}

/** Compiles what these options need, many kernels at a time. */
export async function warmUp(device: Device, list: readonly AttentionOptions[]): Promise<void> {
  if (device.kind === "cpu") return;
  await Promise.all(
    list.map(async (options) => (await Attention.create(device, options))[Symbol.dispose]()),
  );
}

if (import.meta.main) {
  await using device = await Device.open("cuda:0");
  await warmUp(device, JSON.parse(process.argv[2]) as AttentionOptions[]);
}
