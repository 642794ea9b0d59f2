/** A page that shows libraries as areas: sections, architectures, images, kernels. */
import { basename, resolve } from "node:path";
import { OptionError } from "../../errors.ts";
import pageFile from "./treemap.html" with { type: "file" };
// @ts-expect-error a script for browsers, without types
import codeFile from "./treemap-page.js" with { type: "file" };
import type { ContainerFigures, ImageFigures, Inspection, Saving } from "./inspect.ts";

/** A rectangle: its name, its bytes, what it is, and what is inside. */
export interface Area {
  name: string;
  bytes: number;
  part: string;
  /** A second line. */
  note?: string;
  /** Whether it represents several that are too small to be shown. */
  isRest?: boolean;
  inside?: Area[];
}

/** Images of an architecture that are shown one by one. */
const imagesShown = 160;
/** Of those, the ones whose kernels are shown. */
const imagesOpened = 60;

/**
 * The page, which needs no other file and no network.
 * @param inspections libraries, each a map of its own
 */
export async function treemapPage(inspections: readonly Inspection[]): Promise<string> {
  if (!Array.isArray(inspections) || !inspections.every(isInspection))
    throw new OptionError("inspections", inspections, "a list", "pass what inspectLibrary gave.");
  const [template, script] = await Promise.all([pageFile, codeFile].map(textOf));
  const libraries = inspections.map((inspection) => ({
    area: areaOf(inspection),
    buildId: inspection.buildId,
    savings: inspection.savings.filter(({ bytes }: Saving) => bytes > 0),
  }));
  // Inside a script, "</" would end it.
  const data = JSON.stringify(libraries).replaceAll("</", "<\\/");
  return template.replace("/*{script}*/", () => script).replace("/*{libraries}*/ []", () => data);
}

/** Imported as files, so that bundles have them; types of imports do not know that. */
function textOf(file: unknown): Promise<string> {
  return Bun.file(resolve(import.meta.dir, String(file))).text();
}

function isInspection(value: Partial<Inspection> | undefined): boolean {
  const { file, sections, containers, savings } = value ?? {};
  return typeof file === "string" && [sections, containers, savings].every(Array.isArray);
}

/** A library as nested areas. */
export function areaOf({ file, bytes, sections, containers }: Inspection): Area {
  const inside = sections.map(({ name, bytes: held, part }): Area => {
    const hasCode = part.includes("fat binaries");
    const here = hasCode ? containers.filter(({ section }) => section === name) : [];
    return { name, bytes: held, part, ...(here.length === 0 ? {} : { inside: archAreas(here) }) };
  });
  return { name: basename(file), bytes, part: "file", inside };
}

function archAreas(containers: readonly ContainerFigures[]): Area[] {
  const byArch = new Map<string, ImageFigures[]>();
  for (const image of containers.flatMap(({ images }) => images)) {
    const known = byArch.get(image.arch);
    if (known === undefined) byArch.set(image.arch, [image]);
    else known.push(image);
  }
  return [...byArch]
    .map(([arch, images]): Area => {
      const bytes = images.reduce((sum, image) => sum + image.bytes, 0);
      const kernels = images.reduce((sum, image) => sum + image.kernels, 0);
      const note = `${images.length} images, ${kernels} kernels`;
      return { name: arch, bytes, part: arch, note, inside: imageAreas(arch, images) };
    })
    .sort((a, b) => b.bytes - a.bytes);
}

function imageAreas(arch: string, images: readonly ImageFigures[]): Area[] {
  const sorted = [...images].sort((a, b) => b.bytes - a.bytes);
  const shown = sorted.slice(0, imagesShown).map((image, place): Area => {
    const { bytes, kernels, kernelNames, compression, rawBytes } = image;
    const packing =
      compression === "none" ? "stored as it is" : `${compression}, ${rawBytes} unpacked`;
    const name = kernelNames[0]?.name ?? "no kernels";
    const area = { name: readable(name), bytes, part: arch };
    const note = `${kernels} kernels; ${packing}`;
    const isOpened = kernels > 1 && place < imagesOpened;
    return { ...area, note, ...(isOpened ? { inside: kernelAreas(arch, image) } : {}) };
  });
  const rest = sorted.slice(imagesShown);
  if (rest.length === 0) return shown;
  const bytes = rest.reduce((sum, image) => sum + image.bytes, 0);
  return [...shown, { name: `${rest.length} smaller images`, bytes, part: arch, isRest: true }];
}

/** Kernels share the bytes that their image is packed to. */
function kernelAreas(
  arch: string,
  { bytes, kernels, kernelNames, rawBytes }: ImageFigures,
): Area[] {
  const packed = (raw: number) => Math.round((bytes * raw) / Math.max(1, rawBytes));
  const shown = kernelNames.map((kernel): Area => {
    const note = `${kernel.bytes} bytes unpacked`;
    return { name: readable(kernel.name), bytes: packed(kernel.bytes), part: arch, note };
  });
  const rest = bytes - shown.reduce((sum, area) => sum + area.bytes, 0);
  const more = kernels - shown.length;
  const name = more > 0 ? `${more} smaller kernels, shared tables` : "shared tables";
  return rest > 0 ? [...shown, { name, bytes: rest, part: arch, isRest: true }] : shown;
}

/**
 * The nested name of a mangled one, without its types: _ZN2at6native3fooIfEEvv is at::native::foo.
 */
function readable(name: string): string {
  const words: string[] = [];
  let rest = /^_Z(?:L|NK?)?/.exec(name);
  let at = rest?.[0].length ?? name.length;
  while ((rest = /^(?:S[ta]|L)?(\d+)/.exec(name.slice(at, at + 12))) !== null) {
    const start = at + rest[0].length;
    at = start + Number(rest[1]);
    words.push(name.slice(start, at));
  }
  // Names of a file's own namespace begin like this.
  const spoken = words.filter(
    (word) => !word.startsWith("_GLOBAL__N") && !/_cu_[0-9a-f]{8}/.test(word),
  );
  const full = spoken.length === 0 ? name : spoken.join("::");
  return full.length > 120 ? `${full.slice(0, 117)}...` : full;
}
