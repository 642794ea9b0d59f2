import { describe, expect, test } from "bun:test";
import { matrixOf } from "../../scripts/matrix.ts";
import { offerOf, sourcesOf } from "../../src/attention/families/resolve.ts";
import { families } from "../../src/attention/families/table.ts";
import { resolveOptions } from "../../src/attention/options.ts";
import { architectureFacts } from "../../src/jit/architectures.ts";
import { LibraryError } from "../../src/errors.ts";
import {
  type EmbeddedImage,
  embeddedImages,
  packImages,
  parseImages,
} from "../../src/jit/embedded.ts";
import { forSeeds } from "../support/random.ts";

function exampleImages(count: number): EmbeddedImage[] {
  return Array.from({ length: count }, (_, i) => ({
    hash: i.toString(16).padStart(64, "a"),
    label: `kernel ${i}, sm_90a ü`,
    bytes: new Uint8Array(i * 37).fill(i),
  }));
}

describe("the blob of embedded images", () => {
  test.each([0, 1, 2, 17])("gives back %i images", (count) => {
    const images = exampleImages(count);
    const parsed = parseImages(packImages(images));
    expect([...parsed.values()]).toEqual(images);
    expect([...parsed.keys()]).toEqual(images.map(({ hash }) => hash));
  });

  test("keeps images where code may lie", () => {
    const blob = packImages(exampleImages(9));
    for (const { bytes } of parseImages(blob).values()) expect(bytes.byteOffset % 64).toBe(0);
  });

  test("of a cut length is refused", () => {
    const blob = packImages(exampleImages(5));
    for (let length = 1; length < blob.length; length++)
      expect(() => parseImages(blob.subarray(0, length))).toThrow(LibraryError);
  });

  test("with any byte changed gives images in bounds or is refused", () => {
    const whole = packImages(exampleImages(3));
    forSeeds(3000, (random) => {
      const blob = whole.slice();
      blob[random.integer(0, Math.min(blob.length, 200) - 1)] = random.integer(0, 255);
      try {
        for (const { bytes } of parseImages(blob).values())
          expect(bytes.byteOffset + bytes.byteLength).toBeLessThanOrEqual(blob.length);
      } catch (error) {
        expect(error).toBeInstanceOf(LibraryError);
      }
    });
  });

  test("is read from the native library", () => {
    expect(embeddedImages().size).toBeGreaterThanOrEqual(0);
    expect(embeddedImages()).toBe(embeddedImages());
  });
});

test("the library's matrix has every kernel of an attention that it has", () => {
  const made = matrixOf("sm_90a").map(({ name: _, ...image }) => JSON.stringify(image));
  for (const headDim of [64, 128, 256, 512]) {
    const options = resolveOptions({ queryHeads: 32, kvHeads: 8, headDim, dtype: "bf16" });
    const offer = offerOf(families.cuda, architectureFacts("sm_90a"), options);
    for (const { image } of sourcesOf(offer)) expect(made).toContain(JSON.stringify(image));
  }
});
