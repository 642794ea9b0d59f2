import { crc32 } from "node:zlib";
import { DebloatError } from "../../errors.ts";
import { ptxKernels, readCubin } from "./cubin.ts";
import { discardImage, type Entry, imageOf, type Source } from "./fatbin.ts";

/** What the image of an entry holds. */
export interface Contents {
  /** Bytes of the image as the driver sees it, and their CRC-32. */
  readonly bytes: number;
  readonly crc32: number;
  /** Mangled, with the bytes that go with each; 0 for PTX, which is not taken apart. */
  readonly kernels: readonly { readonly name: string; readonly bytes: number }[];
  readonly globals: readonly string[];
  /** Whether it is a part that is linked before it runs. */
  readonly isPart?: boolean;
  /** Why kernels cannot be taken out of it. */
  readonly whole?: string;
  /** Why it could not be read. */
  readonly unreadable?: string;
}

/** ELF's type of what a linker takes. */
const relocatable = 1;

const nothing = { bytes: 0, crc32: 0, kernels: [], globals: [] };

/** Looks into the image of an entry; one that cannot be read says so. */
export function contentsOf(section: Source, entry: Entry, file: string): Contents {
  let image: Uint8Array | undefined;
  try {
    image = imageOf(section, entry, file);
    if (image === undefined) return { ...nothing, unreadable: "its kind is not plain" };
    return contentsOfImage(image, entry, file);
  } catch (error) {
    if (!(error instanceof DebloatError)) throw error;
    return { ...nothing, unreadable: error.reason };
  } finally {
    if (image !== undefined) discardImage(entry, image);
  }
}

function contentsOfImage(image: Uint8Array, { kind }: Entry, file: string): Contents {
  const sum = { bytes: image.length, crc32: crc32(image) };
  if (kind === "ptx") {
    const kernels = ptxKernels(image).map((name) => ({ name, bytes: 0 }));
    return { ...sum, kernels, globals: [], whole: "it is PTX" };
  }
  const { elf, kernels, globals, whole } = readCubin(image, file);
  return {
    ...sum,
    kernels: kernels.map(({ name, bytes }) => ({ name, bytes })),
    globals,
    ...(elf.type === relocatable ? { isPart: true } : {}),
    ...(whole === undefined ? {} : { whole }),
  };
}
