// The slider: readouts and plots follow every movement within its event; what runs starts over once it has come to rest.
import { data, full, mode, nearestIndex, rowAt, smallest, table } from "./data.js";
import { find, write } from "./dom.js";

const SETTLE_MS = 80; // a held arrow key repeats faster than this
const PAGES = new Map([
  ["PageUp", 10],
  ["PageDown", -10],
]); // places, as screen readers say, and not a tenth of the slider's length
const FIRST = data.rows[0].percent; // of the slider's own numbers: percent in the mode directions, places in the others

let percent = data.opening;
let settling = 0;
/** @type {((percent: number, row: Row) => void)[]} */
const followers = [];
let restart = () => {};

/** Where the slider is, in percent. */
export const position = () => percent;

/**
 * The nearest place the slider has.
 * @param {number} value
 */
export const clamp = (value) => table.rows[nearestIndex(value)].percent;

/**
 * The slider's own number for a percentage.
 * @param {number} value
 */
export const place = (value) => FIRST + nearestIndex(value);

/**
 * The percentage that the slider's own number means.
 * @param {number} value
 */
const meant = (value) => table.rows[Math.min(Math.max(Math.round(value) - FIRST, 0), table.rows.length - 1)].percent;

/**
 * Where a percentage lies on the slider, 0 to 1.
 * @param {number} value
 */
export const share = (value) =>
  mode() === "directions"
    ? (value - smallest.percent) / (full.percent - smallest.percent)
    : Math.log(value / smallest.percent) / Math.log(full.percent / smallest.percent);

/**
 * Calls on every movement.
 * @param {(percent: number, row: Row) => void} act
 */
export const follow = (act) => followers.push(act);

/** Calls all that follow, because what they show has changed. */
export function repaint() {
  for (const act of followers) act(percent, rowAt(percent));
}

/**
 * What starts over once the slider has come to rest.
 * @param {() => void} act
 */
export const onRest = (act) => (restart = act);

/** Starts over, unless this is called again within a moment. */
export function settle() {
  clearTimeout(settling);
  settling = setTimeout(() => restart(), SETTLE_MS);
}

/** @param {number} value */
function moved(value) {
  const next = meant(value);
  if (!Number.isFinite(value) || next === percent) return;
  percent = next;
  repaint();
}

/** @param {number} value */
const set = (value) => write(find(document, "#size input[type=range]", HTMLInputElement), String(place(value)));

/**
 * Stands at the nearest place to a size that the table in force has, without running anything.
 * @param {number} value
 */
export function stand(value) {
  percent = clamp(value);
  set(percent);
  repaint();
}

/**
 * Moves to a size without running anything; returns where the slider can be.
 * @param {number} value
 */
export function show(value) {
  const known = clamp(value);
  set(known);
  moved(place(known));
  return known;
}

/**
 * Moves to a size and runs it.
 * @param {number} value
 */
export function go(value) {
  set(value);
  settle();
}

/**
 * The slider or its number, where an event is one of theirs.
 * @param {Event} event
 */
const inputOf = ({ target }) => (target instanceof HTMLInputElement && target.closest("#size") ? target : null);

/** Listens to the slider from now on. */
export function listen() {
  document.addEventListener("input", (event) => {
    const input = inputOf(event);
    if (input && input.value !== "") moved(Number(input.value));
  });
  document.addEventListener("change", (event) => {
    const input = inputOf(event);
    if (!input) return;
    const typed = input.value === "" ? place(percent) : Number(input.value);
    if (input.value === "" || typed !== place(meant(typed))) write(input, String(place(meant(typed))));
    settle();
  });
  document.addEventListener("keydown", (event) => {
    const step = PAGES.get(event.key);
    if (!step || !inputOf(event)) return;
    event.preventDefault();
    go(meant(place(percent) + step));
  });
}
