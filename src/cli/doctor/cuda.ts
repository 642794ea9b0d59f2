import { findCublasLt, openCublasLt } from "../../device/cublaslt.ts";
import { Device } from "../../device/device.ts";
import { type Driver, openDriver } from "../../device/open.ts";
import { jitTarget, operatorImages } from "../../device/operators.ts";
import { readRate } from "../../device/probe.ts";
import { DriverError, FlashbunError } from "../../errors.ts";
import { ImageCache } from "../../jit/cache.ts";
import { embeddedImages } from "../../jit/embedded.ts";
import { findNvrtc, pinnedVersion } from "../../jit/nvrtc.ts";
import { operatorSources } from "../../jit/operators.ts";
import { counted } from "../../shown.ts";
import { megabytes } from "../jit/list.ts";
import type { Say } from "./finding.ts";

/** Prints what there is of CUDA: driver, compiler, embedded and cached kernels, and each GPU. */
export async function lookAtCuda(say: Say): Promise<void> {
  const driver = lookAtDriver(say);
  lookAtKernels(say, driver !== undefined && !driver.emulated);
  lookAtCublasLt(say, parseInt(driver?.version ?? "13"));
  for (let ordinal = 0; ordinal < (driver?.deviceCount ?? 0); ordinal++) {
    try {
      await lookAtGpu(say, ordinal);
    } catch (error) {
      if (!(error instanceof FlashbunError)) throw error;
      say(`cuda:${ordinal}`, error.message, "FAIL");
    }
  }
}

/** A machine without a driver or a GPU is fine; one whose driver cannot be used is not. */
function lookAtDriver(say: Say): Driver | undefined {
  try {
    const driver = openDriver();
    const gpus = counted(driver.deviceCount, "GPU");
    say("driver", `CUDA ${driver.version}, ${gpus}${driver.emulated ? ", emulated" : ""}`);
    return driver;
  } catch (error) {
    if (!(error instanceof DriverError)) throw error;
    const isAbsent = error.absent && !process.env["FLASHBUN_LIBCUDA"];
    say("driver", error.message, isAbsent ? "none" : "FAIL");
    return undefined;
  }
}

/** A compiler is missed where there is a GPU: an emulated one compiles with Zig. */
function lookAtKernels(say: Say, isNeeded: boolean): void {
  const { found, tried } = findNvrtc();
  const apart = found?.version === pinnedVersion ? "" : `, images are those of ${pinnedVersion}`;
  const none = `${notFound(tried)}; only embedded and cached kernels run`;
  if (found !== undefined) say("NVRTC", `${found.version}, ${found.library}${apart}`);
  else say("NVRTC", none, isNeeded ? "warn" : "none");
  const embedded = [...embeddedImages().values()];
  const bytes = embedded.reduce((sum, image) => sum + image.bytes.length, 0);
  say("embedded", `${counted(embedded.length, "image")}, ${megabytes(bytes)}`);
  const cache = new ImageCache();
  const held = cache.contents();
  const content = held && `${counted(held.images, "image")}, ${megabytes(held.bytes)}`;
  const failure = cache.writeFailure();
  if (content === undefined) say("cache", `${cache.directory}: not used`, "FAIL");
  else if (failure === undefined) say("cache", `${cache.directory}: ${content}`);
  else say("cache", `${cache.directory} cannot be written (${failure}): ${content}`, "warn");
}

function notFound(tried: readonly string[]): string {
  return `not found (${counted(tried.length, "place")})`;
}

/** Nothing needs it but products that ask for it. */
function lookAtCublasLt(say: Say, cudaMajor: number): void {
  const { path, tried } = findCublasLt(cudaMajor);
  const none = `${notFound(tried)}: matmul's backend "cublaslt" needs it`;
  const library = path === undefined ? none : openCublasLt(cudaMajor);
  if (typeof library === "object") say("cuBLASLt", `${library.version}, ${library.path}`);
  else say("cuBLASLt", library, path === undefined ? "none" : "warn");
}

async function lookAtGpu(say: Say, ordinal: number): Promise<void> {
  await using device = await Device.open(`cuda:${ordinal}`);
  const memory = `${(device.properties.totalBytes / 2 ** 30).toFixed(0)} GiB`;
  say(`cuda:${ordinal}`, `${device.name}, ${memory}`);
  const images = await operatorImages(jitTarget(device));
  const origins = operatorSources().map(
    (source, i) => `${source} ${images[i].origin} for ${images[i].architecture}`,
  );
  say("kernels", origins.join(", "));
  if (device.properties.emulated === 0)
    say("reading", `${(await readRate(device)).toFixed(1)} GB/s`);
}
