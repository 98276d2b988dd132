// The record, unpacked (report/payload.py packs it). Steps are counted from 0 here; the page shows
// them from 1, and 0 is what there was before the first one.
const record = JSON.parse(document.getElementById("record").textContent);

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function numbersOf(packed) {
  const words = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }[packed.bytes];
  return new words(bytesOf(packed.data).buffer);
}

function rowSetsOf(base64) {
  const bytes = bytesOf(base64), sets = [];
  let at = 0;
  const number = () => {
    let value = 0, unit = 1, byte;
    do { byte = bytes[at++]; value += (byte & 127) * unit; unit *= 128; } while (byte & 128);
    return value;
  };
  while (at < bytes.length) {
    const head = number(), count = head >> 1, rows = [];
    if (head & 1) {
      const first = number();
      for (let bit = 0; bit < 8 * count; bit++) {
        if (bytes[at + (bit >> 3)] & (1 << (bit & 7))) rows.push(first + bit);
      }
      at += count;
    } else {
      for (let range = 0, row = 0; range < count; range++) {
        row += number();
        for (let left = number(); left > 0; left--) rows.push(row++);
      }
    }
    sets.push(Uint32Array.from(rows));
  }
  return sets;
}

// By step and position, 255 for the most important position of a step; null where none was recorded.
const importance = record.importance && numbersOf(record.importance);
const givenPositions = new Set(record.given.map(([position]) => position));
const layers = record.layers, length = record.length, stepCount = record.steps.length;
const promptLength = record.prompt.length;
const rowSets = rowSetsOf(record.row_sets);
const rowNumbers = numbersOf(record.rows);
const rowsOf = (step, layer) => rowSets[rowNumbers[step * layers + layer]];

// Candidates of a step: positions, the number of the token predicted at each, and its confidence.
const candidates = (() => {
  const sets = numbersOf(record.candidates), tokens = numbersOf(record.predicted);
  const confidence = numbersOf(record.candidate_confidence), list = [];
  for (let step = 0, from = 0; step < stepCount; step++) {
    const positions = rowSets[sets[step]], to = from + positions.length;
    list.push({ positions, tokens: tokens.subarray(from, to), confidence: confidence.subarray(from, to) });
    from = to;
  }
  return list;
})();

// tokensAfter[k]: the number of the token at every position when k steps are done.
const tokensAfter = (() => {
  const now = new Uint32Array(length).fill(record.mask);
  now.set(record.prompt);
  for (const [position, token] of record.given) now[position] = token;
  const states = [now.slice()];
  for (const step of record.steps) {
    step.written.forEach((position, n) => { now[position] = step.tokens[n]; });
    states.push(now.slice());
  }
  return states;
})();

// How often each row was computed: by layer and position, by step and position, by step, by position.
const computed = (() => {
  const ofLayer = new Uint32Array(layers * length), ofStep = new Uint16Array(stepCount * length);
  const total = new Float64Array(stepCount), ofPosition = new Uint32Array(length);
  for (let step = 0; step < stepCount; step++) {
    for (let layer = 0; layer < layers; layer++) {
      const rows = rowsOf(step, layer);
      total[step] += rows.length;
      for (const row of rows) { ofLayer[layer * length + row]++; ofStep[step * length + row]++; }
    }
    for (let row = 0; row < length; row++) ofPosition[row] += ofStep[step * length + row];
  }
  return { ofLayer, ofStep, total, ofPosition };
})();

const isGiven = (position) => position < promptLength || givenPositions.has(position);
const committedAt = (position) => position < promptLength ? -1 : record.commit_step[position - promptLength];
const confidenceAt = (position) => position < promptLength ? null : record.confidence[position - promptLength];
