// Which rows were computed: at this step, over all steps, or step by step.
const HEAT_MODES = {
  now: ["This step", "Columns are the positions of the text, rows are the layers of the model, the first on top. Blue cells were computed at this step; pale ones came from the cache. The strip on top shows the text: decided, decided now, blank."],
  total: ["All steps together", "The same picture summed over the whole run: the stronger the colour, the more often a row was computed."],
  steps: ["Step by step", "Columns are positions, rows are steps from top to bottom. The stronger a cell, the more layers computed it; orange cells were decided at that step. Click to go to a step."],
};
if (importance) {
  HEAT_MODES.attention = ["Attention", "Columns are positions, rows are steps. The stronger a cell, the more of the attention of all positions, followed through all layers, ends there; a position that was not computed counts as looking at itself. The most important positions are computed at the next step, whether or not they changed."];
}
const BY_STEP = new Set(["steps", "attention"]);
let heatMode = "now", heatBox = null;
const heat = document.getElementById("heat");
const MARGIN = { left: 44, top: 30, bottom: 26, right: 2 };

choices("heat-modes", "heat-mode", Object.fromEntries(Object.entries(HEAT_MODES).map(([name, [label]]) => [name, label])),
  heatMode, (name) => { heatMode = name; drawHeat(current); });

function drawHeat(step) {
  const rows = BY_STEP.has(heatMode) ? stepCount : layers;
  const cell = BY_STEP.has(heatMode) ? Math.min(14, Math.max(1, 380 / rows)) : Math.min(26, Math.max(6, 300 / rows));
  const { context, width, height } = prepare(heat, Math.round(rows * cell) + MARGIN.top + MARGIN.bottom);
  heatBox = { x: MARGIN.left, y: MARGIN.top, width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom, rows };
  const [shade, legend] = heatShades(step);
  paintCells(context, length, rows, shade, heatBox);
  drawStrip(context, step);
  drawAxes(context, step);
  document.getElementById("heat-hint").textContent = HEAT_MODES[heatMode][1];
  document.getElementById("heat-legend").replaceChildren(...legend);
}

function heatShades(step) {
  const scale = Array.from({ length: 256 }, (_, n) => ramp("heat", n / 255));
  const shade = (share) => scale[Math.round(255 * share)];
  if (heatMode === "total") {
    return [(column, row) => shade(computed.ofLayer[row * length + column] / stepCount), [rampKey("heat", "never", `at each of the ${plural(stepCount, "step")}`)]];
  }
  if (heatMode === "attention") {
    // The square root, because a few positions get most of it.
    return [(column, row) => shade(Math.sqrt(importance[row * length + column] / 255)), [rampKey("heat", "none", "the most of this step")]];
  }
  const written = channels(color("new"));
  if (heatMode === "steps") {
    const decided = record.steps.map((made) => new Set(made.written));
    return [(column, row) => decided[row].has(column) ? written : shade(computed.ofStep[row * length + column] / layers),
      [rampKey("heat", "no layer", "all layers"), key("decided", { background: color("new") })]];
  }
  const on = channels(color("computed")), off = channels(color("reused"));
  const now = new Uint8Array(layers * length);
  if (step) for (let layer = 0; layer < layers; layer++) for (const row of rowsOf(step - 1, layer)) now[layer * length + row] = 1;
  const legend = [key("computed", { background: color("computed") }), key("from the cache", { background: color("reused") })];
  const boundary = step ? record.steps[step - 1].boundary : null;
  if (boundary !== null) legend.push(key("drift found here", { borderColor: color("drift") }, "rule"));
  return [(column, row) => now[row * length + column] ? on : off, legend];
}

// The text above the map: filled where decided, orange where decided now, hollow where blank.
function drawStrip(context, step) {
  const { x, y, width } = heatBox, cell = width / length;
  if (BY_STEP.has(heatMode)) return;
  for (let position = 0; position < length; position++) {
    const token = tokensAfter[step][position], isNew = step && token !== tokensAfter[step - 1][position];
    const blank = position >= promptLength && token === record.mask;
    context.fillStyle = color(isNew ? "new" : blank ? "line" : "start");
    context.fillRect(x + position * cell, y - 9, Math.max(0.6, cell - (cell > 3 ? 1 : 0)), 6);
  }
}

