// What the size under the slider means, the sizes that can be reached with one click, and a target instead of a size.
import { data, full, inMegabytes, isExact, megabytes, named, rowAt, table, worse } from "./data.js";
import { find, findAll } from "./dom.js";
import { onMode } from "./modes.js";
import { fixed, perplexity } from "./numbers.js";
import { clamp, follow, go, position, share } from "./slider.js";
import { connect } from "./speed.js";

const ROUND = [8, 6.5, 5, 4, 3, 2.5, 2, 1.6, 1.3, 1]; // about evenly spaced on a logarithmic track
const [WIDE, GAP, NARROWEST] = [6.5, 6, 330]; // pixels: a digit, what stays free between labels, the track on a phone

/** @param {Part<SpeedMessage>} part */
export function readouts(part) {
  const cells = findAll(part.element, "[data-key]");
  const figures = findAll(part.element, "[data-figure]");
  const show = () => {
    const row = rowAt(position());
    for (const figure of figures) {
      const [value, more] = worded(figure.dataset.figure ?? "", row);
      find(figure, "b").textContent = value;
      find(figure, "dd span").textContent = more;
    }
    for (const cell of cells) cell.textContent = shown(cell.dataset.key ?? "", row);
    const slider = document.querySelector("#size input[type=range]");
    slider?.setAttribute("aria-valuetext", figures.map(spoken).join(", "));
  };
  drawTicks(find(part.element, ".ticks"));
  onMode(() => drawTicks(find(part.element, ".ticks")));
  aim(find(part.element, ".aim"));
  const details = find(part.element, "details");
  details.addEventListener("toggle", () => details.matches("[open]") && keepTexts());
  follow(show);
  show();
  connect(part);
}

/** On a phone the slider's panel grows upwards over the texts: the page scrolls by what it would hide of them. */
function keepTexts() {
  const panel = find(document, ".column > #size-group");
  if (getComputedStyle(panel).position !== "fixed") return;
  const hidden = find(document, "#completion").getBoundingClientRect().bottom - panel.getBoundingClientRect().top;
  if (hidden > 0) scrollBy({ top: hidden, behavior: "instant" });
}

/** @param {HTMLElement} figure */
const spoken = (figure) =>
  `${find(figure, "dt").textContent}: ${find(figure, "b").textContent} ${find(figure, "dd span").textContent}`.trim();

/**
 * One of the three figures: its value, and what it is a share or a multiple of.
 * @param {string} figure
 * @param {Row} row
 * @returns {[value: string, more: string]}
 */
function worded(figure, row) {
  if (figure === "size") return [inMegabytes(megabytes(row.percent)), shares(row)];
  if (figure === "worse") return worse(row);
  if (isExact(row)) return ["100 %", "of the time"];
  return row.agreement === null || row.agreement === undefined
    ? ["–", "not measured"]
    : [`${fixed(100 * row.agreement, 0)} %`, "of the time"];
}

/**
 * Of what a size is how many percent: the layers' share is smaller, as embeddings and head are not cut.
 * @param {Row} row
 */
function shares(row) {
  const published = (table.published ?? full.bytes) / 1e6;
  const share = Math.round((1000 * megabytes(row.percent)) / published) / 10;
  const whole = `${fixed(share, Number.isInteger(share) || share >= 99 ? 0 : 1)} % of ${inMegabytes(published)}`;
  return table.published === undefined && row !== full ? `${whole} (${row.percent} % of the layers)` : whole;
}
/**
 * @param {string} key of a tile
 * @param {Row} row
 */
function shown(key, row) {
  switch (key) {
    case "ratio":
      return fixed(row.ratio, 3);
    case "parameters":
      return `${fixed(row.parameters / 1e6, 1)} M`;
    case "megabytes":
      return `${fixed(row.bytes / 1e6, 0)} MB`;
    case "saved":
      return `${fixed(100 * row.saved, 1)} %`;
    case "divergence":
      return isExact(row) ? "0" : number(row.divergence);
    case "speed":
      return number(row.speed);
    default:
      return perplexity(row.perplexity[key.slice("ppl-".length)]);
  }
}

/** @param {number | null | undefined} value */
const number = (value) => (value === null || value === undefined ? "–" : value.toPrecision(3));

/** @param {HTMLElement} strip */
function drawTicks(strip) {
  strip.replaceChildren(...(table.published === undefined ? [] : byteTicks()));
  if (table.published !== undefined) return;
  const tens = [...Array(11).keys()].map((each) => 10 * each);
  const isMeasured = data.measured.length > 0;
  for (const percent of (isMeasured ? data.measured : tens).filter((each) => each === clamp(each))) {
    const tick = document.createElement("button");
    tick.type = "button";
    tick.className = percent % 10 ? "tick minor" : "tick";
    tick.style.setProperty("--at", String(share(percent)));
    tick.textContent = percent % 10 ? "" : String(percent);
    tick.title = `Go to ${percent} %${isMeasured ? ", measured" : ""}`;
    tick.setAttribute("aria-label", tick.title);
    tick.addEventListener("click", () => go(percent));
    strip.append(tick);
  }
}

