// Light and dark: the system's choice until the button is used. Charts ask for colours here.
const root = document.documentElement;
const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
const redraws = [];

function setTheme(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  for (const redraw of redraws) redraw();
}

let chosen = false;
root.dataset.theme = systemDark.matches ? "dark" : "light";
systemDark.addEventListener("change", () => { if (!chosen) setTheme(systemDark.matches); });
document.getElementById("theme").addEventListener("click", () => {
  chosen = true;
  setTheme(root.dataset.theme !== "dark");
});

const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

const RAMPS = {
  when: {
    light: ["#fff3c4", "#b5e2b6", "#52b6c2", "#3a7fc0", "#39408f"],
    dark: ["#3d3a6b", "#2f6790", "#2a9a8c", "#7cc766", "#f0e05c"],
  },
  sure: { light: ["#e8590c", "#ffc078", "#fdeccc", "#d6efe6"], dark: ["#ff7a2f", "#a8611f", "#54462c", "#20423d"] },
  heat: { light: ["#e6eaf0", "#a9c4ec", "#3b6fd4", "#142f6b"], dark: ["#262b35", "#2b4a86", "#5b8def", "#c9dcff"] },
};

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

// The colour of a share from 0 to 1, as [red, green, blue].
function ramp(name, share) {
  const stops = RAMPS[name][root.dataset.theme].map(channels);
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((value, n) => Math.round(value + (at - low) * (stops[low + 1][n] - value)));
}

const css = (rgb) => `rgb(${rgb.join(" ")})`;
const inkOn = (rgb) => (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 140 ? "#15171c" : "#ffffff");
const gradient = (name) => `linear-gradient(90deg, ${RAMPS[name][root.dataset.theme].join(",")})`;

// Elements without any markup from text: the page never parses what a model wrote.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") Object.assign(made.style, value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const key = (text, style, className = "") => element("span", { className: "key" }, element("i", { className, style }), text);
const rampKey = (name, from, to) => element("span", { className: "key" },
  from, element("i", { className: "ramp", style: { background: gradient(name), width: "130px", height: "10px" } }), to);

// A row of radio buttons; calls back with the chosen name.
function choices(id, group, options, selected, onChoice) {
  document.getElementById(id).append(...Object.entries(options).map(([name, label]) => {
    const input = element("input", { type: "radio", name: group, value: name, checked: name === selected });
    input.addEventListener("change", () => onChoice(name));
    return element("label", {}, input, label);
  }));
}
