import { ImageCache } from "../../jit/cache.ts";
import { counted } from "../../shown.ts";
import { megabytes } from "./list.ts";

/** Removes the images of the kernel cache; returns the exit code. */
export function jitClear(): number {
  const cache = new ImageCache();
  const removed = cache.clear();
  if (removed === undefined) return 1;
  const { images, bytes } = removed;
  const removedImages = `${counted(images, "image")}, ${megabytes(bytes)}`;
  process.stdout.write(`removed ${removedImages} from ${cache.directory}\n`);
  return 0;
}
