// One tooltip for the whole page.
const tooltip = document.getElementById("tooltip");

function showTooltip(event, text) {
  tooltip.textContent = text;
  tooltip.hidden = false;
  const box = tooltip.getBoundingClientRect(), gap = 14;
  const left = Math.min(event.clientX + gap, window.innerWidth - box.width - 8);
  const below = event.clientY + gap + box.height < window.innerHeight;
  tooltip.style.left = `${Math.max(8, left)}px`;
  tooltip.style.top = `${below ? event.clientY + gap : event.clientY - gap - box.height}px`;
}

const hideTooltip = () => { tooltip.hidden = true; };
window.addEventListener("scroll", hideTooltip, { passive: true });

function describe(position, step) {
  const token = tokensAfter[step][position], lines = [];
  if (isGiven(position)) lines.push(`${quoted(token)}  ·  ${position < promptLength ? "prompt" : "given"}, position ${position}`);
  else {
    const at = committedAt(position), guess = step ? guessAt(position, step - 1) : null;
    if (token !== record.mask) lines.push(`${quoted(token)}  ·  position ${position}`);
    else lines.push(`blank  ·  position ${position}`);
    if (token !== record.mask && (at < 0 || at >= step)) lines.push("filled in behind the end of the text");
    else if (at >= 0 && at < step) {
      lines.push(`decided at step ${at + 1}, ${percent(confidenceAt(position) || 0)} sure`);
      if (token === record.mask) lines.push("decided to stay empty");
    } else if (guess) lines.push(`guess: ${quoted(guess.token)}, ${percent(guess.confidence)} sure`);
    else if (at >= 0) lines.push(`will be decided at step ${at + 1}`);
  }
  lines.push(`computed ${percent(computed.ofPosition[position] / (layers * stepCount))} of the time`);
  return lines.join("\n");
}

// What step `step` predicted at a position; null where it predicted nothing.
function guessAt(position, step) {
  const { positions, tokens, confidence } = candidates[step];
  let low = 0, high = positions.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (positions[middle] < position) low = middle + 1; else high = middle;
  }
  if (positions[low] !== position) return null;
  return { token: tokens[low], confidence: confidence[low] / 65535 };
}
