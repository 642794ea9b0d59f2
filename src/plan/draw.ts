import type { Plan } from "./plan.ts";
import { requireInteger, requireText } from "../require.ts";
import {
  checkTimeline,
  type Slice,
  type Timeline,
  timelineOf,
  type TimelineOptions,
} from "./timeline.ts";

/** How a plan is drawn. */
export interface DrawOptions extends TimelineOptions {
  readonly title?: string;
  /** Pixels; default 960. */
  readonly width?: number;
}

const fills = [
  "#8ecae6",
  "#ffd166",
  "#a7d7a9",
  "#f4a6a0",
  "#c8b6e2",
  "#f6bd8b",
  "#9adbd0",
  "#d9cba3",
];
const mergeFill = "#c3c8cf";
const sharedFill = "#7f8fb3";
/** Slices too thin to distinguish, drawn as one. */
const manyFill = "#b9c6d3";
const idleFill = "#f0f2f5";
const paper = "#ffffff";
const quiet = "#57606a";
const manyRequests = -2;
/** Boxes of a drawing, about: beyond it, thin neighbours become one box. */
const boxesMost = 3000;
const ink = "#1b1f24";
/** What takes a colour's place where a page is dark: a drawing is of both schemes. */
const darkOf: Readonly<Record<string, string>> = {
  [paper]: "#0d1117",
  [ink]: "#e9eef4",
  [quiet]: "#9da7b3",
  [idleFill]: "#1a2129",
  [mergeFill]: "#4b545f",
  [sharedFill]: "#44588f",
  [manyFill]: "#3b4a5a",
  "#8ecae6": "#1c6488",
  "#ffd166": "#7d5f0c",
  "#a7d7a9": "#2b6d38",
  "#f4a6a0": "#943f38",
  "#c8b6e2": "#604893",
  "#f6bd8b": "#8a4f18",
  "#9adbd0": "#1b6f64",
  "#d9cba3": "#6b5f34",
};
const left = 104;
const right = 20;
const top = 92;
const legendHeight = 78;

/** Draws a plan as an SVG document: processors down, time to the right, partial work hatched. */
export function drawPlan(plan: Plan, options: DrawOptions): string {
  const { processors, width = 960, title = titleOf(plan) } = checkTimeline(plan, options);
  requireInteger("width", width, 200, 1 << 16);
  requireText("title", title);
  const timeline = timelineOf(plan, options);
  const laneHeight = processors <= 16 ? 30 : processors <= 48 ? 16 : 7;
  const bottom = top + processors * laneHeight;
  const height = bottom + legendHeight;
  const scale = (width - left - right) / (timeline.end || 1);
  const splits = timeline.slices.filter(({ kind }) => kind === "partial").length;
  const counts = [
    `${grouped(plan.launches.reduce((sum, { recordCount }) => sum + recordCount, 0))} records`,
    `${grouped(splits)} of them partial`,
    `${grouped(plan.mergeCount)} merges`,
    `${Math.round(100 * timeline.busy)} % busy`,
  ].join(", ");
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}"`,
    ` height="${height}" class="plan-drawing" role="img"`,
    ` font-family="system-ui, sans-serif" font-size="12">`,
    `<title>${escape(title)}: ${counts}</title>`,
    `<defs><pattern id="plan-partial" width="6" height="6" patternUnits="userSpaceOnUse"`,
    ` patternTransform="rotate(45)"><rect width="2" height="6" fill="${ink}" opacity="0.35"/>`,
    `</pattern></defs>`,
    darkStyle(),
    `<rect width="${width}" height="${height}" fill="${paper}"/>`,
    text(left, 26, escape(title), `font-size="16" font-weight="600"`),
    text(left, 46, counts, `fill="${quiet}"`),
    ...lanes(processors, laneHeight, width),
    ...ticks(timeline.end, scale, bottom),
    ...thinned(joined(timeline.slices), leastWidth(processors, width) / scale).map((slice) =>
      box(slice, scale, laneHeight),
    ),
    ...phases(timeline.slices, scale, bottom, width),
    ...legend(bottom, plan, timeline),
    "</svg>\n",
  ];
  return lines.join("\n");
}

/** Colours that elements say hold in every viewer; those that know schemes take these instead. */
function darkStyle(): string {
  const rules = Object.entries(darkOf).flatMap(([light, dark]) =>
    ["fill", "stroke"].map((name) => `.plan-drawing [${name}="${light}"]{${name}:${dark}}`),
  );
  // Hues of further requests.
  rules.push(`.plan-drawing [fill^="hsl"]{filter:brightness(0.5) saturate(1.2)}`);
  return `<style>@media (prefers-color-scheme:dark){${rules.join("")}}</style>`;
}

