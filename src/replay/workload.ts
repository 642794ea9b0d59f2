import { OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";
import { Random } from "./random.ts";
import { tokenOf } from "./tokens.ts";
import type { ReplayRequest } from "./types.ts";

/** What the generator makes; lengths are in tokens. */
export interface WorkloadOptions {
  requests: number;
  /** Requests per second, arriving as a Poisson process; Infinity: all at 0. */
  rate?: number;
  /** How prompt and output lengths spread around their means. */
  lengths?: "log-normal" | "zipf";
  /** Mean of a prompt without its system prompt. */
  promptMean?: number;
  outputMean?: number;
  /** System prompts to choose from, the first most often; 0: none. */
  systemPrompts?: number;
  /** Length of a system prompt; each is up to a quarter shorter or longer. */
  systemTokens?: number;
  seed?: number;
}

/** Defaults of the generator: chat over a few shared system prompts. */
export const workloadDefaults = {
  rate: Infinity,
  lengths: "log-normal" as "log-normal" | "zipf",
  promptMean: 200,
  outputMean: 60,
  systemPrompts: 4,
  systemTokens: 128,
  seed: 1,
};

/** No length is beyond this many times its mean, so one request does not hold a run. */
const spreadMax = 12;

/**
 * Makes a workload: seeded, so the same options give the same requests, in order of arrival.
 * @throws OptionError for options outside their range
 */
export function generateWorkload(options: WorkloadOptions): ReplayRequest[] {
  const settings = { ...workloadDefaults, ...definedOf(options) };
  requireSettings(settings);
  const random = new Random(settings.seed);
  const systems = Array.from({ length: settings.systemPrompts }, (_, i) => {
    const length = Math.max(1, Math.round(settings.systemTokens * (0.75 + 0.5 * random.uniform())));
    return Int32Array.from({ length }, (_, at) => tokenOf(-1 - i - settings.seed * 1024, at));
  });
  const draw = settings.lengths === "zipf" ? zipf : logNormal;
  const requests: ReplayRequest[] = [];
  let now = 0;
  for (let id = 0; id < settings.requests; id++) {
    if (id > 0 && settings.rate !== Infinity) now += random.exponential(settings.rate);
    const system =
      systems.length === 0 ? new Int32Array(0) : systems[ranked(random, systems.length)];
    const own = draw(random, settings.promptMean);
    const promptTokens = new Int32Array(system.length + own);
    promptTokens.set(system);
    for (let i = 0; i < own; i++)
      promptTokens[system.length + i] = tokenOf(settings.seed * 65_537 + id, i);
    const outputTokens = draw(random, settings.outputMean);
    requests.push({ id, arrivalSeconds: now, promptTokens, outputTokens });
  }
  return requests;
}

type Settings = Required<WorkloadOptions>;

function definedOf(options: WorkloadOptions): WorkloadOptions {
  const defined = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(defined) as unknown as WorkloadOptions;
}

function requireSettings(settings: Settings): void {
  requireInteger("requests", settings.requests, 1, 1_000_000);
  requireInteger("promptMean", settings.promptMean, 1, 1 << 20);
  requireInteger("outputMean", settings.outputMean, 1, 1 << 20);
  requireInteger("systemPrompts", settings.systemPrompts, 0, 1024);
  requireInteger("systemTokens", settings.systemTokens, 1, 1 << 20);
  requireInteger("seed", settings.seed, 0, 0x7fffffff);
  const { rate, lengths } = settings;
  if (!(rate > 0)) {
    const fix = "give requests per second, or inf for all at once.";
    throw new OptionError("rate", rate, "a number above 0", fix);
  }
  if (lengths !== "log-normal" && lengths !== "zipf")
    throw new OptionError("lengths", lengths, '"log-normal" or "zipf"', "pick one of the two.");
}

/** Most near half the mean, a tail of several times it: how chat traces look. */
function logNormal(random: Random, mean: number): number {
  const sigma = 0.9;
  const value = Math.exp(Math.log(mean) - (sigma * sigma) / 2 + sigma * random.normal());
  return Math.min(Math.max(1, Math.round(value)), mean * spreadMax);
}

/** A power law cut at both ends: many short lengths and a few very long ones. */
function zipf(random: Random, mean: number): number {
  const least = mean / 4;
  const most = mean * spreadMax;
  // Density ~ length^-1.99 on [mean / 4, 12 mean], which has this mean.
  const power = zipfExponent - 1;
  const low = least ** -power;
  const value = (low - random.uniform() * (low - most ** -power)) ** (-1 / power);
  return Math.max(1, Math.round(value));
}

const zipfExponent = 1.9886;

/** Rank i with weight 1 / (i + 1). */
function ranked(random: Random, count: number): number {
  let total = 0;
  for (let i = 0; i < count; i++) total += 1 / (i + 1);
  let left = random.uniform() * total;
  for (let i = 0; i < count; i++) {
    left -= 1 / (i + 1);
    if (left < 0) return i;
  }
  return count - 1;
}