function drawAxes(context, step) {
  const { x, y, width, height, rows } = heatBox, cell = width / length;
  context.fillStyle = color("muted");
  context.textBaseline = "middle";
  context.textAlign = "right";
  const every = Math.ceil(rows / Math.max(1, height / 16));
  for (let row = 0; row < rows; row += every) context.fillText(String(row + 1), x - 8, y + (row + 0.5) * height / rows);
  context.textAlign = "left";
  context.fillText(BY_STEP.has(heatMode) ? "step" : "layer", 0, y - 7);
  context.textAlign = "center";
  context.textBaseline = "top";
  for (const position of ticks(0, length - 1, width / 90)) context.fillText(String(position), x + (position + 0.5) * cell, y + height + 6);
  drawRegions(context);
  const boundary = heatMode === "now" && step ? record.steps[step - 1].boundary : null;
  if (boundary !== null) {
    context.fillStyle = color("drift");
    context.fillRect(x, y + boundary * height / rows - 1.5, width, 3);
  }
  if (BY_STEP.has(heatMode) && step) {
    context.strokeStyle = color("ink");
    context.lineWidth = 1.5;
    context.strokeRect(x, y + (step - 1) * height / rows - 0.5, width, height / rows + 1);
  }
}

// Where the prompt ends and blocks begin.
function drawRegions(context) {
  const { x, y, width, height } = heatBox, cell = width / length, block = record.decoding.block_length;
  context.textBaseline = "alphabetic";
  context.fillStyle = color("muted");
  const label = (text, from, to) => {
    if (context.measureText(text).width + 6 < (to - from) * cell) context.fillText(text, x + (from + to) / 2 * cell, 14);
  };
  const line = (position, name) => {
    context.fillStyle = color(name);
    context.fillRect(x + position * cell - 0.75, y - 12, 1.5, height + 12);
    context.fillStyle = color("muted");
  };
  label("prompt", 0, promptLength);
  if (promptLength) line(promptLength, "ink");
  const several = block && block < length - promptLength;
  if (!several) return label("text", promptLength, length);
  for (let begin = promptLength, number = 1; begin < length; begin += block, number++) {
    label(`block ${number}`, begin, Math.min(length, begin + block));
    if (begin > promptLength) line(begin, "muted");
  }
}

function heatCell(event) {
  const { x, y } = pointer(heat, event), box = heatBox;
  const column = Math.floor((x - box.x) / box.width * length), row = Math.floor((y - box.y) / box.height * box.rows);
  return column >= 0 && column < length && y > box.y - 12 && row < box.rows ? { column, row: Math.max(0, row) } : null;
}

heat.addEventListener("mousemove", (event) => {
  const cell = heatCell(event);
  if (!cell) return hideTooltip();
  const { column, row } = cell, step = BY_STEP.has(heatMode) ? row + 1 : current, lines = [describe(column, step)];
  if (heatMode === "now") lines.unshift(`Layer ${row + 1}: ${step && rowsOf(step - 1, row).includes(column) ? "computed" : step ? "from the cache" : "nothing yet"}`);
  if (heatMode === "total") lines.unshift(`Layer ${row + 1}: computed at ${computed.ofLayer[row * length + column]} of ${plural(stepCount, "step")}`);
  if (heatMode === "steps") lines.unshift(`Step ${step}: computed in ${computed.ofStep[row * length + column]} of ${plural(layers, "layer")}`);
  if (heatMode === "attention") lines.unshift(`Step ${step}: ${percent(importance[row * length + column] / 255)} of the most important position`);
  showTooltip(event, lines.join("\n"));
});
heat.addEventListener("mouseleave", hideTooltip);
heat.addEventListener("click", (event) => {
  const cell = heatCell(event);
  if (cell && BY_STEP.has(heatMode)) goTo(cell.row + 1);
});