function titleOf({ recordCount }: Plan): string {
  return `Plan of ${grouped(recordCount)} record${recordCount === 1 ? "" : "s"}`;
}

/** Pixels below which neighbours are drawn as one. */
function leastWidth(processors: number, width: number): number {
  return Math.max(1, ((width - left - right) * processors) / boxesMost);
}

/** Neighbours on a lane that are both shorter than `least`, as one slice without a request. */
function thinned(slices: readonly Slice[], least: number): Slice[] {
  const last: Slice[] = [];
  const result: Slice[] = [];
  for (const slice of slices) {
    const before = last[slice.lane];
    const thin = slice.end - slice.start < least;
    const follows = before?.end === slice.start && before.kernelClass === slice.kernelClass;
    if (thin && follows && before.end - before.start < least) {
      before.end = slice.end;
      before.records += slice.records;
      if (before.kind !== slice.kind) before.kind = "whole";
      if (before.kind !== "merge") before.request = manyRequests;
      continue;
    }
    result.push((last[slice.lane] = slice));
  }
  return result;
}

/** Neighbours on a lane that differ only in their heads, as one slice. */
function joined(slices: readonly Slice[]): Slice[] {
  const last: Slice[] = [];
  const result: Slice[] = [];
  for (const slice of slices) {
    const before = last[slice.lane];
    const same =
      before !== undefined &&
      (["kind", "request", "level", "rowStart", "kvStart", "kvEnd"] as const).every(
        (key) => before[key] === slice[key],
      );
    if (same && before.end === slice.start) {
      before.end = slice.end;
      before.records += slice.records;
    } else {
      last[slice.lane] = { ...slice };
      result.push(last[slice.lane]);
    }
  }
  return result;
}

function lanes(processors: number, laneHeight: number, width: number): string[] {
  const every = laneHeight >= 16 ? 1 : 8;
  const lines: string[] = [];
  for (let lane = 0; lane < processors; lane++) {
    const y = top + lane * laneHeight;
    const height = laneHeight - (laneHeight > 7 ? 3 : 1);
    const size = `width="${width - left - right}" height="${height}"`;
    lines.push(`<rect x="${left}" y="${y}" ${size} fill="${idleFill}"/>`);
    if (lane % every !== 0) continue;
    const middle = y + laneHeight / 2 + 3;
    lines.push(text(left - 8, middle, `processor ${lane}`, `text-anchor="end"`));
  }
  return lines;
}

/** The launches by name, with a line where each begins; one that is too narrow goes unnamed. */
function phases(slices: readonly Slice[], scale: number, bottom: number, width: number): string[] {
  const lines: string[] = [];
  for (const [i, { kernelClass, start }] of slices.entries()) {
    if (i > 0 && slices[i - 1].kernelClass === kernelClass) continue;
    const next = slices.find((slice, j) => j > i && slice.kernelClass !== kernelClass);
    const x = round(left + start * scale);
    const room = (next === undefined ? width - right : left + next.start * scale) - x;
    const last = next === undefined && room < 60;
    const name = last || room > 8 * kernelClass.length ? kernelClass : "";
    const anchor = last ? ` text-anchor="end"` : "";
    const place = last ? width - right : x + 4;
    const from = last && name !== "" ? top - 4 : top - 22;
    lines.push(`<path d="M${x} ${from}V${bottom}" stroke="${quiet}" stroke-dasharray="3 3"/>`);
    lines.push(text(place, top - 10, escape(name), `fill="${quiet}"${anchor}`));
  }
  return lines;
}

function ticks(end: number, scale: number, bottom: number): string[] {
  const step = niceStep(end / 6);
  const lines: string[] = [];
  for (let tick = 0; tick * step <= end * (1 + 1e-9); tick++) {
    const at = tick * step;
    const x = round(left + at * scale);
    lines.push(`<path d="M${x} ${bottom}v5" stroke="${quiet}"/>`);
    lines.push(text(x, bottom + 18, grouped(round(at)), `text-anchor="middle" fill="${quiet}"`));
  }
  const label = "time on the cost model, in reads of one key and value";
  lines.push(text(left, bottom + 36, label, `fill="${quiet}"`));
  return lines;
}

/** 1, 2 or 5 times a power of ten, at least `least`. */
function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least || 1));
  return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= least)!;
}

