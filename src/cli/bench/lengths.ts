import { OptionError } from "../../errors.ts";
import type { Random } from "../../replay/random.ts";

/** Draws numbers of tokens. */
export interface Lengths {
  /** As it was typed. */
  readonly name: string;
  readonly most: number;
  draw(random: Random): number;
}

/** Means of the prompts and outputs that serving benchmarks take from ShareGPT, and their most. */
const shareGpt = { prompt: 227, output: 188, most: 1024 };
/** Of the logarithm: most lengths near half the mean, and a long tail. */
const sigma = 1;
const lengthMost = 1 << 20;

/**
 * Reads lengths: `512`, `512-2048` for any in that range alike, or `sharegpt` for a log-normal draw
 * with the means of ShareGPT. Errors: OptionError.
 */
export function lengthsOf(option: string, kind: "prompt" | "output", text: string): Lengths {
  if (text === "sharegpt") {
    const mean = shareGpt[kind];
    const middle = Math.log(mean) - (sigma * sigma) / 2;
    const draw = (random: Random) => {
      const length = Math.round(Math.exp(middle + sigma * random.normal()));
      return Math.min(shareGpt.most, Math.max(4, length));
    };
    return { name: text, most: shareGpt.most, draw };
  }
  const [, from, to = from] = /^(\d{1,7})(?:-(\d{1,7}))?$/.exec(text) ?? [];
  const [least, most] = [Number(from), Number(to)];
  if (least >= 1 && most >= least && most <= lengthMost)
    return { name: text, most, draw: (random) => least + random.below(most - least + 1) };
  const allowed = `a number of tokens up to ${lengthMost}, a range such as 512-2048, or sharegpt`;
  throw new OptionError(option, text, allowed, "give 512, say.");
}
