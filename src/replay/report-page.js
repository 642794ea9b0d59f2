/** The script of report.html: draws the charts from the page's data. */
const data = JSON.parse(document.getElementById("data").textContent);
const charts = [];
const probe = document.createElement("i");
document.body.append(probe);

/** Upright lines at percentiles, each with its name. */
function marks(named) {
  return (chart) => {
    const { ctx, bbox } = chart;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("ink", 0.75);
    ctx.font = `${12 * devicePixelRatio}px system-ui`;
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const [at, [name, value]] of Object.entries(named).entries()) {
      const x = chart.valToPos(value, "x", true);
      if (value === null || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const isRight = x > bbox.left + bbox.width - 40 * devicePixelRatio;
      ctx.textAlign = isRight ? "right" : "left";
      const beside = (isRight ? -4 : 4) * devicePixelRatio;
      ctx.fillText(name, x + beside, bbox.top + (12 + 14 * at) * devicePixelRatio);
    }
    ctx.restore();
  };
}

/** A colour of the page as the canvas takes it. */
function colour(name, alpha = 1) {
  probe.style.color = `var(--${name})`;
  const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g);
  return `rgba(${r}, ${g}, ${b}, ${alpha})`;
}

/** Distances between ticks: whole numbers, since the charts count things. */
const steps = Array.from({ length: 30 }, (_, i) => [1, 2, 5][i % 3] * 10 ** Math.floor(i / 3));

function axes(unit) {
  const axis = {
    stroke: () => colour("soft"),
    grid: { stroke: () => colour("line"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui",
  };
  const values = (_, ticks) => ticks.map((tick) => `${+tick.toFixed(6)} ${unit}`);
  return [
    { ...axis, values, grid: { show: false }, space: 76, size: 32 },
    { ...axis, size: 58, incrs: steps },
  ];
}

const short = (value) =>
  value == null ? "-" : value.toLocaleString("en-US", { maximumSignificantDigits: 4 });

function line(label, name) {
  return {
    label,
    stroke: () => colour(name),
    fill: () => colour(name, 0.12),
    width: 2,
    points: { show: false },
    value: (_, value) => short(value),
  };
}

function draw(host, columns, series, unit, { height = 220, end = null, hooks = {} } = {}) {
  const options = {
    width: host.clientWidth,
    height,
    scales: {
      x: { time: false, ...(end === null ? {} : { range: [0, end] }) },
      y: { range: (_, low, high) => [0, high * 1.08 || 1] },
    },
    axes: axes(unit),
    series: [{ label: unit, value: (_, value) => short(value) }, ...series],
    hooks,
    cursor: { points: { size: 7 }, drag: { x: true, y: false } },
  };
  charts.push([new uPlot(options, columns, host), host, height]);
}

function bars(host, { label, colour: name, histogram }) {
  const { x, count, width, beyond, percentiles } = histogram;
  const series = {
    ...line(label, name),
    fill: () => colour(name, 0.75),
    width: 0,
    paths: uPlot.paths.bars({ size: [0.9, 60] }),
  };
  const end = x[x.length - 1] + width / 2;
  draw(host, [x, count], [series], "ms", { end, hooks: { draw: [marks(percentiles)] } });
  if (beyond === 0) return;
  const note = document.createElement("p");
  note.className = "beyond";
  note.textContent = `${short(beyond)} ${label} beyond ${short(end)} ms are in the last bar.`;
  host.append(note);
}

function lines(host, { x, lines, height }) {
  const series = lines.map(({ label, colour: name, isLimit }) =>
    isLimit ? { ...line(label, name), fill: null, dash: [6, 4], width: 1 } : line(label, name),
  );
  draw(host, [x, ...lines.map(({ values }) => values)], series, "s", { height });
}

for (const [at, chart] of data.entries()) {
  const host = document.getElementById(`chart-${at}`);
  if (chart.kind === "bars") bars(host, chart);
  else lines(host, chart);
}

addEventListener("resize", () => {
  for (const [chart, host, height] of charts) chart.setSize({ width: host.clientWidth, height });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const [chart] of charts) chart.redraw();
});
