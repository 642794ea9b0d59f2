/** The figures of the page at /: looks at /live twice a second while the page is seen. */
import { headers } from "./chat.js";

const everyMs = 500;
const seconds = 120;
const at = (id) => document.getElementById(id);
const svg = (name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};
/** Times and counts of tokens, the last of them now. */
let history = [];
let planUrl;

const whole = (value) => value.toLocaleString("en-US");
const ms = (value) => (value === null ? "–" : `${value.toFixed(value < 10 ? 1 : 0)} ms`);

function tile(name, value) {
  const made = document.createElement("div");
  const [label, figure] = [document.createElement("span"), document.createElement("b")];
  label.textContent = name;
  figure.textContent = value;
  made.append(label, figure);
  return made;
}

function showTiles({ stats, latencies: { first, between } }, rate) {
  const share = stats.promptTokens === 0 ? 0 : stats.cachedTokens / stats.promptTokens;
  const tiles = [
    ["running", whole(stats.running)],
    ["waiting", whole(stats.waiting)],
    ["tokens/s", rate.toFixed(1)],
    ["first token p50", ms(first.p50)],
    ["between p50", ms(between.p50)],
    ["between p99", ms(between.p99)],
    ["prompt cached", `${(100 * share).toFixed(0)} %`],
    ["preempted", whole(stats.preemptions)],
    ["steps", whole(stats.steps)],
  ];
  at("tiles").replaceChildren(...tiles.map(([name, value]) => tile(name, value)));
}

function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/** A canvas of a height in pixels of the page, ready to be drawn on. */
function canvas(id, height) {
  const element = at(id);
  const width = element.clientWidth;
  element.width = width * devicePixelRatio;
  element.height = height * devicePixelRatio;
  element.style.height = `${height}px`;
  const context = element.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  return { context, width, height };
}

/** Tokens per second between neighbours of the history. */
function rates() {
  return history.slice(1).map(({ time, tokens }, i) => {
    const before = history[i];
    return { time, rate: (1000 * (tokens - before.tokens)) / (time - before.time) };
  });
}

function showRate(points) {
  const { context, width, height } = canvas("rate", 72);
  const most = Math.max(0, ...points.map(({ rate }) => rate));
  const now = performance.now();
  const x = (time) => width - ((now - time) / (1000 * seconds)) * width;
  const y = (rate) => height - 2 - (rate / Math.max(1, most)) * (height - 6);
  context.strokeStyle = colour("line");
  context.beginPath();
  context.moveTo(0, height - 1);
  context.lineTo(width, height - 1);
  context.stroke();
  context.strokeStyle = colour("green");
  context.lineWidth = 1.5;
  context.beginPath();
  for (const { time, rate } of points) context.lineTo(x(time), y(rate));
  context.stroke();
  at("rate-note").textContent = `at most ${most.toFixed(1)} in two minutes`;
}

/** A bar of a request: how its tokens came about. */
function bar(request, most) {
  const { promptTokens: prompt, cachedTokens: cached, computedTokens: computed } = request;
  const total = prompt + request.generatedTokens;
  const parts = [
    ["cached", 0, Math.min(cached, computed)],
    ["prompt", cached, Math.min(prompt, computed)],
    ["said", prompt, total],
    ["ahead", Math.max(computed, cached), prompt],
  ];
  const view = { viewBox: `0 0 ${most} 1`, preserveAspectRatio: "none" };
  const drawn = svg("svg", { ...view, "aria-hidden": "true" });
  for (const [kind, from, to] of parts)
    if (to > from) drawn.append(svg("rect", { class: kind, x: from, width: to - from, height: 1 }));
  return drawn;
}

function showBatch({ batch }) {
  const length = (request) => request.promptTokens + request.generatedTokens;
  const most = Math.max(32, ...batch.map(length));
  const shown = batch.slice(0, 24);
  const lines = shown.map((request) => {
    const line = document.createElement("li");
    const [name, count] = [document.createElement("span"), document.createElement("span")];
    name.textContent = `#${request.id}`;
    name.style.color = hue(request.id);
    count.textContent = whole(length(request));
    line.append(name, bar(request, most), count);
    return line;
  });
  at("batch").replaceChildren(...lines);
  const more = batch.length > shown.length ? `, ${shown.length} of them shown` : "";
  const count = `${batch.length} request${batch.length === 1 ? "" : "s"}`;
  at("batch-note").textContent = batch.length === 0 ? "" : `${count}${more}`;
}

/** A colour for each sequence, far from its neighbours'. */
function hue(id) {
  return `hsl(${(id * 137.5) % 360} 60% 52%)`;
}

function showPages({ owners, pagesPerCell, stats }) {
  const cells = owners.flat();
  const width = at("pages").clientWidth;
  // As large as fits into a picture of this height.
  let side = 12;
  while (side > 2 && Math.ceil(cells.length / Math.floor(width / side)) * side > 150) side--;
  const columns = Math.max(1, Math.floor(width / side));
  const { context } = canvas("pages", Math.ceil(cells.length / columns) * side);
  const named = { 0: colour("free"), [-1]: colour("kept"), [-2]: colour("shared") };
  const gap = side > 4 ? 1 : 0;
  cells.forEach((owner, i) => {
    context.fillStyle = named[owner] ?? hue(owner);
    const [x, y] = [(i % columns) * side, Math.floor(i / columns) * side];
    context.fillRect(x, y, side - gap, side - gap);
  });
  const several = pagesPerCell > 1 ? `, ${pagesPerCell} to a square` : "";
  at("pages-note").textContent =
    `${whole(stats.pagesUsed)} of ${whole(stats.pages)} used${several}`;
}

async function showPlan() {
  if (!at("plan-box").open) return;
  const response = await fetch("/live/plan.svg", { headers: headers() });
  if (response.status !== 200) return;
  const before = planUrl;
  planUrl = URL.createObjectURL(await response.blob());
  at("plan").src = planUrl;
  await at("plan").decode();
  if (before !== undefined) URL.revokeObjectURL(before);
}

async function look() {
  const response = await fetch("/live", { headers: headers() });
  const live = await response.json();
  if (!response.ok) throw new Error(live.error.message);
  const time = performance.now();
  history.push({ time, tokens: live.stats.generatedTokens });
  history = history.filter((point) => time - point.time <= 1000 * seconds);
  const points = rates();
  at("model").textContent = live.model;
  document.title = `${live.model} · flashbun`;
  showTiles(live, points.at(-1)?.rate ?? 0);
  showRate(points);
  showBatch(live);
  showPages(live);
  if (live.batch.length > 0) await showPlan();
}

async function lookOn() {
  try {
    if (!document.hidden) await look();
    at("trouble").textContent = "";
  } catch (error) {
    at("trouble").textContent = `The server does not answer: ${error.message}`;
  }
  setTimeout(lookOn, everyMs);
}

at("plan-box").addEventListener("toggle", () => void showPlan().catch(() => {}));
void lookOn();
