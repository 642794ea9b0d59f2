import { packZstd } from "./compression.ts";
import { dropKernels } from "./cubin-drop.ts";
import { readCubin } from "./cubin.ts";
import {
  discardImage,
  type Entry,
  entryHeader,
  imageOf,
  paddedTo8,
  type Source,
} from "./fatbin.ts";

/** What to do to the image of an entry. */
export interface EditOptions {
  /** Kernels that stay, with those they need; absent: all. */
  readonly kernels?: readonly string[];
  /** Level of zstd, 1 to 22; absent: images that kernels went from choose, others stay. */
  readonly recompress?: number;
}

/** An entry after an edit. */
export interface Edited {
  /** Header and padded image; absent: the entry stays as it is. */
  readonly content?: Uint8Array;
  /** Kernels that went. */
  readonly dropped: readonly string[];
}

/** Of zstd: 19 would make the images of PyTorch's libraries 7 % smaller, in 15 times the time. */
const level = 9;

/**
 * Takes kernels out of an entry's image, compresses it again, or both; what would not get smaller
 * stays. Packed images are read by drivers since 550.54 (CUDA 12.4).
 * @throws DebloatError when the image cannot be read
 */
export function editEntry(
  section: Source,
  entry: Entry,
  options: EditOptions,
  file: string,
): Edited {
  const image = imageOf(section, entry, file);
  if (image === undefined) return { dropped: [] };
  try {
    return editImage(image, section, entry, options, file);
  } finally {
    discardImage(entry, image);
  }
}

function editImage(
  image: Uint8Array,
  section: Source,
  entry: Entry,
  { kernels, recompress }: EditOptions,
  file: string,
): Edited {
  const wanted = new Set(kernels);
  const trimmed =
    kernels === undefined
      ? undefined
      : dropKernels(readCubin(image, file), (name) => wanted.has(name));
  const dropped = trimmed?.dropped ?? [];
  if (trimmed === undefined && recompress === undefined) return { dropped };
  const raw = trimmed?.image ?? image;
  const packed = packZstd(raw, recompress ?? level);
  const isPacked = packed.length < raw.length;
  const stored = isPacked ? packed : raw;
  if (paddedTo8(stored.length) >= entry.paddedBytes) return { dropped: [] };
  const header = entryHeader(section, entry, stored.length, raw.length, isPacked);
  const content = new Uint8Array(header.length + paddedTo8(stored.length));
  content.set(header);
  content.set(stored, header.length);
  return { content, dropped };
}
