import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const dumped = new Set<string>();

/**
 * Writes a generated text into the folder that FLASHBUN_DUMP names, once each; without it nothing.
 * `name` may be a path of a source: attention/tiled/decode.cu becomes
 * attention-tiled-decode.<hash>.cu.
 */
export function dumpSource(name: string, text: string): void {
  const { FLASHBUN_DUMP } = process.env;
  if (!FLASHBUN_DUMP) return;
  const [, stem, suffix] = /^(.*?)(\.\w+)?$/.exec(name.replace(/[^\w.]+/g, "-"))!;
  const hash = new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, 12);
  const path = join(FLASHBUN_DUMP, `${stem}.${hash}${suffix ?? ".txt"}`);
  if (dumped.has(path)) return;
  dumped.add(path);
  try {
    mkdirSync(FLASHBUN_DUMP, { recursive: true });
    writeFileSync(path, text);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    process.emitWarning(`FLASHBUN_DUMP=${FLASHBUN_DUMP} cannot be written (${code})`, {
      type: "FlashbunWarning",
      code: "FLASHBUN_DUMP",
    });
  }
}
