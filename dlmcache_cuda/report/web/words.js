// What the page says in words.
const percent = (share) => {
  const value = 100 * share;
  return `${value === 0 || value === 100 ? value : value.toFixed(value < 10 || value > 99 ? 1 : 0)} %`;
};
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const piece = (token) => record.pieces[token];
const quoted = (token) => `“${piece(token).trim() || piece(token).replace(/\n/g, "↵")}”`;
const isSpecial = (token) => token !== record.mask && /^(<\|.*\|>|<\/?s>|<[a-z_]+>|⟨\d+⟩)$/i.test(piece(token).trim());

const CACHES = {
  none: "It used no cache: every position is computed again in every layer at every step.",
  prefix: "What stands before the current block is kept; the block and everything behind it is computed at every step. When a block begins, everything is computed once.",
  dual: "Only the current block is computed; what stands before and behind it is kept. When a block begins, everything is computed once.",
  "dkv-decode": "Decided tokens are kept, one step after they were decided; blanks are computed at every step, and everything every few steps.",
  "dkv-greedy": "It computes what is decided now, what was decided just before, and a few blanks around; everything every few steps.",
  "dkv-prefill": "The prompt is computed once and kept; the text being written is computed at every step.",
  "dkv-pd": "The prompt is computed once and kept, and decided tokens are kept one step after they were decided.",
  elastic: "It watches a few tokens that get most of the attention. While they look alike from step to step, the cache is good enough; in the layer where they change too much, everything above is computed again.",
  spa: "In every layer it computes only the positions that changed most since the step before, as many as the layer's budget allows; everything at longer intervals.",
  dllm: "Prompt and answer are computed again at intervals of their own; in between, only the positions of the answer that changed most.",
  d2: "It computes the blanks that are likely to be decided next, what was just decided, and the positions that most attention flows to.",
  composed: "It watches a few tokens to find out when and from which layer on the cache is stale, and then computes only the positions that changed most.",
};

const REASONS = {
  start: "first step: nothing is cached yet",
  schedule: "scheduled refresh",
  drift: "refresh because of drift",
  none: "reuses the cache",
};
// Without a cache every step computes everything, which is no refresh.
const reasonOf = (step) => (record.cache !== "none" && record.steps[step].reason) || "none";

const GLOSSARY = {
  "token": "A piece of text: a word, a part of one, or a sign.",
  "mask, blank": "A position that is not decided yet. The model starts with nothing but blanks behind the prompt.",
  "step": "One pass through the model. It guesses every blank it looks at and decides some of them for good.",
  "confidence": "The probability that the model gives to its own guess. Surer guesses are usually decided first.",
  "layer": "The model is a stack of layers; each one takes what the layer below made of every position.",
  "cache": "What the layers made of a position at an earlier step. Using it again costs nothing but may be out of date.",
  "row": "One position in one layer: the unit of work. Without a cache, each step computes all of them.",
  "refresh": "A step that computes rows again although they are cached, because it is time or because they have drifted.",
  "drift": "How far something cached is from what computing it again would give.",
  "block": "Texts may be written block by block, from left to right; only the current block is decided.",
};

const STOPS = {
  end_of_text: "it wrote an end of text",
  length: "all steps were made",
  stalled: "nothing more was decided",
};
