/** The script of treemap.html: draws libraries as areas, and lets one walk into them. */
"use strict";
const libraries = /*{libraries}*/ [];
const hues = {
  "fat binaries": "hsl(152 45% 38%)",
  "relocatable fat binaries": "hsl(178 45% 34%)",
  "host code": "hsl(214 55% 47%)",
  data: "hsl(262 32% 52%)",
  symbols: "hsl(32 70% 46%)",
  "dynamic symbols": "hsl(46 60% 40%)",
  relocations: "hsl(338 42% 50%)",
  "unwind tables": "hsl(12 50% 50%)",
  "debug information": "hsl(24 55% 42%)",
  other: "hsl(220 6% 48%)",
  file: "hsl(220 6% 40%)",
};
const archs = new Map();
const element = (id) => document.getElementById(id);

/** Architectures get hues around the circle, in the order of their numbers. */
function colour(part) {
  if (hues[part]) return hues[part];
  if (archs.size === 0) {
    const names = new Set();
    const visit = (area) => {
      if (!hues[area.part]) names.add(area.part);
      for (const inner of area.inside ?? []) visit(inner);
    };
    for (const { area } of libraries) visit(area);
    const number = (name) => Number(/\d+/.exec(name)?.[0] ?? 0);
    [...names]
      .sort((a, b) => number(a) - number(b) || (a < b ? -1 : 1))
      .forEach((name, at, all) => archs.set(name, 95 + (235 * at) / all.length));
  }
  return `hsl(${archs.get(part)} 40% 41%)`;
}

/** Neighbours of one kind differ in lightness, by their place among them. */
function shade(area, siblings) {
  const alike = siblings.filter(({ part }) => part === area.part);
  const step = [0, 7, -7, 12, -12][alike.indexOf(area) % 5];
  return colour(area.part).replace(/(\d+)%\)$/, (_, light) => `${+light + step}%)`);
}

function size(bytes) {
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 1)} MB`;
  return bytes >= 1e3 ? `${(bytes / 1e3).toFixed(1)} kB` : `${bytes} B`;
}

/** Squarified treemap (Bruls, Huizing, van Wijk 2000): rows as square as they can be. */
function layOut(areas, box, visit) {
  let rest = areas.filter(({ bytes }) => bytes > 0).sort((a, b) => b.bytes - a.bytes);
  let left = rest.reduce((sum, { bytes }) => sum + bytes, 0);
  let { x, y, width, height } = box;
  while (rest.length > 0 && width > 0 && height > 0) {
    const side = Math.min(width, height);
    const scale = (width * height) / left;
    let count = 0;
    let sum = 0;
    let worst = Infinity;
    for (const { bytes } of rest) {
      const total = (sum + bytes) * scale;
      const most = rest[0].bytes * scale;
      const least = bytes * scale;
      const ratio = Math.max(
        (side * side * most) / (total * total),
        (total * total) / (side * side * least),
      );
      if (ratio > worst) break;
      worst = ratio;
      sum += bytes;
      count++;
    }
    const depth = (sum * scale) / side;
    let along = 0;
    for (const area of rest.slice(0, count)) {
      const length = (area.bytes * scale) / depth;
      if (width >= height) visit(area, { x, y: y + along, width: depth, height: length });
      else visit(area, { x: x + along, y, width: length, height: depth });
      along += length;
    }
    if (width >= height) [x, width] = [x + depth, width - depth];
    else [y, height] = [y + depth, height - depth];
    rest = rest.slice(count);
    left -= sum;
  }
}

/** Pixels of a letter, about. */
const letterWidth = 6.6;

let library = 0;
let path = [];

function draw() {
  const { area: root, buildId, savings } = libraries[library];
  const here = path.at(-1) ?? root;
  element("title").textContent = root.name;
  const what = `${size(root.bytes)}, build ${buildId ?? "unknown"}`;
  element("about").textContent = `${what}. Click an area to walk into it, Escape goes back.`;
  document.title = `What is in ${root.name}`;
  drawLibraries();
  drawPath(root);
  const map = element("map");
  map.replaceChildren();
  const box = { x: 0, y: 0, width: map.clientWidth, height: map.clientHeight };
  drawAreas(map, here, box, root.bytes, 0, path);
  drawParts(here, root);
  drawSavings(savings, root);
}

/** Areas inside areas as long as there is room to see them. */
function drawAreas(map, parent, box, all, depth, trail) {
  const siblings = parent.inside ?? [parent];
  layOut(siblings, box, (area, place) => {
    if (place.width < 2 || place.height < 2) return;
    const node = document.createElement("div");
    node.className = `area${area.inside ? " open" : ""}${area.isRest ? " rest" : ""}`;
    node.style.cssText =
      `left:${place.x}px;top:${place.y}px;width:${place.width}px;` +
      `height:${place.height}px;background:${shade(area, siblings)}`;
    const isSplit = area.inside && depth < 2 && place.width >= 60 && place.height >= 44;
    // Half a name or more; what is cut ends in dots, and the tip has all of it.
    const fits = Math.min(area.name.length, Math.max(5, area.name.length / 2)) * letterWidth;
    const roomy = place.width > fits + 10 && place.height > 17;
    if (roomy) node.append(`${area.name} `);
    if (roomy && (place.width > 110 || (!isSplit && place.height > 60))) {
      const small = document.createElement("small");
      small.textContent = size(area.bytes);
      node.append(small);
    }
    if (!isSplit && place.height > 60) node.classList.add("high");
    const next = parent === area ? trail : [...trail, area];
    node.onpointermove = (event) => point(event, area, all);
    node.onpointerleave = () => (element("tip").hidden = true);
    if (area.inside) {
      node.tabIndex = 0;
      node.setAttribute("role", "button");
      node.setAttribute("aria-label", `${area.name}, ${size(area.bytes)}`);
      const open = () => go(next);
      node.onclick = open;
      node.onkeydown = ({ key }) => key === "Enter" && open();
    } else node.onclick = () => trail.length > path.length && go(trail);
    map.append(node);
    if (!isSplit) return;
    const inner = {
      x: place.x + 3,
      y: place.y + 19,
      width: place.width - 6,
      height: place.height - 22,
    };
    drawAreas(map, area, inner, all, depth + 1, next);
  });
}

function go(next) {
  path = next;
  element("tip").hidden = true;
  draw();
}

function point(event, area, all) {
  const tip = element("tip");
  const name = document.createElement("b");
  name.textContent = area.name;
  const what = document.createElement("span");
  const kind = area.note ? `${area.part}; ${area.note}` : area.part;
  const share = `${((100 * area.bytes) / all).toFixed(1)} % of the file`;
  what.textContent = `${size(area.bytes)}, ${share}; ${kind}`;
  tip.replaceChildren(name, what);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 8))}px`;
}

