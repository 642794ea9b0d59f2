import { Attention } from "../../src/attention/attention.ts";
import type { AttentionOptions } from "../../src/attention/options.ts";
import type { Device } from "../../src/device/device.ts";

/** Compiles what these options need, many kernels at a time. */
export async function warmUp(device: Device, list: readonly AttentionOptions[]): Promise<void> {
  if (device.kind === "cpu") return;
  await Promise.all(
    list.map(async (options) => (await Attention.create(device, options))[Symbol.dispose]()),
  );
}
