// Plotly figures in the colors around them and as large as their place, and galleries of them, for the page and the report.
// This file imports nothing, because the report holds it whole.

// ---- one figure ------------------------------------------------------------------------------------------------------
/** @type {WeakMap<HTMLElement, Promise<unknown>>} */
const latest = new WeakMap(); // change of a plot
/** @type {Set<HTMLElement>} */
const drawn = new Set();

const colors = () => {
  const style = getComputedStyle(document.body);
  const text = style.getPropertyValue("--body-text-color").trim() || "#333";
  const grid = style.getPropertyValue("--border-color-primary").trim() || "#ddd";
  const axis = (/** @type {string} */ name) => ({
    [`${name}.gridcolor`]: grid,
    [`${name}.linecolor`]: grid,
    [`${name}.tickcolor`]: grid,
  });
  const clear = "rgba(0,0,0,0)";
  return { "font.color": text, paper_bgcolor: clear, plot_bgcolor: clear, ...axis("xaxis"), ...axis("yaxis") };
};

/** @param {Layout} layout */
function colored(layout) {
  const copy = structuredClone(layout);
  for (const [path, value] of Object.entries(colors())) {
    const [part, key] = path.split(".");
    copy[part] = key ? { .../** @type {object} */ (copy[part]), [key]: value } : value;
  }
  return copy;
}

/**
 * Runs `act` once all former changes of a plot are through: Plotly loses its margins when they overlap.
 * @param {HTMLElement} plot
 * @param {() => unknown} act
 */
export function change(plot, act) {
  const next = (latest.get(plot) ?? Promise.resolve()).then(() => plot.isConnected && act());
  latest.set(
    plot,
    next.catch(() => {}),
  );
  return next;
}

async function library() {
  while (!window.Plotly) await new Promise((done) => setTimeout(done, 50));
}

/** @param {HTMLElement} element */
function fit(element) {
  const plot = /** @type {Plot} */ (element);
  const isWrong = () => {
    const { width, height } = plot._fullLayout;
    return plot.clientWidth && (plot.clientWidth !== width || plot.clientHeight !== height);
  };
  change(plot, () => isWrong() && Plotly.Plots.resize(plot)).catch(() => {}); // it was hidden meanwhile
}

/**
 * Draws a figure, or draws it anew.
 * @param {HTMLElement} plot
 * @param {Trace[]} data
 * @param {Layout} layout
 */
export function draw(plot, data, layout) {
  return change(plot, async () => {
    await library();
    followColors();
    await Plotly.react(plot, data, colored(layout), { displayModeBar: false, showTips: false });
    if (drawn.has(plot)) return;
    drawn.add(plot);
    new ResizeObserver(() => fit(plot)).observe(plot); // columns settle late
  });
}

function recolor() {
  for (const plot of drawn) {
    if (!plot.isConnected) drawn.delete(plot);
    else change(plot, () => Plotly.relayout(plot, colors()));
  }
}

let isFollowing = false;
function followColors() {
  if (isFollowing) return;
  isFollowing = true;
  new MutationObserver(recolor).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
}

// ---- galleries -------------------------------------------------------------------------------------------------------
const MANY = 8; // traces; a legend of more needs room
const NARROW = 600; // pixels
/** @type {Map<HTMLElement, Frames>} */
const moving = new Map(); // plots, and what of them moves with the slider
/** @type {number | null} */
let percent = null;
let isWaiting = false;

/** @type {{ plot: HTMLElement, figure: Figure, frames: Frames | null | undefined }[]} */
const queue = [];
let isBusy = false;

// Figures are drawn one at a time, with a pause between them in which the page answers.
function next() {
  const first = queue.shift();
  isBusy = first !== undefined;
  if (!first) return;
  const { plot, figure, frames } = first;
  if (!plot.isConnected) return next();
  draw(plot, figure.data, figure.layout)
    .then(() => {
      if (frames) moving.set(plot, frames);
      move();
      plot.dataset.ready = "true";
    })
    .finally(() => setTimeout(next, 0));
}

function move() {
  isWaiting = false;
  for (const [plot, frames] of moving) {
    if (!plot.isConnected) moving.delete(plot);
    else if (plot.clientWidth && plot.dataset.percent !== String(percent)) {
      for (const [trace, values] of frames[String(percent)] ?? []) {
        const update = Object.fromEntries(Object.entries(values).map(([key, value]) => [key, [value]]));
        change(plot, () => Plotly.restyle(plot, update, [trace]));
      }
      plot.dataset.percent = String(percent);
    }
  }
}

/**
 * Shows all figures as they are at a place of the slider, in the next frame.
 * @param {number} now
 */
export function moveTo(now) {
  percent = now;
  if (isWaiting || !moving.size) return;
  isWaiting = true;
  requestAnimationFrame(move);
}

/**
 * A list of pictures below one another or side by side; titles and notes are set as text.
 * @param {HTMLElement} element
 * @param {Picture[]} pictures
 */
export function gallery(element, pictures) {
  element.replaceChildren(...pictures.map((picture) => framed(picture, element.clientWidth)));
  if (!isBusy) next();
}

/**
 * @param {Picture} picture
 * @param {number} width of the gallery
 */
function framed({ title, note, figure, frames, choices }, width) {
  const part = document.createElement("figure");
  const plot = document.createElement("div");
  part.append(textual("h3", title), ...(figure ? [plot] : []), textual("figcaption", note));
  if (!figure) return part; // a sentence in its place
  const isLong = figure.data.length > MANY;
  part.classList.toggle("wide", isLong);
  if (figure.layout.height && isLong && width < NARROW) figure.layout.height += 220; // one name a line
  if (figure.layout.height) plot.style.height = `${figure.layout.height}px`;
  plot.className = "plot";
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", title);
  queue.push({ plot, figure, frames });
  if (choices) plot.before(chooser(plot, title, choices));
  return part;
}

/**
 * @param {string} tag
 * @param {string} text
 */
function textual(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

/**
 * What of a picture is looked at alone.
 * @param {HTMLElement} plot
 * @param {string} title
 * @param {[string, number[]][]} choices
 */
function chooser(plot, title, choices) {
  const select = document.createElement("select");
  select.setAttribute("aria-label", `${title}: what is shown`);
  select.append(...choices.map(([name]) => new Option(name)));
  select.addEventListener("change", async () => {
    const shown = new Set(choices[select.selectedIndex][1]);
    const visible = /** @type {Plot} */ (plot).data.map((_, i) => shown.has(i));
    await change(plot, () => Plotly.restyle(plot, { visible }));
    plot.dataset.shown = select.value;
  });
  return select;
}
