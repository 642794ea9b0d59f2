import { markdown, wrapped } from "./page.ts";
import type { Results } from "./serving.ts";
import { parallelLoads, scheduledLoads } from "../serving/rows.ts";
import { scheduledPaper, type ServingResult } from "./serving-rows.ts";

const heading = "## Serving";

/** The page of kernel tables with the serving tables, of results that are there, at its end. */
export function withServing(page: string, results: Results): string {
  const parts = [kernelsOf(page).trimEnd(), ...servingParts(results)];
  return `${parts.join("\n\n")}\n`;
}

/** A page without its serving tables. */
export function kernelsOf(page: string): string {
  const at = page.indexOf(`\n${heading}`);
  return at < 0 ? page : page.slice(0, at + 1);
}

/** The serving tables of a page. */
export function servingOf(page: string): string {
  return page.slice(kernelsOf(page).length);
}

function servingParts(results: Results): string[] {
  const all = Object.values(results);
  if (all.length === 0) return [];
  const days = [...new Set(all.map(({ day }) => day))].sort().join(", ");
  const seconds = all.map((each) => each.seconds).sort((a, b) => a - b);
  const machines = [...new Set(all.map(({ machine }) => machine))].join("; ");
  return [
    heading,
    wrapped(
      "`bun run bench:paper --serving`: Llama 3.1 8B's shape with random weights in f16 by " +
        "`flashbun/engine` in one process, lengths of ShareGPT as log-normal draws of its means " +
        "(227 in, 188 out, at most 1024), arrivals by chance, answers of fixed lengths, greedy. " +
        "The paper served real weights and texts by SGLang 0.3.4 (Figure 10 by MLC-Engine) over " +
        "HTTP on an H100. Times are at the client in ms; ITL is the time between tokens, TTFT " +
        `that to the first. A row begins with an idle engine and ends after ${seconds[0]} to ` +
        `${seconds.at(-1)} s, whoever still runs (\`--seconds\`).`,
    ),
    `Measured on ${days}: ${machines}.`,
    ...scheduledPart(results),
    ...parallelPart(results),
    ...ratePart(results),
  ];
}

function scheduledPart(results: Results): string[] {
  const rows = scheduledLoads.flatMap(({ name }, i) => {
    const [on, off] = [results[`g3/on/${name}`], results[`g3/off/${name}`]];
    if (on === undefined) return [];
    const [paperOn, paperOff] = scheduledPaper[i];
    const paper = [paperOn, paperOff].map((ms) => ms.toFixed(2));
    return [[name, ...paper, times(paperOff / paperOn), ...pair(on, off)]];
  });
  if (rows.length === 0) return [];
  const heads = ["Load", "FlashInfer's ITL", "no scheduler", "ratio", "flashbun's ITL, p50"];
  const own = ["no planner", "ratio", "TTFT, p50", "no planner"];
  return [
    "### G.3, the scheduler on and off",
    markdown([...heads, ...own], rows),
    wrapped(
      "- Without its planner, attention leaves the keys of a row to one block and takes rows in " +
        "the order of the batch; all else is the same. The paper does not say whether its " +
        "times are medians; its TTFT at the last load is 411 and 422 ms. Empty cells and " +
        "rows that are left out of these tables were not measured.",
      "  ",
    ),
  ];
}

function parallelPart(results: Results): string[] {
  const rows = parallelLoads.flatMap(({ samples }) => {
    const [on, off] = [results[`figure10/on/${samples}`], results[`figure10/off/${samples}`]];
    if (on === undefined || off === undefined) return [];
    const change = (field: "itlMs" | "ttftMs") =>
      `${(100 * (on[field][0] / off[field][0] - 1)).toFixed(1)} %`;
    const at = (field: "itlMs" | "ttftMs") => [on, off].map((each) => each[field][0].toFixed(2));
    const cells = [...at("itlMs"), change("itlMs"), ...at("ttftMs"), change("ttftMs")];
    const paper = samples === 4 ? "-13.7 %, -16.4 %" : "";
    return [[String(samples), String(on.requests), paper, ...cells]];
  });
  if (rows.length === 0) return [];
  const heads = ["n", "answers", "FlashInfer's ITL, TTFT", "ITL, p50", "apart", "change"];
  return [
    "### Figure 10, parallel generation: a shared prefix as a level of its own, and apart",
    markdown([...heads, "TTFT, p50", "apart", "change"], rows),
    wrapped(
      "- 16 answers per second in all, n to each prompt. The paper gives its largest gains, " +
        "those of n = 4, in numbers. A prompt is computed once on both sides.",
      "  ",
    ),
  ];
}

function ratePart(results: Results): string[] {
  const found = scheduledLoads.slice(0, 2).map(({ name }) => name.split(",")[0]);
  const rows = found.flatMap((name) => {
    const result = results[`figure7/${name}`];
    if (result === undefined) return [];
    const { rate, itlMs, ttftMs, tokensPerSecond } = result;
    const figures = [...itlMs, ...ttftMs].map((ms) => ms.toFixed(2));
    const highest = `${rate}/s${result.isHighestTried ? ", none higher was tried" : ""}`;
    return [[name, highest, ...figures, tokensPerSecond.toFixed(0)]];
  });
  if (rows.length === 0) return [];
  const heads = ["Load", "highest rate", "ITL, p50", "p99", "TTFT, p50", "p99", "tokens/s"];
  return [
    "### Figure 7's method: the highest rate with a p99 of TTFT below 200 ms",
    markdown(heads, rows),
    wrapped("- The paper states neither its rates nor the lengths of answers.", "  "),
  ];
}

/** Times between tokens, their ratio, times to the first; empty where they were not measured. */
function pair(on: ServingResult, off: ServingResult | undefined): string[] {
  const itl = [on, off].map((each) => each?.itlMs[0].toFixed(2) ?? "");
  const ttft = [on, off].map((each) => each?.ttftMs[0].toFixed(0) ?? "");
  return [...itl, off ? times(off.itlMs[0] / on.itlMs[0]) : "", ...ttft];
}

function times(ratio: number): string {
  return `${ratio.toFixed(2)}x`;
}
