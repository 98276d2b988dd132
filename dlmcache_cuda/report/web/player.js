// Which step is shown, and the ways to move: slider, buttons, keys, play.
let current = stepCount, timer = null;
const slider = document.getElementById("step"), playButton = document.getElementById("play");
slider.max = stepCount;

function draw() {
  slider.value = current;
  slider.setAttribute("aria-valuetext", current ? `step ${current} of ${stepCount}` : "before the first step");
  document.getElementById("clock").textContent = current ? `Step ${current} of ${stepCount}` : "Before step 1";
  drawSummary(current);
  drawText(current);
  drawTimeline(current);
  drawHeat(current);
  for (const drawn of driftCharts) drawDrift(drawn, current);
}

function goTo(step) {
  const wanted = Math.min(stepCount, Math.max(0, Math.round(step) || 0));
  hideTooltip();
  if (wanted !== current) { current = wanted; draw(); }
}

function pause() {
  clearTimeout(timer);
  timer = null;
  playButton.classList.remove("playing");
  playButton.setAttribute("aria-label", "Play");
}

function tick() {
  if (current >= stepCount) return pause();
  goTo(current + 1);
  timer = setTimeout(tick, Number(document.getElementById("speed").value));
}

function toggle() {
  if (timer !== null) return pause();
  playButton.classList.add("playing");
  playButton.setAttribute("aria-label", "Pause");
  if (current >= stepCount) goTo(0);
  timer = setTimeout(tick, 250);
}

slider.addEventListener("input", () => { pause(); goTo(Number(slider.value)); });
playButton.addEventListener("click", toggle);
const MOVES = { first: () => 0, back: () => current - 1, forward: () => current + 1, last: () => stepCount };
for (const [id, move] of Object.entries(MOVES)) {
  document.getElementById(id).addEventListener("click", () => { pause(); goTo(move()); });
}

const KEYS = {
  ArrowLeft: () => current - 1, ArrowRight: () => current + 1, Home: () => 0, End: () => stepCount,
  PageUp: () => current - 10, PageDown: () => current + 10,
};
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const target = event.target, typed = target.matches("select, textarea, input[type=radio]");
  if (event.key === " " && !target.matches("button, summary, input, select, textarea")) { event.preventDefault(); toggle(); return; }
  if (!(event.key in KEYS) || typed) return;
  event.preventDefault();
  pause();
  goTo(KEYS[event.key]());
});

let resizing = null;
window.addEventListener("resize", () => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(draw);
});
redraws.push(draw);
draw();
