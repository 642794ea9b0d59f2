import { OptionError } from "../errors.ts";

/** Compute capability, and bytes of shared memory that a block and a multiprocessor have. */
interface ArchitectureFacts extends SharedMemory {
  readonly computeMajor: number;
  readonly computeMinor: number;
}

interface SharedMemory {
  readonly sharedBytesPerBlock: number;
  readonly sharedBytesPerProcessor: number;
}

const large = { sharedBytesPerBlock: 232_448, sharedBytesPerProcessor: 233_472 };
const middle = { sharedBytesPerBlock: 166_912, sharedBytesPerProcessor: 167_936 };
const small = { sharedBytesPerBlock: 101_376, sharedBytesPerProcessor: 102_400 };

/**
 * What kernels can be compiled for without a GPU at hand, by the name that a compiler takes (CUDA
 * C++ Programming Guide 13.0, table of technical specifications).
 */
const architectures: Readonly<Record<string, SharedMemory>> = {
  sm_75: { sharedBytesPerBlock: 65_536, sharedBytesPerProcessor: 65_536 },
  sm_80: middle,
  sm_86: small,
  sm_87: middle,
  sm_89: small,
  sm_90a: large,
  sm_100a: large,
  sm_103a: large,
  sm_120a: small,
  sm_121a: small,
};

/** What an architecture has. Errors: OptionError for one that is not known. */
export function architectureFacts(architecture: string): ArchitectureFacts {
  if (Object.hasOwn(architectures, architecture)) {
    const capability = parseInt(architecture.slice("sm_".length));
    return {
      ...architectures[architecture],
      computeMajor: Math.floor(capability / 10),
      computeMinor: capability % 10,
    };
  }
  const names = Object.keys(architectures).join(", ");
  throw new OptionError("arch", architecture, `one of ${names}`, "name the GPU's architecture.");
}
