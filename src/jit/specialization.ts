import { createHash } from "node:crypto";
import { posix } from "node:path";
import { OptionError } from "../errors.ts";

/** A kernel source with its constants: what one image is compiled from. */
export interface Specialization {
  /** Path below kernels/, such as "page/append.cu". */
  readonly source: string;
  /** Macros that are defined before the source, by name. */
  readonly constants: Readonly<Record<string, number | string>>;
  /** Text that replaces what attention/variant.h holds after its includes. */
  readonly variant?: string | undefined;
}

/** Flags that change what a compiler makes of a text; nvcc, NVRTC and the host's C++ share them. */
export const languageFlags: readonly string[] = ["-std=c++20"];

type Files = Readonly<Record<string, string>>;

const include = /^[ \t]*#[ \t]*include[ \t]+"([^"\n]+)".*$/;
const opensCondition = /^[ \t]*#[ \t]*if/;
const closesCondition = /^[ \t]*#[ \t]*endif/;
const pragmaOnce = /^[ \t]*#[ \t]*pragma[ \t]+once\b/;
const macroName = /^[A-Za-z_]\w*$/;
/** Texts of a source around the place where a variant's text goes, if there is one. */
interface Around {
  readonly parts: readonly string[];
  /** Their hash: a text of 100 KB and more is hashed once, whatever variants follow. */
  readonly digest: string;
}
const around = new Map<string, Around>();
const variantFile = "attention/variant.h";
const variantHead = '#include "hooks.h"\n';
const variantPlace = "// the text of a variant";

/** One self-contained text: the constants as macros, then the source with its includes in place. */
export function expand({ source, constants, variant = plainVariant() }: Specialization): string {
  const place = `#line 1 "${variantFile}"\n${variant.trimEnd()}`;
  return `${macros(constants)}${aroundVariant(source).parts.join(place)}\n`;
}

/** What stands for that text where images are looked for: texts differ if and only if these do. */
export function identify({ source, constants, variant = plainVariant() }: Specialization): string {
  const { parts, digest } = aroundVariant(source);
  return `${macros(constants)}${digest}\n${parts.length > 1 ? variant.trimEnd() : ""}`;
}

function macros(constants: Specialization["constants"]): string {
  const lines = Object.keys(constants)
    .sort()
    .map((name) => `#define ${name} ${requireConstant(name, constants[name])}\n`);
  return lines.join("");
}

/** Sources are expanded once, whatever variants follow. */
function aroundVariant(source: string): Around {
  let found = around.get(source);
  if (found === undefined) {
    const head = variantHead + variantPlace;
    const text = expandSource(source, { ...kernelSources(), [variantFile]: head });
    const digest = createHash("sha256").update(text).digest("hex");
    around.set(source, (found = { parts: text.split(variantPlace), digest }));
  }
  return found;
}

/** The text that the file itself has in a variant's place. */
function plainVariant(): string {
  return kernelSources()[variantFile].split(variantHead)[1].trim();
}

/** Text of every file below kernels/, read when the first kernel is asked for. */
export function kernelSources(): Files {
  return (require("./sources.gen.ts") as typeof import("./sources.gen.ts")).sources;
}

/** A source with each include of another kernel source in place, once; foreign includes stay. */
export function expandSource(source: string, files: Files): string {
  if (!Object.hasOwn(files, source)) {
    const near = Object.keys(files).filter((path) => path.endsWith(".cu"));
    throw new OptionError("source", source, `one of ${near.join(", ")}`, "name a kernel source.");
  }
  return expandOnce(source, files, new Set());
}

function expandOnce(source: string, files: Files, seen: Set<string>): string {
  seen.add(source);
  const out = [`#line 1 "${source}"`];
  let conditions = 0;
  for (const [at, line] of files[source].trimEnd().split("\n").entries()) {
    if (!line.includes("#")) {
      out.push(line);
      continue;
    }
    if (opensCondition.test(line)) conditions++;
    if (closesCondition.test(line)) conditions--;
    const named = include.exec(line)?.[1];
    const path = named === undefined ? undefined : resolveInclude(named, source, files);
    if (path === undefined) {
      out.push(pragmaOnce.test(line) ? "" : line);
      continue;
    }
    // Taken once for all, an include under a condition could be missing where another needs it.
    if (conditions > 0) {
      const place = `${source}:${at + 1}`;
      throw new OptionError("include", place, "outside of #if", "use #pragma once for guards.");
    }
    if (!seen.has(path)) out.push(expandOnce(path, files, seen));
    out.push(`#line ${at + 2} "${source}"`);
  }
  return out.join("\n");
}

/** Looks beside the including file, then from kernels/. */
function resolveInclude(named: string, source: string, files: Files): string | undefined {
  const beside = posix.normalize(posix.join(posix.dirname(source), named));
  return [beside, posix.normalize(named)].find((path) => Object.hasOwn(files, path));
}

function requireConstant(name: string, value: number | string): number | string {
  if (!macroName.test(name))
    throw new OptionError("constant", name, "the name of a macro", "use letters, digits and _.");
  const plain = typeof value === "number" ? Number.isFinite(value) : !/[\n\\]/.test(value);
  if (!plain)
    throw new OptionError(name, value, "a finite number or one line of text", "pass one of these.");
  return value;
}

/** The hash by which an image is found, 64 hexadecimal digits; `text`: what `identify` gives. */
export function imageHash(text: string, architecture: string, compiler: string): string {
  const digest = createHash("sha256");
  for (const part of [text, architecture, languageFlags.join(" "), compiler])
    digest.update(`${Buffer.byteLength(part)}:`).update(part);
  return digest.digest("hex");
}

/** A specialisation as messages show it: "page/append.cu (FB_HEAD_DIM=128)". */
export function describeSpecialization({ source, constants, variant }: Specialization): string {
  const list = Object.keys(constants)
    .sort()
    .map((name) => `${name}=${constants[name]}`);
  if (variant !== undefined) list.push("hooks of a variant");
  return list.length === 0 ? source : `${source} (${list.join(", ")})`;
}
