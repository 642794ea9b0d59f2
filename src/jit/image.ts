import { ImageCache } from "./cache.ts";
import { compile, compileAllSync, compileSync } from "./compile.ts";
import { dumpSource } from "./dump.ts";
import { embeddedImages } from "./embedded.ts";
import { emulatedCompiler } from "./emulated.ts";
import { findNvrtc, pinnedVersion } from "./nvrtc.ts";
import {
  describeSpecialization,
  expand,
  identify,
  imageHash,
  type Specialization,
} from "./specialization.ts";
import { emulated, type Target } from "./target.ts";

/** Code of one specialisation that a device can load. */
export interface Image {
  readonly hash: string;
  readonly architecture: string;
  readonly bytes: Uint8Array;
  readonly origin: "embedded" | "cached" | "compiled";
}

const known = new Map<string, Image>();
const underWay = new Map<string, Promise<Image>>();
let cache: ImageCache | undefined;

/** The image of a specialisation: embedded, cached on disk, or compiled now and cached. */
export async function imageOf(specialization: Specialization, target: Target): Promise<Image> {
  const { identity, found } = sought(specialization, target);
  if (found !== undefined) return found;
  const { architecture, hash } = ownName(identity, target);
  let work = underWay.get(hash);
  if (work === undefined) {
    work = compileAndKeep(specialization, architecture, hash);
    underWay.set(hash, work);
    void work.finally(() => underWay.delete(hash)).catch(() => {});
  }
  return work;
}

/** The image where it is embedded, cached or already compiled; never compiles. */
export function imageNow(specialization: Specialization, target: Target): Image | undefined {
  return sought(specialization, target).found;
}

/** As imageOf, but what has to be compiled is compiled while this thread waits. */
export function imageSync(specialization: Specialization, target: Target): Image {
  const { identity, found } = sought(specialization, target);
  if (found !== undefined) return found;
  const { architecture, hash } = ownName(identity, target);
  const bytes = compileSync(specialization, expand(specialization), architecture);
  return keep(specialization, architecture, hash, bytes);
}

/** As imageSync, of several: the emulated GPU's are compiled beside each other. */
export function imagesSync(list: readonly Specialization[], target: Target): Image[] {
  const [architecture] = target.architectures;
  if (architecture !== emulated) return list.map((each) => imageSync(each, target));
  const all = list.map((specialization) => {
    const { identity, found } = sought(specialization, target);
    return { specialization, found, hash: ownName(identity, target).hash };
  });
  const missing = [
    ...new Map(all.flatMap((each) => (each.found ? [] : [[each.hash, each]]))).values(),
  ];
  const texts = missing.map(({ specialization }) => ({
    specialization,
    text: expand(specialization),
  }));
  const images = Array.from(compileAllSync(texts), (bytes, i) =>
    keep(missing[i].specialization, architecture, missing[i].hash, bytes),
  );
  return all.map(({ found, hash }) => found ?? images.find((image) => image.hash === hash)!);
}

/** What the image is named after, and the image where there is one already. */
function sought(specialization: Specialization, target: Target) {
  if (process.env["FLASHBUN_DUMP"]) dumpSource(specialization.source, expand(specialization));
  const identity = identify(specialization);
  return { identity, found: find(identity, target) };
}

/** What an image that is compiled here is for, and its hash. */
function ownName(identity: string, { architectures: [architecture] }: Target) {
  return { architecture, hash: imageHash(identity, architecture, compilerOf(architecture)) };
}

async function compileAndKeep(
  specialization: Specialization,
  architecture: string,
  hash: string,
): Promise<Image> {
  const bytes = await compile(specialization, expand(specialization), architecture);
  return keep(specialization, architecture, hash, bytes);
}

function keep(
  specialization: Specialization,
  architecture: string,
  hash: string,
  bytes: Uint8Array,
): Image {
  diskCache().write(hash, bytes, `${architecture} ${describeSpecialization(specialization)}`);
  return remember({ hash, architecture, bytes, origin: "compiled" });
}

function find(identity: string, { architectures }: Target): Image | undefined {
  for (const architecture of architectures) {
    // What was compiled ahead of time serves whatever compiler this machine has.
    const image = lookUp(identity, architecture, pinnedCompiler);
    if (image !== undefined) return image;
    const compiler = compilerOf(architecture);
    const own = compiler === pinnedCompiler ? undefined : lookUp(identity, architecture, compiler);
    if (own !== undefined) return own;
  }
  return undefined;
}

function lookUp(identity: string, architecture: string, compiler: string): Image | undefined {
  const hash = imageHash(identity, architecture, compiler);
  return known.get(hash) ?? load(hash, architecture);
}

function load(hash: string, architecture: string): Image | undefined {
  const embedded = embeddedImages().get(hash)?.bytes;
  const bytes = embedded ?? diskCache().read(hash);
  if (bytes === undefined) return undefined;
  return remember({ hash, architecture, bytes, origin: embedded ? "embedded" : "cached" });
}

/** Images that this process remembers, those of variants that it defines again and again too. */
const knownMost = 512;

function remember(image: Image): Image {
  known.set(image.hash, image);
  if (known.size > knownMost) known.delete(known.keys().next().value!);
  return image;
}

/** nvcc and NVRTC of one version share one name: they hold the same compiler. */
export const pinnedCompiler = `cuda-${pinnedVersion}`;

function compilerOf(architecture: string): string {
  if (architecture === emulated) return emulatedCompiler();
  return `cuda-${findNvrtc().found?.version ?? pinnedVersion}`;
}

function diskCache(): ImageCache {
  return (cache ??= new ImageCache());
}
