import { percentile } from "./metrics.ts";

/** Bars of a histogram: `x` holds the middles of bins, `count` the values in each. */
export interface Histogram {
  x: number[];
  count: number[];
  width: number;
  /** Values beyond the last bin, which counts them too. */
  beyond: number;
  /** Marked in the chart; null of no values. */
  percentiles: { p50: number | null; p99: number | null };
}

/** One line of a chart; a limit is dashed. */
export interface Line {
  label: string;
  /** A colour of report.html. */
  colour: string;
  values: number[];
  isLimit?: boolean;
}

/** Lines over seconds. */
export interface LineChart {
  kind: "lines";
  x: number[];
  lines: Line[];
  height?: number;
}

/** Bars over milliseconds. */
export interface BarChart {
  kind: "bars";
  label: string;
  colour: string;
  histogram: Histogram;
}

/** What report-page.js draws. */
export type Chart = LineChart | BarChart;

/** A part of a page under a heading: a chart, or HTML. */
export interface Card {
  heading: string;
  isWide?: boolean;
  html?: string;
  chart?: Chart;
}

/** A figure in large letters. */
export type Tile = [name: string, value: string, unit: string, detail: string];

/** A page of figures and charts. All texts but a card's HTML are texts. */
export interface ChartPage {
  title: string;
  subtitle: string;
  /** At its end: what ran, and when. */
  about: string;
  /** What a reader must know first. */
  note?: string;
  tiles: Tile[];
  cards: Card[];
  rows: [name: string, value: string][];
}

const histogramBins = 40;

/** A histogram of ascending values; the last bin, a little above p99, takes what is beyond. */
export function histogram(sorted: Float64Array): Histogram {
  const end = (percentile(sorted, 99) ?? 0) * 1.1 || 1;
  const width = end / histogramBins;
  const count = new Array<number>(histogramBins).fill(0);
  let beyond = 0;
  for (const value of sorted) {
    if (value >= end) beyond++;
    count[Math.min(histogramBins - 1, Math.max(0, Math.floor(value / width)))]++;
  }
  const percentiles = { p50: percentile(sorted, 50), p99: percentile(sorted, 99) };
  return { x: count.map((_, bin) => (bin + 0.5) * width), count, width, beyond, percentiles };
}

/** One HTML page that needs nothing but itself. */
export async function chartPage(page: ChartPage): Promise<string> {
  const [template, script, uplotScript, uplotStyle] = await Promise.all([
    Bun.file(new URL("./report.html", import.meta.url)).text(),
    Bun.file(new URL("./report-page.js", import.meta.url)).text(),
    packageFile("uplot/dist/uPlot.iife.min.js"),
    packageFile("uplot/dist/uPlot.min.css"),
  ]);
  const charts = page.cards.flatMap(({ chart }) => chart ?? []);
  let drawn = 0;
  const cards = page.cards.map(({ heading, isWide, html, chart }) => {
    const inner = chart === undefined ? html : `<div id="chart-${drawn++}"></div>`;
    const kind = isWide ? "card wide" : "card";
    return `<section class="${kind}"><h2>${escape(heading)}</h2>${inner}</section>`;
  });
  const tiles = page.tiles.map(
    ([name, value, unit, detail]) =>
      `<div class="tile"><span>${escape(name)}</span>` +
      `<b>${escape(value)}<small>${escape(unit)}</small></b><span>${escape(detail)}</span></div>`,
  );
  const rows = page.rows.map(
    ([name, value]) => `<tr><th>${escape(name)}</th><td>${escape(value)}</td></tr>`,
  );
  const parts: Record<string, string> = {
    title: escape(page.title),
    about: escape(page.about),
    subtitle: escape(page.subtitle),
    note: page.note === undefined ? "" : `<p class="note">${escape(page.note)}</p>`,
    tiles: tiles.join("\n"),
    cards: cards.join("\n"),
    rows: rows.join("\n"),
    script,
    uplotStyle,
    uplotScript,
    // JSON inside a script element must not hold the end of it.
    data: JSON.stringify(charts).replaceAll("<", "\\u003c"),
  };
  return template.replace(/\/\*\{(\w+)\}\*\/|\{\{(\w+)\}\}/g, (_, a, b) => parts[a ?? b]);
}

function packageFile(name: string): Promise<string> {
  return Bun.file(new URL(import.meta.resolve(name))).text();
}

function escape(text: string): string {
  return Bun.escapeHTML(text);
}
