// Drift over the steps: one chart for what is tested against gamma, one for what rows are chosen by.
const SIGNALS = { proxy: "a short summary (proxy) of its values", value: "its values" };
const ofSelection = (entry) => (made, layer) => made.selection && made.selection[layer] ? made.selection[layer][entry] : null;

// A series has a label, a colour, and a function from a step and a layer to a number or null; pick
// joins the layers.
const DRIFT_CHARTS = {
  similarity: {
    title: "Similarity of the watched tokens",
    hint: () => `Each thin line is a layer: how alike the attention of the watched tokens is to the step before; 1 is unchanged. The thick line is the lowest layer. When it falls below the threshold ${record.gamma}, what is cached in the layers above counts as stale and is computed again.`,
    pick: Math.min, logarithmic: false,
    series: { value: ["lowest similarity", "computed", (made, layer) => made.similarity ? made.similarity[layer] : null] },
    draw: drawSimilarity,
  },
  selection: {
    title: "Drift of the positions",
    hint: () => `How far ${SIGNALS[record.signal] || "the signal"} moved since its reference; 0 is unchanged, and equal distances on the axis are equal factors. A layer computes the positions that drifted most, as many as its budget allows: those above the threshold mark. Those below it come from the cache. Steps without a bar chose nothing: they computed all they carried.`,
    pick: Math.max, logarithmic: true,
    series: {
      highest: ["largest drift", "computed", ofSelection(0)],
      threshold: ["threshold: the least drift that was computed", "drift", ofSelection(1)],
      reused: ["largest drift that was reused", "start", ofSelection(2)],
    },
    draw: drawSelection,
  },
};
const NO_DRIFT = "This cache measures no drift: which positions are computed follows from its rules alone.";

const driftCharts = [];
(function makeCharts() {
  const host = document.getElementById("drift-charts");
  for (const [name, chart] of Object.entries(DRIFT_CHARTS)) {
    if (record.steps.some((made) => made[name])) host.append(makeChart(name, chart));
  }
  if (!driftCharts.length) host.append(element("p", { className: "hint" }, record.cache === "d2"
    ? "This cache compares nothing with a threshold: it ranks positions by certainty and by the attention that flows to them, which is shown above under “Attention”." : NO_DRIFT));
})();

function makeChart(name, chart) {
  const select = element("select", { ariaLabel: `Layer of: ${chart.title}` }, element("option", { value: "" }, "all layers"),
    ...Array.from({ length: layers }, (_, layer) => element("option", { value: layer }, `layer ${layer + 1}`)));
  const canvas = element("canvas", { className: "plot", role: "img", ariaLabel: chart.title }), legend = element("div", { className: "legend small" });
  const drawn = { name, chart, select, canvas, legend };
  driftCharts.push(drawn);
  select.addEventListener("change", () => drawDrift(drawn, current));
  canvas.addEventListener("mousemove", (event) => showTooltip(event, driftText(drawn, driftStep(drawn, event))));
  canvas.addEventListener("mouseleave", hideTooltip);
  canvas.addEventListener("click", (event) => goTo(driftStep(drawn, event) + 1));
  return element("div", { className: "chart" },
    element("div", { className: "title" }, element("h3", {}, chart.title), element("label", { className: "small" }, "Show ", select)),
    element("p", { className: "hint" }, chart.hint()), canvas, legend);
}

// The number of a series at a step: of the chosen layer, or the most telling one of all layers.
function driftValue(drawn, series, step) {
  const { select, chart } = drawn, read = series[2], made = record.steps[step];
  if (select.value !== "") return read(made, Number(select.value)) ?? null;
  let best = null;
  for (let layer = 0; layer < layers; layer++) {
    const value = read(made, layer);
    if (value != null) best = best === null ? value : chart.pick(best, value);
  }
  return best;
}

// Drift of exactly 0 has no place on a logarithmic axis; it stands on the floor.
function driftRange({ chart }) {
  const values = [];
  for (const made of record.steps) for (let layer = 0; layer < layers; layer++) for (const [, , read] of Object.values(chart.series)) {
    const value = read(made, layer);
    if (value != null && (!chart.logarithmic || value > 0)) values.push(value);
  }
  let low = values.reduce((a, b) => Math.min(a, b), chart.logarithmic ? 1 : record.gamma ?? 1);
  let high = values.reduce((a, b) => Math.max(a, b), chart.logarithmic ? low : 1);
  if (chart.logarithmic) return { low: Math.floor(Math.max(Math.log10(low), -8)) , high: Math.log10(high) + 0.15 };
  const pad = Math.max((high - low) * 0.06, 1e-6);
  return { low: low - pad, high: high + pad };
}

const PLOT = { left: 52, right: 12, top: 10, bottom: 24 };
const driftX = (step, width) => PLOT.left + (step + 0.5) / stepCount * (width - PLOT.left - PLOT.right);

function driftStep({ canvas }, event) {
  const share = (pointer(canvas, event).x - PLOT.left) / (canvas.clientWidth - PLOT.left - PLOT.right);
  return Math.min(stepCount - 1, Math.max(0, Math.floor(share * stepCount)));
}

function driftText(drawn, step) {
  const lines = [`Step ${step + 1}`];
  for (const series of Object.values(drawn.chart.series)) {
    const value = driftValue(drawn, series, step);
    if (value !== null) lines.push(`${series[0]}: ${value}`);
  }
  if (lines.length === 1) lines.push("nothing was compared");
  const boundary = record.steps[step].boundary;
  if (boundary !== null && drawn.name === "similarity") lines.push(`below ${record.gamma} in layer ${boundary}`);
  return lines.join("\n");
}

