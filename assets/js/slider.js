// The slider: readouts and plots follow every movement within its event; what runs starts over once it has come to rest.
import { full, rowAt, smallest } from "./data.js";
import { find, write } from "./dom.js";

const SETTLE_MS = 80; // a held arrow key repeats faster than this
const PAGES = new Map([
  ["PageUp", 10],
  ["PageDown", -10],
]); // as screen readers say, and not a tenth of the slider's length

let percent = full.percent;
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
export const clamp = (value) => Math.min(Math.max(Math.round(value), smallest.percent), full.percent);

/**
 * Where a percentage lies on the slider, 0 to 1.
 * @param {number} value
 */
export const share = (value) => (value - smallest.percent) / (full.percent - smallest.percent);

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
  const next = clamp(value);
  if (!Number.isFinite(next) || next === percent) return;
  percent = next;
  repaint();
}

/** @param {number} value */
const set = (value) => write(find(document, "#size input[type=range]", HTMLInputElement), String(value));

/**
 * Moves to a size without running anything; returns where the slider can be.
 * @param {number} value
 */
export function show(value) {
  const known = clamp(value);
  set(known);
  moved(known);
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
    const typed = input.value === "" ? percent : Number(input.value);
    if (input.value === "" || typed !== clamp(typed)) write(input, String(clamp(typed)));
    settle();
  });
  document.addEventListener("keydown", (event) => {
    const step = PAGES.get(event.key);
    if (!step || !inputOf(event)) return;
    event.preventDefault();
    go(clamp(percent + step));
  });
}
