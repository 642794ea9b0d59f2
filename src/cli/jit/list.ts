import { ImageCache } from "../../jit/cache.ts";
import { counted } from "../../shown.ts";

/** Lists the images of the kernel cache, those used longest ago first; returns the exit code. */
export function jitList(): number {
  const cache = new ImageCache();
  const images = cache.list();
  if (images === undefined) return 1;
  for (const { hash, label, bytes, used } of images) {
    const when = used.toISOString().slice(0, 16).replace("T", " ");
    const size = `${(bytes / 1000).toFixed(0)} kB`.padStart(8);
    const what = label ?? "damaged or foreign: compiled again when it is needed";
    process.stdout.write(`${hash.slice(0, 12)}  ${when}  ${size}  ${what}\n`);
  }
  const bytes = images.reduce((sum, image) => sum + image.bytes, 0);
  process.stdout.write(
    `${counted(images.length, "image")}, ${megabytes(bytes)} in ${cache.directory}\n`,
  );
  return 0;
}

/** Bytes as a person reads them. */
export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
