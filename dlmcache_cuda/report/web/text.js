// The text as it stood, coloured by what is asked for.
const TEXT_MODES = {
  plain: ["Plain", "The text as it stood after this step. Grey italics are guesses that may still change."],
  when: ["When decided", "Each token has the colour of the step that decided it. Neighbours need not be decided together, nor from left to right."],
  sure: ["How sure", "Each token has the colour of the model's confidence when it was decided: the more orange, the less sure."],
  work: ["Recomputed now", "How many of the layers computed each position again at this step; pale ones came from the cache."],
};
let textMode = "when";

const spans = [];
(function makeTokens() {
  const show = (event) => {
    const span = event.target.closest(".token");
    if (span) showTooltip(event, describe(Number(span.dataset.position), current)); else hideTooltip();
  };
  for (const id of ["prompt", "text"]) {
    const box = document.getElementById(id);
    box.addEventListener("mousemove", show);
    box.addEventListener("click", show);
    box.addEventListener("mouseleave", hideTooltip);
  }
  for (let position = 0; position < length; position++) {
    const span = element("span", { className: "token" });
    span.dataset.position = position;
    spans.push(span);
  }
  document.getElementById("prompt").append(...spans.slice(0, promptLength));
  document.getElementById("text").append(...spans.slice(promptLength));
  document.getElementById("prompt-size").textContent = plural(promptLength, "token");
  document.getElementById("prompt-box").open = promptLength <= 160;
  choices("text-modes", "text-mode", Object.fromEntries(Object.entries(TEXT_MODES).map(([name, [label]]) => [name, label])),
    textMode, (name) => { textMode = name; drawText(current); });
  document.getElementById("guesses").addEventListener("change", () => drawText(current));
})();

// The background of a token, as [red, green, blue]; null for none.
function tokenShade(position, step) {
  if (textMode === "plain" || position < promptLength && textMode !== "work") return null;
  if (textMode === "work") return step ? ramp("heat", computed.ofStep[(step - 1) * length + position] / layers) : null;
  const at = committedAt(position);
  if (at < 0 || at >= step) return null;
  if (textMode === "when") return ramp("when", stepCount > 1 ? at / (stepCount - 1) : 0);
  return ramp("sure", confidenceAt(position) || 0);
}

function drawText(step) {
  const tokens = tokensAfter[step], before = tokensAfter[Math.max(0, step - 1)];
  const guesses = document.getElementById("guesses").checked;
  for (let position = 0; position < length; position++) {
    const span = spans[position], token = tokens[position], names = ["token"];
    let text = piece(token);
    if (position >= promptLength && token === record.mask) {
      const guess = guesses && step ? guessAt(position, step - 1) : null;
      const decided = committedAt(position) >= 0 && committedAt(position) < step;
      if (guess && !decided && guess.token !== record.mask && !isSpecial(guess.token)) { names.push("blank"); text = piece(guess.token); }
      else { names.push("empty"); text = ""; }
    } else if (isSpecial(token)) { names.push("special"); text = text.trim().replace(/[<>|⟨⟩]/g, ""); }
    if (position === 0 || position === promptLength) text = text.replace(/^ /, "");
    if (position >= promptLength && givenPositions.has(position)) names.push("given");
    if (step && token !== before[position]) names.push("new");
    span.className = names.join(" ");
    if (span.textContent !== text) span.textContent = text;
    const shade = names.includes("empty") && textMode !== "work" ? null : tokenShade(position, step);
    span.style.background = shade ? css(shade) : "";
    span.style.color = shade ? inkOn(shade) : "";
  }
  document.getElementById("text-hint").textContent = TEXT_MODES[textMode][1];
  const legend = [key("decided just now", {}, "ring"), key("blank", {}, "dash")];
  if (givenPositions.size) legend.push(key("given with the prompt", {}, "given"));
  if (textMode === "when") legend.unshift(rampKey("when", "step 1", `step ${stepCount}`));
  if (textMode === "sure") legend.unshift(rampKey("sure", "0 % sure", "100 %"));
  if (textMode === "work") legend.unshift(rampKey("heat", "no layer", "all layers"));
  document.getElementById("text-legend").replaceChildren(...legend);
}
