import type { Device } from "../../src/device/device.ts";
import { ProbeParams } from "../../src/ffi/params.gen.ts";

/** Makes a device fail with status 7, as a kernel that goes wrong does. */
export async function breakDevice(device: Device): Promise<void> {
  const params = new ProbeParams();
  params.fail = 7;
  device.launch(device.stream, device.kernel("probe_spin"), params, 1);
  await device.stream.done().catch(() => {});
}
