// Bars above the slider: how many rows each step computed, and why.
const timeline = document.getElementById("timeline");
const THUMB = 8;  // half the slider's knob, so that bars stand above the knob's places

function timelineX(step, width) {
  return THUMB + (stepCount ? step / stepCount : 0) * (width - 2 * THUMB);
}

const reasonColor = (reason) => color(reason === "none" ? "computed" : reason);

function drawTimeline(step) {
  const { context, width, height } = prepare(timeline, 34), most = layers * length;
  const bar = Math.max(1, Math.min(16, (width - 2 * THUMB) / stepCount - (stepCount > 150 ? 0 : 1)));
  for (let number = 1; number <= stepCount; number++) {
    const tall = Math.max(1.5, (height - 4) * computed.total[number - 1] / most);
    context.globalAlpha = number === step ? 1 : number < step ? 0.75 : 0.3;
    context.fillStyle = reasonColor(reasonOf(number - 1));
    context.fillRect(timelineX(number, width) - bar / 2, height - tall, bar, tall);
  }
  context.globalAlpha = 1;
  context.fillStyle = color("ink");
  context.fillRect(timelineX(step, width) - 0.75, 0, 1.5, height);
  const shown = Object.keys(REASONS).filter((reason) => counts[reason]);
  document.getElementById("timeline-legend").replaceChildren("Bars: rows computed at each step",
    ...(record.cache === "none" ? [] : shown.map((reason) => key(REASONS[reason], { background: reasonColor(reason) }))));
}

timeline.addEventListener("mousemove", (event) => {
  const number = stepUnder(event);
  if (!number) return hideTooltip();
  showTooltip(event, `Step ${number}: ${percent(computed.total[number - 1] / (layers * length))} of the rows${record.cache === "none" ? "" : `\n${REASONS[reasonOf(number - 1)]}`}`);
});
timeline.addEventListener("mouseleave", hideTooltip);
timeline.addEventListener("click", (event) => goTo(stepUnder(event)));

function stepUnder(event) {
  const share = (pointer(timeline, event).x - THUMB) / (timeline.clientWidth - 2 * THUMB);
  return Math.min(stepCount, Math.max(0, Math.round(share * stepCount)));
}