function box(slice: Slice, scale: number, laneHeight: number): string {
  const { lane, start, end, kind } = slice;
  const x = round(left + start * scale);
  const width = Math.max(round((end - start) * scale), 0.3);
  const y = top + lane * laneHeight;
  const height = laneHeight - (laneHeight > 7 ? 3 : 1);
  const fill = fillOf(slice);
  const frame = `x="${x}" y="${y}" width="${width}" height="${height}"`;
  const stroke = width > 3 ? ` stroke="${paper}" stroke-width="1"` : "";
  const hatch = kind === "partial" ? `<rect ${frame} fill="url(#plan-partial)"/>` : "";
  const label = labelOf(slice, width);
  const words =
    label === "" || laneHeight < 16
      ? ""
      : text(x + width / 2, y + height / 2 + 4, label, `text-anchor="middle" ${halo}`);
  const about = `<title>${aboutOf(slice)}</title>`;
  return `<g>${about}<rect ${frame} fill="${fill}"${stroke}/>${hatch}${words}</g>`;
}

function fillOf({ kind, request, shared }: Slice): string {
  if (kind === "merge") return mergeFill;
  if (request === manyRequests) return manyFill;
  return shared ? sharedFill : fillOfRequest(Math.max(request, 0));
}

/** Past the first few, hues a golden angle apart, so that no two requests look alike. */
function fillOfRequest(request: number): string {
  if (request < fills.length) return fills[request];
  return `hsl(${round((request * 137.508) % 360)} ${45 + (request % 3) * 12}% 76%)`;
}

/** Outlines letters, so that they read over hatching. */
const halo = `stroke="${paper}" stroke-width="3" stroke-opacity="0.75" paint-order="stroke"`;

/** As much of a label as fits the width. */
function labelOf(slice: Slice, width: number): string {
  const { kind, request, kvHead, records, kvStart, kvEnd, listed, shared } = slice;
  if (kind === "merge") return width > 50 ? "merge" : "";
  if (request === manyRequests) return "";
  const heads = records > 1 ? `${records} heads` : `head ${kvHead}`;
  const keys = `${listed ? "kept keys" : "keys"} ${kvStart}-${kvEnd}`;
  const name = shared ? "shared" : `r${request}`;
  const choices = [`${name}, ${heads}, ${keys}`, `${name}, ${heads}`, name];
  return choices.find((choice) => choice.length * 6.3 + 6 < width) ?? "";
}

function aboutOf(slice: Slice): string {
  const { kind, kernelClass, request, level, kvHead, records } = slice;
  if (request === manyRequests) return `${records} records of ${kernelClass}`;
  const rows = `rows ${slice.rowStart} to ${slice.rowStart + slice.rowCount}`;
  const heads = records > 1 ? `${records} KV heads` : `KV head ${kvHead}`;
  if (kind === "merge") return `merge of ${slice.kvEnd} parts, ${heads}, ${rows}`;
  const keys = `${slice.listed ? "kept keys" : "keys"} ${slice.kvStart} to ${slice.kvEnd}`;
  const partial = kind === "partial" ? ", partial" : "";
  return `${kernelClass}: request ${request}, level ${level}, ${heads}, ${rows}, ${keys}${partial}`;
}

function legend(bottom: number, plan: Plan, { slices }: Timeline): string[] {
  const y = bottom + 52;
  const kib = (plan.workspaceBytes / 1024).toFixed(plan.workspaceBytes < 10240 ? 1 : 0);
  const partial = ["hatched: partial state, merged later", fills[0], "url(#plan-partial)"];
  const entries = [["colour: request (r)", fills[0], fills[1]]];
  if (slices.some(({ shared }) => shared)) entries.push(["shared prefix", sharedFill]);
  if (slices.some(({ kind }) => kind === "partial")) entries.push(partial);
  if (slices.some(({ kind }) => kind === "merge")) entries.push(["merge", mergeFill]);
  entries.push(["idle", idleFill]);
  const lines: string[] = [];
  let x = left;
  for (const [words, ...colours] of entries) {
    for (const [i, fill] of colours.entries()) {
      // Two colours are drawn side by side; a pattern is drawn over the colour before it.
      if (i > 0 && !fill.startsWith("url")) x += 18;
      lines.push(`<rect x="${x}" y="${y}" width="16" height="14" fill="${fill}"/>`);
    }
    lines.push(text(x + 22, y + 11, words));
    x = Math.round(x + 40 + words.length * 6.4);
  }
  lines.push(text(x, y + 11, `workspace ${grouped(Number(kib))} KiB`, `fill="${quiet}"`));
  return lines;
}

function grouped(value: number): string {
  return value.toLocaleString("en-US");
}

function text(x: number, y: number, words: string, attributes = ""): string {
  const fill = attributes.includes("fill=") ? "" : `fill="${ink}"`;
  const all = [`x="${round(x)}"`, `y="${round(y)}"`, fill, attributes].filter(Boolean);
  return `<text ${all.join(" ")}>${words}</text>`;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

function escape(words: string): string {
  return words.replace(/[&<>]/g, (letter) => `&#${letter.charCodeAt(0)};`);
}
