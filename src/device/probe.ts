import { ProbeParams } from "../ffi/params.gen.ts";
import type { Device } from "./device.ts";

/** Passes over the buffer, of which the fastest counts. */
const passes = 3;

/** Slices a processor, so that a slow one does not hold the pass. */
const slicesPerProcessor = 8;

/**
 * What plain reading of memory reaches on the device, in 1e9 bytes per second: the best of a few
 * passes over a buffer of `bytes`, by default beyond most caches.
 */
export async function readRate(
  device: Device,
  bytes = Math.min(256 << 20, Math.max(128 << 20, 2 * device.lastLevelCacheBytes)),
): Promise<number> {
  const slices = device.processors * slicesPerProcessor;
  using data = device.alloc(bytes, "read probe");
  using sums = device.alloc(slices * 8, "read probe sums");
  using start = device.createEvent();
  using end = device.createEvent();
  const { stream } = device;
  const kernel = device.kernel("probe_read");
  // Pages that were never written are one and the same page of zeros.
  stream.fill(data.address, 1, bytes);
  const params = new ProbeParams();
  params.data = data.address;
  params.bytes = bytes;
  params.out = sums.address;
  params.iterations = slices;
  let best = Infinity;
  for (let pass = 0; pass < passes; pass++) {
    start.record(stream);
    device.launch(stream, kernel, params, slices);
    end.record(stream);
    await stream.done();
    best = Math.min(best, start.elapsedMs(end));
  }
  return bytes / best / 1e6;
}
