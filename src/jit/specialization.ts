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

/** Lines that expanding looks at: what is included, opens or ends a condition, or is a guard. */
const directive =
  /^[ \t]*#[ \t]*(?:include[ \t]+"([^"\n]+)"|(if)|(endif)|(pragma)[ \t]+once\b).*$/gm;
const macroName = /^[A-Za-z_]\w*$/;
/** Texts of a source around the place where a variant's text goes, if there is one. */
const around = new Map<string, readonly string[]>();
/** What stands for the files that a source is made of, and whether a variant's text is in them. */
const identities = new Map<string, { readonly digest: string; readonly takesVariant: boolean }>();
/** Of each set of files, by path, what a file includes, in its order, and the hash of its text. */
const factsBy = new WeakMap<Files, Map<string, FileFacts>>();
interface FileFacts {
  readonly included: readonly string[];
  readonly digest: string;
}
/** Changes with what expanding makes of the same files. */
const expandedForm = 1;
const variantFile = "attention/variant.h";
const variantHead = '#include "hooks.h"\n';
const variantPlace = "// the text of a variant";

/** One self-contained text: the constants as macros, then the source with its includes in place. */
export function expand({ source, constants, variant = plainVariant() }: Specialization): string {
  const place = `#line 1 "${variantFile}"\n${variant.trimEnd()}`;
  return `${macros(constants)}${aroundVariant(source).join(place)}\n`;
}

/**
 * What stands for that text where images are looked for: texts that differ have different ones. No
 * text is made for it.
 */
export function identify({ source, constants, variant = plainVariant() }: Specialization): string {
  const { digest, takesVariant } = identityOf(source);
  return `${macros(constants)}${digest}\n${takesVariant ? variant.trimEnd() : ""}`;
}

function macros(constants: Specialization["constants"]): string {
  const lines = Object.keys(constants)
    .sort()
    .map((name) => `#define ${name} ${requireConstant(name, constants[name])}\n`);
  return lines.join("");
}

/** Sources are expanded once, whatever variants follow. */
function aroundVariant(source: string): readonly string[] {
  let found = around.get(source);
  if (found === undefined) {
    const head = variantHead + variantPlace;
    const text = expandSource(source, { ...kernelSources(), [variantFile]: head });
    around.set(source, (found = text.split(variantPlace)));
  }
  return found;
}

function identityOf(source: string) {
  let found = identities.get(source);
  if (found === undefined) {
    const files = kernelSources();
    requireSource(source, files);
    const takesVariant = filesOf(source, files).has(variantFile);
    identities.set(source, (found = { digest: sourceDigest(source, files), takesVariant }));
  }
  return found;
}

/** Stands for all that a source is made of, in its order; a file is read once for all sources. */
export function sourceDigest(source: string, files: Files): string {
  const lines = [...filesOf(source, files)].map((path) => `${path} ${factsOf(path, files).digest}`);
  return sha256([expandedForm, ...lines].join("\n"));
}

/** A file and those that it includes, in the order in which they begin. */
function filesOf(path: string, files: Files, seen = new Set<string>()): Set<string> {
  seen.add(path);
  for (const at of factsOf(path, files).included) if (!seen.has(at)) filesOf(at, files, seen);
  return seen;
}

function factsOf(path: string, files: Files): FileFacts {
  let facts = factsBy.get(files);
  if (facts === undefined) factsBy.set(files, (facts = new Map()));
  let found = facts.get(path);
  if (found === undefined) {
    const text = files[path];
    const included = [...text.matchAll(directive)].flatMap(({ 1: named }) =>
      named === undefined ? [] : (resolveInclude(named, path, files) ?? []),
    );
    facts.set(path, (found = { included, digest: sha256(text) }));
  }
  return found;
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
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
  requireSource(source, files);
  return expandOnce(source, files, new Set());
}

function requireSource(source: string, files: Files): void {
  if (Object.hasOwn(files, source)) return;
  const near = Object.keys(files).filter((path) => path.endsWith(".cu"));
  throw new OptionError("source", source, `one of ${near.join(", ")}`, "name a kernel source.");
}

function expandOnce(source: string, files: Files, seen: Set<string>): string {
  seen.add(source);
  const text = files[source].trimEnd();
  let out = `#line 1 "${source}"\n`;
  let from = 0;
  let line = 1;
  let conditions = 0;
  for (const { 0: whole, 1: named, 2: opens, 3: closes, 4: guard, index } of text.matchAll(
    directive,
  )) {
    if (opens !== undefined) conditions++;
    if (closes !== undefined) conditions--;
    const path = named === undefined ? undefined : resolveInclude(named, source, files);
    if (path === undefined && guard === undefined) continue;
    const before = text.slice(from, index);
    out += before;
    line += before.split("\n").length - 1;
    from = index + whole.length;
    if (path === undefined) continue;
    // Taken once for all, an include under a condition could be missing where another needs it.
    if (conditions > 0) {
      const place = `${source}:${line}`;
      throw new OptionError("include", place, "outside of #if", "use #pragma once for guards.");
    }
    if (!seen.has(path)) out += `${expandOnce(path, files, seen)}\n`;
    out += `#line ${line + 1} "${source}"`;
  }
  return out + text.slice(from);
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