/** On a track of megabytes: round sizes, the stretch on which nothing is lost, and the source file. */
function byteTicks() {
  const { exact = 0, published = 1, source } = table;
  const ticks = roundSizes(published).map(([percent, label]) => {
    const [tick, nearest] = [document.createElement("button"), clamp(percent)];
    tick.type = "button";
    tick.className = "tick";
    tick.textContent = label;
    tick.title = `Go to ${named(nearest)}, ${nearest} %`;
    tick.setAttribute("aria-label", tick.title);
    tick.style.setProperty("--at", String(Math.max(0, share(percent))));
    tick.addEventListener("click", () => go(nearest));
    return tick;
  });
  const marks = [];
  if (exact < 0.9 * published) marks.push(mark("free", (100 * exact) / published, "Nothing is lost from here on"));
  if (source && source < published)
    marks.push(mark("source", (100 * source) / published, `The source file, ${inMegabytes(source / 1e6)}`));
  return [...marks, ...ticks];
}

/**
 * The published size and as many round ones below it as a phone has room for, with their labels.
 * @param {number} published bytes
 * @returns {[percent: number, label: string][]} the smallest first
 */
function roundSizes(published) {
  /** @type {[percent: number, label: string][]} */
  const found = [];
  const width = (/** @type {string} */ label) => (WIDE * label.length + GAP) / NARROWEST;
  let [free, end] = [1 - width(named(full.percent)), Math.floor(Math.log10(published / 1e6))];
  found.push([full.percent, named(full.percent).replace(" MB", "")]);
  for (; ; end--) {
    for (const digit of ROUND) {
      const size = Number((digit * 10 ** end).toPrecision(2)); // without what powers of ten add in the last place
      const [percent, label] = [(1e8 * size) / published, String(size)];
      if (percent < 0.995 * table.rows[0].percent) return found.reverse(); // half a pixel beyond the end is at the end
      if (!(share(percent) <= free)) continue;
      found.push([percent, label]);
      free = share(percent) - width(label);
    }
  }
}

/**
 * @param {string} name its class
 * @param {number} percent
 * @param {string} title
 */
function mark(name, percent, title) {
  const element = document.createElement("i");
  element.className = name;
  element.title = title;
  element.style.setProperty("--at", String(share(percent)));
  return element;
}

/**
 * Marks the sizes whose text is complete.
 * @param {number[]} percents
 */
export function markReady(percents) {
  const strip = document.querySelector("#readouts .ready");
  if (!(strip instanceof HTMLElement) || strip.childElementCount === percents.length) return;
  const marks = percents.map((percent) => {
    const mark = document.createElement("i");
    mark.style.setProperty("--at", String(share(percent)));
    return mark;
  });
  strip.replaceChildren(...marks);
  strip.title = marks.length ? `${marks.length} sizes can be seen while dragging` : "";
}

/**
 * A target instead of a size: the largest size within a budget of bytes or parameters, the smallest within one of
 * perplexity. Shows what the slider's size has of it otherwise.
 * @param {HTMLElement} form
 */
function aim(form) {
  const number = find(form, "input", HTMLInputElement);
  const unit = find(form, "select", HTMLSelectElement);
  const reply = find(form, ".told");
  const show = () => {
    if (document.activeElement === number) return;
    const current = amount(unit.value, rowAt(position()));
    number.value = Number.isFinite(current) ? current.toFixed(digits(unit.value)) : "";
  };
  const reach = () => {
    const target = Number(number.value);
    if (number.value === "" || !Number.isFinite(target)) return;
    const within = table.rows.filter((row) => amount(unit.value, row) <= target + 0.5 * 10 ** -digits(unit.value));
    const most = within[within.length - 1]; // rows come smallest first
    const alike = unit.value === "bytes" ? within.find((row) => row.bytes === most?.bytes) : most;
    const best = unit.value.startsWith("ppl-") ? within[0] : alike;
    const nearest = best ?? table.rows.reduce((a, b) => (amount(unit.value, b) < amount(unit.value, a) ? b : a));
    reply.textContent = best ? "" : `not reachable: ${reason(unit.value, nearest)}`;
    if (nearest.percent !== position()) go(nearest.percent);
  };
  number.addEventListener("change", reach);
  number.addEventListener("blur", show);
  unit.addEventListener("change", () => {
    reply.textContent = "";
    show();
  });
  follow(() => {
    if (document.activeElement !== number) reply.textContent = "";
    show();
  });
  show();
}

/**
 * What a size has of a unit: megabytes, millions of parameters, or percent of perplexity above the full model's.
 * @param {string} unit
 * @param {Row} row
 */
function amount(unit, row) {
  if (unit === "bytes" || unit === "parameters") return row[unit] / 1e6;
  const corpus = unit.slice("ppl-".length);
  return 100 * (row.perplexity[corpus] / full.perplexity[corpus] - 1);
}

/**
 * Digits behind the point that make three figures of the full model's amount.
 * @param {string} unit
 */
const digits = (unit) => Math.max(0, 2 - Math.floor(Math.log10(Math.abs(amount(unit, full)) || 10)));

/**
 * Why a target cannot be reached, by the size that comes nearest.
 * @param {string} unit
 * @param {Row} row
 */
function reason(unit, row) {
  const value = amount(unit, row);
  const least = fixed(Math.abs(value), digits(unit));
  if (unit.startsWith("ppl-")) return `${named(row.percent)} is ${least} % ${value < 0 ? "better" : "worse"}`;
  return `even ${named(row.percent)} has ${least} ${unit === "bytes" ? "MB" : "million"}`;
}
