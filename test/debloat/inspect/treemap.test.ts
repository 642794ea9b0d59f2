import { expect, test } from "bun:test";
import type { ContainerFigures, Inspection } from "../../../src/debloat/inspect/inspect.ts";
import { type Area, areaOf, treemapPage } from "../../../src/debloat/inspect/treemap.ts";
import { seeded } from "../../support/random.ts";

/** A library with more images and kernels than are shown one by one. */
function library(): Inspection {
  const random = seeded(1);
  const containers = Array.from({ length: 400 }, (_, n): ContainerFigures => {
    const images = ["sm_80", "sm_90"].map((arch) => {
      const kernels = random.integer(0, 12);
      const names = Array.from({ length: Math.min(8, kernels) }, (_, k) => ({
        name: `_ZN2at6native6kernel${k}IfEEvPf</script>`,
        bytes: random.integer(1, 900),
      }));
      const bytes = random.integer(200, 9000);
      const image = { arch, kind: "cubin", compression: "zstd", bytes, rawBytes: 10 * bytes };
      return { ...image, kernels, kernelNames: names };
    });
    return { section: ".nv_fatbin", offset: n, bytes: 0, pointers: 1, isLoose: false, images };
  });
  const fatbin = containers.flatMap(({ images }) => images).reduce((sum, i) => sum + i.bytes, 0);
  const sections = [
    { name: ".nv_fatbin", bytes: fatbin + 400 * 16, part: "fat binaries" },
    { name: ".text", bytes: 50_000, part: "host code" },
  ];
  const bytes = sections.reduce((sum, section) => sum + section.bytes, 0);
  return {
    file: "/somewhere/libmade.so",
    bytes,
    buildId: "ab12",
    shrunkFrom: null,
    sections,
    archs: [],
    containers,
    opaque: [],
    symbols: [],
    functions: { count: 1, bytes: 1, textBytes: 1 },
    savings: [{ option: "--strip", bytes: 5, isBound: false }],
  };
}

function visit(area: Area, each: (area: Area) => void): void {
  each(area);
  for (const inner of area.inside ?? []) visit(inner, each);
}

test("no area is smaller than what it holds, and nothing is left out", () => {
  const inspection = library();
  const root = areaOf(inspection);
  let areas = 0;
  visit(root, (area) => {
    areas++;
    const held = (area.inside ?? []).reduce((sum, { bytes }) => sum + bytes, 0);
    expect(held).toBeLessThanOrEqual(area.bytes + 8);
  });
  expect(root.inside!.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(inspection.bytes);
  const fatbin = root.inside![0];
  const images = fatbin.inside!.reduce((sum, { bytes }) => sum + bytes, 0);
  expect(images).toBe(fatbin.bytes - 400 * 16);
  for (const arch of fatbin.inside!) {
    expect(arch.inside!.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(arch.bytes);
    expect(arch.inside!.at(-1)).toMatchObject({ name: "240 smaller images", isRest: true });
  }
  expect(areas).toBeLessThan(2000);
});

test("the page holds the data and nothing that could leave it", async () => {
  const page = await treemapPage([library(), library()]);
  const data = /const libraries = (\[.*\]);\n/.exec(page)![1];
  const parsed = JSON.parse(data) as { area: Area; buildId: string }[];
  expect(parsed.map(({ area, buildId }) => [area.name, buildId])).toEqual([
    ["libmade.so", "ab12"],
    ["libmade.so", "ab12"],
  ]);
  expect(page.match(/<\/script>/g)).toHaveLength(1);
  expect(page).not.toMatch(/(src|href)="(http|\/)/);
  expect(page).toContain("at::native::kernel");
});
