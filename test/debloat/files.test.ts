/** Files that are put together from runs of others, on one file system and across two. */
import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hashFile, withOpened, writeAtomically } from "../../src/debloat/files.ts";
import { mapReadOnly } from "../../src/ffi/mapping.ts";
import { temporaryFolder } from "./support/make-library.ts";

const folder = temporaryFolder("files");
const source = join(folder, "source");
const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, at) => (at * at) >> 3));
writeFileSync(source, bytes);
const memory = existsSync("/dev/shm") ? mkdtempSync("/dev/shm/flashbun-files-") : folder;
afterAll(() => {
  for (const path of [folder, memory]) rmSync(path, { recursive: true, force: true });
});

test.each([
  ["the same file system", folder],
  // Between these a system copies nothing by itself.
  ["another", memory],
])("runs of a mapped file on %s", (_, place) => {
  const output = join(place, "output");
  let hash = "";
  withOpened(source, (descriptor) =>
    writeAtomically(output, 0o640, (writer) => {
      const mapped = { data: mapReadOnly(source), descriptor };
      writer.write(Buffer.from("head"));
      writer.copy(mapped, 4096, 200_000);
      writer.copy(mapped, 1, 3);
      writer.write(Buffer.from("tail"));
      writer.copy(mapped, 299_999, 1);
      writer.writeAt(1, Buffer.from("EA"));
      expect(writer.bytes).toBe(200_012);
      hash = writer.hash();
    }),
  );
  const middle = [bytes.subarray(4096, 204_096), bytes.subarray(1, 4)];
  const parts = [Buffer.from("hEAd"), ...middle, Buffer.from("tail"), bytes.subarray(299_999)];
  expect(Buffer.compare(readFileSync(output), Buffer.concat(parts))).toBe(0);
  expect(hash).toBe(hashFile(output));
});
