import { ImageCache } from "../../jit/cache.ts";
import { megabytes } from "./list.ts";

/** Removes the images of the kernel cache; returns the exit code. */
export function jitClear(): number {
  const cache = new ImageCache();
  const removed = cache.clear();
  if (removed === undefined) return 1;
  const { images, bytes } = removed;
  process.stdout.write(`removed ${images} images, ${megabytes(bytes)} from ${cache.directory}\n`);
  return 0;
}
