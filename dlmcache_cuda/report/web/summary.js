// The head of the page, the sentence about the current step, and the details at its end.
const counts = { start: 0, schedule: 0, drift: 0, none: 0 };
for (let step = 0; step < stepCount; step++) counts[reasonOf(step)]++;

(function writeHead() {
  const share = record.rows_computed / Math.max(1, record.rows_vanilla);
  document.getElementById("lead").append(
    element("strong", {}, record.model), " starts with blanks and fills them in, in any order, over ",
    element("strong", {}, plural(stepCount, "step")), ". At each step it would have to look at the whole text again; a cache spares it most of that. ",
    "This run used the cache ", element("strong", {}, record.cache), ". ", CACHES[record.cache] || "");
  const refreshes = counts.start + counts.schedule + counts.drift;
  const tiles = [
    [plural(record.visible, "token"), `written; it stopped because ${STOPS[record.stop_reason] || record.stop_reason}`],
    [plural(record.forwards, "step"), `passes through the model, ${(record.visible / record.forwards).toFixed(2)} tokens per pass`],
    [percent(share), "of the rows that would be computed without a cache; a row is one position in one layer"],
  ];
  if (record.cache !== "none") {
    tiles.push(
      [`${(1 / share).toFixed(1)}×`, `less work: ${record.rows_computed.toLocaleString("en")} of ${record.rows_vanilla.toLocaleString("en")} rows`],
      [`${refreshes} refresh${refreshes === 1 ? "" : "es"}`, `${counts.start} to begin with, ${counts.schedule} by schedule, ${counts.drift} because of drift`]);
  }
  document.getElementById("tiles").append(...tiles.map(([value, text]) =>
    element("div", {}, element("dt", {}, text), element("dd", {}, value))));
  document.getElementById("words").append(...Object.entries(GLOSSARY).flatMap(([word, text]) =>
    [element("dt", {}, word), element("dd", {}, text)]));
  const shown = (value) => value === null ? "none" : typeof value === "object" ? JSON.stringify(value) : String(value);
  const row = (name, value) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, shown(value)));
  document.getElementById("settings").append(
    row("model", record.model), row("layers", layers), row("prompt tokens", promptLength), row("cache", record.cache),
    ...Object.entries(record.settings).map(([name, value]) => row(`cache: ${name}`, value)),
    ...Object.entries(record.decoding).map(([name, value]) => row(name, value)));
})();

// The table is long and seldom wanted: it is made when it is opened.
document.getElementById("token-box").addEventListener("toggle", (event) => {
  const table = document.getElementById("token-table");
  if (!event.target.open || table.rows.length) return;
  const cells = (tag, ...values) => element("tr", {}, ...values.map((value, n) =>
    element(tag, n === 1 && tag === "td" ? { className: "piece" } : {}, value)));
  table.append(cells("th", "position", "token", "id", "decided at step", "confidence", "computed"));
  for (let position = promptLength; position < length; position++) {
    const token = tokensAfter[stepCount][position], at = committedAt(position), sure = confidenceAt(position);
    table.append(cells("td", String(position), token === record.mask ? "blank" : piece(token), String(record.ids[token]),
      isGiven(position) ? "given" : at < 0 ? "never" : String(at + 1), sure === null ? "" : percent(sure),
      percent(computed.ofPosition[position] / (layers * stepCount))));
  }
});

function drawSummary(step) {
  const title = document.getElementById("now-title"), now = document.getElementById("now");
  if (step === 0) {
    title.textContent = "Before the first step";
    now.textContent = `There is the prompt, and behind it ${plural(length - promptLength - givenPositions.size, "blank")}${givenPositions.size ? " between given text" : ""}. Press play, or move the slider.`;
    return;
  }
  const made = record.steps[step - 1], reason = reasonOf(step - 1), vanilla = layers * length;
  title.textContent = `Step ${step} of ${stepCount}: ${record.cache === "none" ? "everything is computed" : REASONS[reason]}`;
  const share = computed.total[step - 1] / vanilla, few = 6;
  const words = made.tokens.slice(0, few).map(quoted).join(", ");
  const more = made.tokens.length > few ? ` and ${made.tokens.length - few} more` : "";
  const sentences = [
    `The model guessed ${plural(candidates[step - 1].positions.length, "blank")} and decided ${made.tokens.length ? `${made.tokens.length}: ${words}${more}.` : "none."}`,
    share === 1 ? "All rows were computed." : `${percent(share)} of the rows were computed, the others came from the cache.`,
  ];
  if (record.cache !== "none") {
    const [begin, end] = made.entered;
    if (reason === "start") sentences.push("It is the first step, so nothing could be reused.");
    if (reason === "schedule") sentences.push(`The method's schedule asked for positions ${begin} to ${end - 1} again.`);
    if (reason === "drift") {
      const low = made.similarity && made.similarity[made.boundary - 1];
      sentences.push(`In layer ${made.boundary} the watched tokens were only ${low == null ? "less" : low} alike (threshold ${record.gamma})` +
        (made.boundary < layers ? `, so the layers from ${made.boundary + 1} on were computed again.` : "; there is no layer above it."));
    }
  }
  const left = tokensAfter[step].reduce((sum, token, position) => sum + (position >= promptLength && token === record.mask), 0);
  sentences.push(left ? `${plural(left, "blank")} left.` : "No blanks are left.");
  now.textContent = sentences.join(" ");
}