function button(text, isCurrent, action) {
  const node = document.createElement("button");
  node.textContent = text;
  node.setAttribute("aria-current", String(isCurrent));
  node.onclick = action;
  return node;
}

function drawLibraries() {
  element("libraries").hidden = libraries.length < 2;
  element("libraries").replaceChildren(
    ...libraries.map(({ area }, at) =>
      button(area.name, at === library, () => {
        library = at;
        go([]);
      }),
    ),
  );
}

function drawPath(root) {
  const steps = [root, ...path];
  element("path").hidden = path.length === 0;
  element("path").replaceChildren(
    ...steps.flatMap((step, at) => {
      const node = button(step.name, at === steps.length - 1, () => go(path.slice(0, at)));
      if (at === 0) return [node];
      const arrow = document.createElement("i");
      arrow.textContent = "\u203a";
      return [arrow, node];
    }),
  );
}

function row(table, cells) {
  const line = table.insertRow();
  for (const cell of cells) line.insertCell().append(cell);
  return line;
}

function drawParts(here, root) {
  const table = element("parts");
  table.replaceChildren();
  const areas = [...(here.inside ?? [here])].sort((a, b) => b.bytes - a.bytes).slice(0, 12);
  for (const area of areas) {
    const line = row(table, [
      "",
      size(area.bytes),
      `${((100 * area.bytes) / root.bytes).toFixed(1)} %`,
    ]);
    const mark = document.createElement("i");
    mark.style.background = shade(area, here.inside ?? [here]);
    const name = area.name.length > 44 ? `${area.name.slice(0, 41)}...` : area.name;
    line.cells[0].append(mark, name);
    line.cells[0].title = area.name;
  }
}

function drawSavings(savings, root) {
  const table = element("savings");
  table.replaceChildren();
  for (const { option, bytes, isBound } of savings) {
    const bar = document.createElement("div");
    bar.style.width = `${(100 * bytes) / root.bytes}%`;
    bar.className = isBound ? "bound" : "";
    const share = `${((100 * bytes) / root.bytes).toFixed(1)} %`;
    const line = row(table, [option, bar, `${isBound ? "up to " : ""}${size(bytes)}`, share]);
    line.cells[1].className = "bar";
  }
}

addEventListener("resize", draw);
addEventListener(
  "keydown",
  ({ key }) => key === "Escape" && path.length > 0 && go(path.slice(0, -1)),
);
draw();