function drawDrift(drawn, step) {
  const { chart, canvas } = drawn, { context, width, height } = prepare(canvas, 220);
  drawn.range ??= driftRange(drawn);
  const { low, high } = drawn.range, floor = height - PLOT.bottom;
  const scale = (value) => Math.max(low, chart.logarithmic ? Math.log10(Math.max(value, 1e-12)) : value);
  const y = (value) => PLOT.top + (high - scale(value)) / (high - low) * (floor - PLOT.top);
  drawGrid(context, width, height, gridValues(drawn), y);
  chart.draw(drawn, context, width, y, floor);
  if (!step) return;
  context.fillStyle = color("ink");
  context.fillRect(driftX(step - 1, width) - 0.75, PLOT.top, 1.5, floor - PLOT.top);
}

function gridValues({ chart, range }) {
  if (!chart.logarithmic) return ticks(range.low, range.high, 4);
  const every = Math.ceil((range.high - range.low) / 6), list = [];
  for (let power = range.low; power <= range.high; power += every) list.push(Number(`1e${power}`));
  return list;
}

function drawGrid(context, width, height, values, y) {
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const value of values) {
    context.fillStyle = color("line");
    context.fillRect(PLOT.left, y(value) - 0.5, width - PLOT.left - PLOT.right, 1);
    context.fillStyle = color("muted");
    context.fillText(Math.abs(value) >= 0.001 ? String(value) : value ? value.toExponential(0) : "0", PLOT.left - 8, y(value));
  }
  context.textAlign = "center";
  context.textBaseline = "top";
  const numbers = ticks(1, Math.max(2, stepCount), width / 80).filter((value) => Number.isInteger(value) && value >= 1 && value <= stepCount);
  for (const number of numbers) context.fillText(String(number), driftX(number - 1, width), height - PLOT.bottom + 7);
}

function drawSimilarity(drawn, context, width, y) {
  const { select, legend, chart: { series: { value } } } = drawn, all = select.value === "";
  for (let layer = 0; all && layer < layers; layer++) {
    drawLine(context, width, y, (at) => value[2](record.steps[at], layer), color("computed"), 1, Math.max(0.15, Math.min(0.4, 3 / layers)));
  }
  drawLine(context, width, y, (at) => driftValue(drawn, value, at), color("computed"), 2, 1);
  drawThreshold(context, width, y, record.gamma);
  drawAlarms(context, width, y, drawn);
  legend.replaceChildren(key(all ? "lowest similarity" : "similarity", { borderColor: color("computed") }, "rule"),
    key(`threshold (gamma = ${record.gamma})`, { borderColor: color("drift"), borderTopStyle: "dashed" }, "rule"),
    ...(counts.drift ? [key("refresh from here", { background: color("drift"), borderRadius: "50%" })] : []));
}

function drawSelection(drawn, context, width, y, floor) {
  const { highest, threshold, reused } = drawn.chart.series;
  const bar = Math.max(1, Math.min(18, (width - PLOT.left - PLOT.right) / stepCount * 0.7));
  for (let step = 0; step < stepCount; step++) {
    const [top, mark, kept] = [highest, threshold, reused].map((series) => driftValue(drawn, series, step));
    if (top === null) continue;
    const x = driftX(step, width) - bar / 2, cut = y(mark ?? kept ?? top);
    context.fillStyle = color("computed");
    context.fillRect(x, y(top), bar, Math.max(0, cut - y(top)));
    context.fillStyle = color("mask");
    context.fillRect(x, cut, bar, floor - cut);
    if (mark === null) continue;
    context.fillStyle = color("drift");
    context.fillRect(x - 1, cut - 1, bar + 2, 2.5);
  }
  drawn.legend.replaceChildren(key("computed", { background: color("computed") }), key("threshold", { borderColor: color("drift") }, "rule"),
    key("from the cache", { background: color("mask") }), ...(drawn.select.value === "" ? ["the highest of all layers each"] : []));
}

function drawLine(context, width, y, value, stroke, lineWidth, alpha) {
  context.beginPath();
  let open = false;
  for (let step = 0; step < stepCount; step++) {
    const here = value(step);
    if (here == null) { open = false; continue; }
    const x = driftX(step, width);
    if (open) context.lineTo(x, y(here));
    else {
      context.moveTo(x, y(here));
      // A point with no neighbours is a short stroke, or it would not be seen.
      if (step + 1 >= stepCount || value(step + 1) == null) context.lineTo(x + 2, y(here));
    }
    open = true;
  }
  [context.strokeStyle, context.lineWidth, context.globalAlpha, context.lineJoin, context.lineCap] = [stroke, lineWidth, alpha, "round", "round"];
  context.stroke();
  context.globalAlpha = 1;
}

function drawThreshold(context, width, y, threshold) {
  [context.strokeStyle, context.lineWidth] = [color("drift"), 1.5];
  context.setLineDash([6, 4]);
  context.beginPath();
  context.moveTo(PLOT.left, y(threshold));
  context.lineTo(width - PLOT.right, y(threshold));
  context.stroke();
  context.setLineDash([]);
}

function drawAlarms(context, width, y, drawn) {
  context.fillStyle = color("drift");
  record.steps.forEach((made, step) => {
    if (made.boundary === null || (drawn.select.value !== "" && Number(drawn.select.value) !== made.boundary - 1)) return;
    context.beginPath();
    context.arc(driftX(step, width), y(made.similarity[made.boundary - 1]), 3.5, 0, 7);
    context.fill();
  });
}
