import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import type { DeviceKind } from "../device/open.ts";
import { OptionError } from "../errors.ts";

/** Reads one option's text; throws an OptionError that names the option as it was typed. */
export type Parser<T> = (text: string) => T;

/** A whole number in [least, most]. */
export function integer(option: string, least: number, most = 0x7fffffff): Parser<number> {
  return (text) => {
    const value = /^-?\d+$/.test(text) ? Number(text) : NaN;
    if (value >= least && value <= most) return value;
    const fix = `give ${option} a whole number in that range.`;
    throw new OptionError(option, text, `an integer from ${least} to ${most}`, fix);
  };
}

/** A number above 0, at most `most`; `inf` too when `most` is Infinity. */
export function positive(option: string, most = Infinity): Parser<number> {
  return (text) => {
    if (most === Infinity && /^inf(inity)?$/i.test(text)) return Infinity;
    const value = /^[\d.]+(e[-+]?\d+)?$/i.test(text) ? Number(text) : NaN;
    if (value > 0 && value <= most && value !== Infinity) return value;
    const allowed = most === Infinity ? "a number above 0, or inf" : `above 0 and at most ${most}`;
    throw new OptionError(option, text, allowed, `give ${option} such a number.`);
  };
}

/** A whole number from 1, or `all`, which becomes Infinity. */
export function countOrAll(option: string): Parser<number> {
  const count = integer(option, 1);
  return (text) => {
    if (text === "all") return Infinity;
    if (/^-?\d+$/.test(text)) return count(text);
    throw new OptionError(option, text, "a whole number or all", `give ${option} 30, say.`);
  };
}

/** One of a few words. */
export function oneOf<T extends string>(option: string, words: readonly T[]): Parser<T> {
  return (text) => {
    const found = words.find((word) => word === text);
    if (found !== undefined) return found;
    throw new OptionError(option, text, `one of ${words.join(", ")}`, "pick one of them.");
  };
}

/** A device by its name. */
export const device: Parser<DeviceKind> = (text) => {
  if (/^(auto|cpu|cuda:\d{1,3})$/.test(text)) return text as DeviceKind;
  throw new OptionError("--device", text, "cpu, auto or cuda:0", "name one of them.");
};

/** Words between commas, at least one. */
export const list: Parser<string[]> = (text) => text.split(",").map((word) => word.trim());

/**
 * Folders of adapters by name, each given as NAME=FOLDER, or as FOLDER under its own name; `most`
 * of them.
 */
export function adapterFolders(option: string, most = Infinity) {
  return (text: string, before: Readonly<Record<string, string>> = {}): Record<string, string> => {
    const [, given, folder] = /^(?:([^=/]+)=)?(.+)$/s.exec(text) ?? [];
    const name = given ?? basename(folder ?? "");
    if (name === "" || name in before) {
      const allowed = "NAME=FOLDER, each name once";
      throw new OptionError(option, text, allowed, `give ${option} another name.`);
    }
    if (Object.keys(before).length === most)
      throw new OptionError(option, text, "given once", `leave out all ${option} but one.`);
    if (!existsSync(join(folder, "adapter_config.json"))) {
      const allowed = `${most === 1 ? "FOLDER" : "NAME=FOLDER"} with adapter_config.json in it`;
      throw new OptionError(option, text, allowed, "give the folder in which PEFT saved it.");
    }
    return { ...before, [name]: folder };
  };
}

/** An address of a server, with its scheme. */
export const serverUrl: Parser<string> = (text) => {
  if (/^https?:\/\//i.test(text) && URL.canParse(text)) return text;
  const host = text.replace(/^\w*:?\/\//, "").replace(/(\/v1)?\/*$/, "");
  const guess = `http://${host}/v1`;
  const fix = host !== "" && URL.canParse(guess) ? guess : "http://127.0.0.1:8000/v1, say";
  throw new OptionError("--url", text, "a URL with http:// or https://", `give ${fix}.`);
};

/** A regular expression of JavaScript. */
export function pattern(option: string): Parser<RegExp> {
  return (text) => {
    try {
      return new RegExp(text);
    } catch {
      const fix = "escape what is meant as it is written, such as \\( for a bracket.";
      throw new OptionError(option, text, "a regular expression", fix);
    }
  };
}
