import { InputError } from "../../errors.ts";
import { requireText } from "../../require.ts";
import type { Profile } from "./profile.ts";
import { Misfit, readProfile, requireProfile } from "./read.ts";

/**
 * Reads the JSON text of a profile; lists come out sorted, whatever order they had.
 * @param source name of the file, for errors
 * @throws InputError naming the file, the place in it and what is allowed there
 */
export function parseProfile(text: string, source: string): Profile {
  requireText("text", text);
  requireText("source", source);
  try {
    return readProfile(parseJson(text));
  } catch (cause) {
    if (!(cause instanceof Misfit)) throw cause;
    const fix = "give a profile that `flashbun debloat trace` wrote, or trace again.";
    throw new InputError(source, undefined, cause.message, fix);
  }
}

/** The JSON text of a profile, one line per library: two profiles can be compared as text. */
export function formatProfile(profile: Profile): string {
  requireProfile("profile", profile);
  const libraries = Object.entries(profile.libraries)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([id, library]) => `    ${JSON.stringify(id)}: ${JSON.stringify(library)}`);
  return [
    "{",
    `  "version": ${profile.version},`,
    `  "runs": ${block(
      profile.runs.map((run) => `    ${JSON.stringify(run)}`),
      "[",
      "]",
    )},`,
    `  "libraries": ${block(libraries, "{", "}")},`,
    `  "unresolved": ${JSON.stringify(profile.unresolved)}`,
    "}\n",
  ].join("\n");
}

function block(lines: readonly string[], open: string, close: string): string {
  return lines.length === 0 ? `${open}${close}` : `${open}\n${lines.join(",\n")}\n  ${close}`;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Misfit(`it is not JSON (${(cause as Error).message})`);
  }
}
