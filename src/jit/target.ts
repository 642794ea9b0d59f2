import { DriverError } from "../errors.ts";

/** For what images are compiled: the device's own architecture first, then others that it runs. */
export interface Target {
  readonly architectures: readonly [string, ...string[]];
}

/** Architecture of images for the emulated GPU: shared objects for the host. */
export const emulated = "emulated";

/** Turing: ldmatrix and matrix products of f16. */
const oldest = 75;

/**
 * Architectures whose images run on a device. A cubin runs on its own major version and the same or
 * a later minor one; those with an "a" run on exactly one.
 */
export function targetOf(major: number, minor: number, isEmulated = false): Target {
  if (isEmulated) return { architectures: [emulated] };
  if (10 * major + minor < oldest) {
    throw new DriverError(
      `the device has compute capability ${major}.${minor}; ` +
        `the kernels need ${oldest / 10} or later. ` +
        'Fix: choose another device, or Device.open("cpu").',
    );
  }
  if (major === 7) return { architectures: ["sm_75"] };
  if (major > 8) return { architectures: [`sm_${major}${minor}a`] };
  return { architectures: minor === 0 ? ["sm_80"] : [`sm_8${minor}`, "sm_80"] };
}
